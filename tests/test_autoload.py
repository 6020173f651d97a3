"""Registration without an import: on, off, and cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pillow_semicodec import autoload
from pillow_semicodec.cli import main

ROOT = Path(__file__).parent.parent


def run(folder: Path, code: str) -> str:
    """What a fresh interpreter prints that has the folder among its packages."""
    start = f"import site, sys; sys.path[:] = {[str(ROOT), *sys.path]!r}; site.addsitedir({str(folder)!r})\n"
    result = subprocess.run(
        [sys.executable, "-S", "-c", start + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert not result.stderr, result.stderr
    return result.stdout.strip()


def test_on_and_off(tmp_path: Path) -> None:
    """Pillow knows the format as soon as it is imported, and not before; without Pillow nothing is imported."""
    known = "from PIL import Image; print('SGC' in Image.SAVE, Image.registered_extensions().get('.sgc'))"
    assert run(tmp_path, known) == "False None"
    autoload.switch_on(tmp_path)
    assert run(tmp_path, known) == "True SGC"
    for first in ("from PIL import ImageFile; ", "import PIL.ImageFile; ", "from PIL import ImageFile, ImageDraw; "):
        assert run(tmp_path, first + known) == "True SGC", first  # it imports PIL.Image before it is there itself
    asked = "import importlib.util; importlib.util.find_spec('PIL.Image'); "  # as those do who only want to know
    assert run(tmp_path, asked + known) == "True SGC"
    assert run(tmp_path, "import json; print([m for m in sys.modules if m.startswith(('PIL', 'pillow'))])") == "[]"
    assert run(tmp_path, "import pillow_semicodec; from PIL import Image; print('SGC' in Image.SAVE)") == "True"
    autoload.switch_on(tmp_path)
    assert autoload.switch_off(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not autoload.switch_off(tmp_path)
    assert run(tmp_path, known) == "False None"


def test_a_broken_package_breaks_no_other_program(tmp_path: Path) -> None:
    """It is told, and Pillow works, also where warnings are errors."""
    autoload.switch_on(tmp_path)
    (tmp_path / "first" / "pillow_semicodec").mkdir(parents=True)
    (tmp_path / "first" / "pillow_semicodec" / "__init__.py").write_text("import sys\nsys.no_such_name\n")
    lines = (
        f"import site, sys; sys.path.insert(0, {str(tmp_path / 'first')!r}); site.addsitedir({str(tmp_path)!r})",
        "from PIL import Image; print(Image.new('L', (2, 3)).size)",
    )
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.stdout.strip(), result.returncode) == ("(2, 3)", 0), result.stderr
    assert "no_such_name" in result.stderr and "autoload off" in result.stderr


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it wrote; a folder that cannot be written is told."""
    monkeypatch.setattr(autoload, "folder", lambda: tmp_path)
    assert main(["autoload", "on"]) == 0
    assert str(tmp_path / autoload.NAME) in capsys.readouterr().out
    assert main(["autoload"]) == 0
    assert capsys.readouterr().out == "on\n"
    assert main(["autoload", "off"]) == 0
    assert "as before" not in capsys.readouterr().out
    assert main(["autoload"]) == 0
    assert capsys.readouterr().out == "off\n"
    assert main(["autoload", "off"]) == 0
    assert "as before" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(autoload, "folder", lambda: tmp_path / "nowhere")
    assert main(["autoload", "on"]) == 1
    assert "nowhere" in capsys.readouterr().err
