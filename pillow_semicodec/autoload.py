"""Registration without an import, for those who ask for it: every program of an environment that imports Pillow knows SGC.

A ``.pth`` file, which Python runs when it starts, puts a finder in front of others that waits for ``PIL.Image``. A start
takes a fraction of a millisecond more; programs without Pillow never import this package.
"""

from __future__ import annotations

import site
import sysconfig
from pathlib import Path

MODULE, NAME = "_sgc_autoload", "sgc_autoload.pth"
SOURCE = '''"""Written by ``sgc autoload on``, removed by ``sgc autoload off``: registers SGC when Pillow is imported."""

import sys


class AfterPillow:
    asking = False  # others for the spec

    def find_spec(self, name, path=None, target=None):
        if name not in ("PIL.Image", "PIL.ImageFile") or self.asking:
            return None
        import importlib.util

        self.asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module):
                load(module)
                begun = sys.modules.get("PIL.ImageFile")
                if self not in sys.meta_path or (begun and not hasattr(begun, "ImageFile")):
                    return  # it has imported PIL.Image, and is not there itself yet
                sys.meta_path.remove(self)
                try:
                    import pillow_semicodec
                except Exception as error:  # whatever is wrong with it is no matter of programs that want Pillow
                    if getattr(error, "name", "") != "pillow_semicodec":  # uninstalled since
                        told = f"pillow_semicodec cannot be loaded: {error!r}; `sgc autoload off` ends the attempts"
                        print(told, file=sys.stderr)

            spec.loader.exec_module = load_and_register
        return spec


sys.meta_path.insert(0, AfterPillow())
'''


def folder() -> Path:
    """Where this environment keeps its packages; the user's own folder, if this package lies there."""
    own = site.getusersitepackages()
    if site.ENABLE_USER_SITE and Path(__file__).is_relative_to(own):
        return Path(own)
    return Path(sysconfig.get_path("purelib"))


def is_on(where: Path | None = None) -> bool:
    """Whether both files are there, which Python runs when it starts."""
    return all(path.exists() for path in _files(where or folder()))


def switch_on(where: Path | None = None) -> Path:
    """Write both files; returns the one that Python runs. May be called again.

    Raises:
        OSError: they cannot be written.
    """
    where = where or folder()
    module, path = _files(where)
    module.write_text(SOURCE, encoding="utf-8")
    path.write_text(f"import {MODULE}\n", encoding="utf-8")
    return path


def switch_off(where: Path | None = None) -> bool:
    """Remove them, if they are there; whether they were.

    Raises:
        OSError: they cannot be removed.
    """
    there = [path for path in _files(where or folder()) if path.exists()]
    for path in reversed(there):
        path.unlink(missing_ok=True)
    return bool(there)


def _files(where: Path) -> tuple[Path, Path]:
    """(module, what makes Python import it)."""
    return where / f"{MODULE}.py", where / NAME
