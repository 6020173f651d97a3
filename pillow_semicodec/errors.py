"""Exceptions of pillow-semicodec, by whose fault it is.

::

    SemicodecError                     never raised itself
    ├── FormatError (ValueError)       the file is wrong
    │   ├── TruncatedError             … it ends too early
    │   └── ChecksumError              … its bytes were changed
    ├── UnsupportedError               the file is fine, this build cannot read it
    │   └── UnknownModelError          … the model that wrote it is not installed
    ├── LimitExceededError             the file, or the picture, asks for more than the caller allows
    └── BundleError                    the installation is wrong: a model's part is missing or changed

Misuse of the API raises plain ``TypeError`` and ``ValueError``. Decoding any bytes gives a result or a
``SemicodecError``, never another exception. The Pillow plugin translates all of them once: see
``SemicodecImagePlugin``.
"""

from __future__ import annotations


class SemicodecError(Exception):
    """Base of all errors below; never raised itself."""


class FormatError(SemicodecError, ValueError):
    """The bytes are not a valid file."""


class TruncatedError(FormatError):
    """The file ends before it is complete."""


class ChecksumError(FormatError):
    """A checksum does not match: the file was damaged."""


class UnsupportedError(SemicodecError):
    """A valid file that this version cannot read."""


class UnknownModelError(UnsupportedError):
    """The model that a file names is not installed."""


class LimitExceededError(SemicodecError):
    """More pixels, bytes or records than ``Limits`` allow."""


class BundleError(SemicodecError):
    """A model bundle is incomplete, damaged or made for another version."""
