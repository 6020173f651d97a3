"""Entropy coding: integers in, bytes out. Tables, the range coder over them, and the two models of the codec."""
