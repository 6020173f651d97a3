"""The benchmark: SGC beside every other codec that is installed, on anybody's pictures. ``sgc bench`` runs it.

Needs the extra ``bench``.
"""
