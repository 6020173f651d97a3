"""Training, evaluation and export of pillow-semicodec models.

Nothing under ``pillow_semicodec`` or ``imageio_plugin`` imports this package; it needs PyTorch.
"""

import importlib.util

if importlib.util.find_spec("torch") is None:
    raise ImportError('training needs its extra: pip install -e ".[train]"')
