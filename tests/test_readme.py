"""Every Python and sgc example of README.md and REFERENCE.md runs, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import photo
from PIL import Image

from pillow_semicodec.cli import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "REFERENCE.md", "FEATURES.md")}
README = DOCUMENTS["README.md"]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", "".join(DOCUMENTS.values()), re.S)
NEIGHBOURS = {"torch", "torchvision", "datasets", "webdataset", "django"}  # may be absent; all else must be there


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the pictures that the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image.Image, "show", lambda self: self.load())
    Image.fromarray(photo(200, 240)).save("photo.png")
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    Image.fromarray(photo(60, 60)).save("pictures/deep/a.png")


@pytest.mark.filterwarnings("ignore:Exception ignored in.*shard.tar")  # webdataset leaves it open
@pytest.mark.parametrize("code", [code for kind, code in BLOCKS if kind == "python"])
def test_python_examples(code: str) -> None:
    """They run as printed, if the neighbours that they are about are installed."""
    for name in re.findall(r"^(?:import|from) (\w+)", code, re.M):
        if name in NEIGHBOURS:
            pytest.importorskip(name)
    if "photo.sgc" in code:
        Image.open("photo.png").save("photo.sgc")
    if '"small"' in code:
        Path("small/deep").mkdir(parents=True)
        Image.open("photo.png").save("small/deep/a.sgc")
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_commands() -> None:
    """The commands of the section on the command line, in their order."""
    commands = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines() if line.startswith("sgc ")]
    assert len(commands) == 11
    commands = [line for line in commands if not line.startswith("sgc autoload")]  # which changes the environment
    for command in commands:
        if command.startswith("sgc bench"):
            continue  # its own tests run it, on less
        assert main(shlex.split(command, comments=True)[1:]) == 0
    assert Path("back/deep/a.png").exists()


def test_the_set_up_commands_are_those_of_the_gate() -> None:
    """The gate runs the command that the README gives."""
    gate = (ROOT / ".ci" / "run").read_text()
    assert 'pip install -q -e ".[test]" && pytest' in gate
    assert 'pip install -e ".[test]" && pytest' in README


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links(name: str) -> None:
    """Files that are linked exist, and so do the headings that are named."""
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", DOCUMENTS[name]):
        target = ROOT / (path or name)
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", target.read_text("utf-8"), flags=re.S), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor
