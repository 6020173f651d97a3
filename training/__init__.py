"""Training, evaluation and export of pillow-semicodec models.

Nothing under ``pillow_semicodec`` or ``imageio_plugin`` imports this package; it needs PyTorch.
"""
