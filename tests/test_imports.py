"""The layering table, checked on the syntax trees, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pillow_semicodec"
ROWS = {
    "errors": 0, "limits": 0, "lazy": 0, "preset": 0, "_version": 0, "autoload": 0, "other_formats": 0, "files": 1,
    "container": 1, "entropy.tables": 1, "entropy.coder": 1, "options": 1, "metrics": 1,
    "bundle": 2, "entropy.models": 2, "entropy.lossless": 2, "semantics": 2, "planes": 2, "depth": 2,
    "metadata": 2, "prediction": 2,
    "entropy.repetition": 2,
    "progress": 0, "head_bundle": 3, "companions": 3,
    "inference": 4, "pixels": 4,
    "layout": 5, "heads": 5, "rate_control": 5,
    "latent_path": 6, "alpha": 6,
    "slices": 7, "indexed": 7,
    "effort": 8, "regions": 8, "overlay": 8,
    "codec": 9,
    "analysis": 10, "animation": 10,
    "SemicodecImagePlugin": 11, "convert": 10, "cli": 15, "demo": 11, "search": 11,
    "bench.__init__": 0, "bench.codecs": 2, "bench.curves": 11, "bench.costs": 12, "bench.report": 13, "bench.run": 14,
    "__init__": 16, "__main__": 16, "entropy.__init__": 0,
}  # fmt: skip
SAME_ROW = {("entropy.coder", "entropy.tables"), ("bundle", "entropy.models"), ("cli", "demo"), ("cli", "search")}
# A module may import these from outside the standard library; the empty set keeps the lower rows pure.
THIRD_PARTY = {
    "numpy": {"entropy.tables", "entropy.coder", "entropy.models", "entropy.lossless", "bundle", "inference", "pixels",
              "codec", "metrics", "alpha", "animation", "rate_control", "semantics", "planes", "layout", "latent_path",
              "slices", "heads", "regions", "depth", "prediction", "analysis",
              "indexed", "overlay", "effort", "SemicodecImagePlugin", "convert", "demo", "search",
              "bench.curves"},
    "constriction": {"entropy.coder"},
    "onnxruntime": {"inference"},
    "PIL": {"SemicodecImagePlugin", "other_formats", "cli", "convert", "demo", "metadata", "metrics", "search",
            "bench.codecs", "bench.curves", "bench.costs", "bench.report", "bench.run"},
    "tqdm": {"cli"},
    "fsspec": {"convert"},
    "dask": {"convert"},
    "scipy": {"bench.curves", "metrics"},
    "bjontegaard": {"cli", "bench.curves"},
    "matplotlib": {"cli", "bench.report"},
    "ssimulacra2": {"cli", "metrics"},
}  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(name: str) -> set[tuple[str, str]]:
    """(kind, module) of every import: ("own", row name) or ("other", top-level package)."""
    found: set[tuple[str, str]] = set()
    here = name.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {("other", alias.name.split(".")[0]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(("other", (node.module or "").split(".")[0]))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                full = ".".join([*base, alias.name])
                found.add(("own", full if full in MODULES else ".".join(base)))
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_from_lower_rows_only(name: str) -> None:
    """No module knows anything higher, and third-party packages stay where they belong."""
    assert name in ROWS, "a new module needs a row"
    for kind, other in imports(name):
        if kind == "own":
            assert ROWS[other] < ROWS[name] or (name, other) in SAME_ROW, f"{name} imports {other}"
        elif other not in sys.stdlib_module_names and other != "__future__":
            assert name in THIRD_PARTY.get(other, set()), f"{name} imports {other}"


def test_runtime_packages_never_import_training() -> None:
    """The trainer depends on the runtime, never the reverse; the imageio plugin uses public names only."""
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "imageio_plugin").glob("*.py")]:
        assert "training" not in {n.split(".")[0] for n in _absolute(path)}, path
    for name in _absolute(ROOT / "imageio_plugin" / "plugin.py"):
        assert not name.startswith("pillow_semicodec."), name


def _absolute(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("package", ["pillow_semicodec", "imageio_plugin"])
def test_an_import_loads_nothing_heavy(package: str) -> None:
    """Importing, and opening files of other formats, loads no runtime, no model and not even NumPy."""
    heavy = "onnxruntime torch constriction numpy imageio scipy"
    other = "from PIL import Image; Image.open('pillow_semicodec/demo.png').load()"
    code = f"import sys, {package}; {other}; print([m for m in {heavy.split()} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_opening_loads_nothing_heavy(tmp_path: Path, sgc_bytes: bytes) -> None:
    """Opening an SGC file runs no network and imports no runtime."""
    (tmp_path / "x.sgc").write_bytes(sgc_bytes)
    code = f"""
import sys, pillow_semicodec
from PIL import Image
assert Image.open({str(tmp_path / "x.sgc")!r}).size == (160, 96)
print([m for m in ("onnxruntime", "constriction", "numpy") if m in sys.modules])"""
    assert run(code).strip() == "[]"


def test_public_names() -> None:
    """Everything in __all__ exists, the lazy names too, and is what completion offers."""
    import pillow_semicodec

    assert dir(pillow_semicodec) == sorted(pillow_semicodec.__all__)
    for name in pillow_semicodec.__all__:
        assert getattr(pillow_semicodec, name) is not None
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = pillow_semicodec.nonesuch
