"""Labels: what is read, and every way in which they can be wrong, in one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from conftest import photo
from PIL import Image

from training import data
from training.labels import IGNORE, SEGMENTATION, LabelsError, read_all, read_labels, read_rgb


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(4):
        Image.fromarray(photo(64, 64, k)).save(tmp_path / f"{k}.png")
    return tmp_path


def csv(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def test_a_csv(folder: Path) -> None:
    """Classes in order of name, splits as they stand; without a split column the names decide."""
    rows = "0.png,dog,train\n1.png,cat,train\n2.png,dog,test\n"
    labels = read_labels(csv(folder, "path,class,split\n" + rows))
    assert labels.classes == ("cat", "dog")
    assert [(i.picture.name, i.label) for i in labels.train] == [("0.png", 1), ("1.png", 0)]
    assert [i.label for i in labels.test] == [1]
    assert len(read_labels(csv(folder, "path,class\n0.png,a\n1.png,b\n")).train) == 2


def test_a_folder_of_classes(tmp_path: Path) -> None:
    """One folder per class; a fifth or so is kept for tests, always the same pictures."""
    for name in ("ants", "bees"):
        (tmp_path / name).mkdir()
        for k in range(30):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    first, second = read_labels(tmp_path, "insects"), read_labels(tmp_path)
    assert (first.name, first.classes) == ("insects", ("ants", "bees"))
    assert (first.train, first.test) == (second.train, second.test)
    assert 2 < len(first.test) < 25


def test_fractions_keep_every_class(tmp_path: Path) -> None:
    """The same share of every class, at least one picture; other seeds show others; the rest is the rest."""
    for name, count in (("many", 40), ("few", 3)):
        (tmp_path / name).mkdir()
        for k in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    labels = read_labels(tmp_path)
    shown, rest = labels.fraction(0.1, 1)
    assert {i.label for i in shown} == {0, 1}
    assert set(shown) | set(rest) == set(labels.train)
    assert not set(shown) & set(rest)
    assert shown != labels.fraction(0.1, 2)[0]
    assert set(labels.fraction(1.0, 1)[0]) == set(labels.train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class,split\n", "no labels at all"),
        ("", "no labels at all"),
        ("file,label\n0.png,a\n", "needs columns"),
        ("path,class,split\n0.png,a,train\n1.png,b,valid\n", "line 3.*valid"),
        ("path,class,split\n0.png,a,train\nmissing.png,b,train\n", "missing.png"),
        ("path,class,split\n0.png,a,train\n1.png,b,train\n2.png,c,test\n", "'c'.*no training"),
        ("path,class,split\n0.png,a,train\n1.png,a,train\n", "two classes"),
        ("path,class,split\n0.png,,train\n", "line 2"),
    ],
)
def test_wrong_tables(folder: Path, text: str, message: str) -> None:
    """One line that names the file and what is wrong."""
    with pytest.raises(LabelsError, match=message) as error:
        read_labels(csv(folder, text))
    assert "labels.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_files(folder: Path) -> None:
    """No file, no text, an empty class, an empty folder, a broken picture."""
    with pytest.raises(LabelsError, match="no labels file"):
        read_labels(folder / "nothing.csv")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(LabelsError, match=r"binary\.csv is no CSV"):
        read_labels(folder / "binary.csv")
    (folder / "classes" / "empty").mkdir(parents=True)
    with pytest.raises(LabelsError, match="empty has no pictures"):
        read_labels(folder / "classes")
    with pytest.raises(LabelsError, match="no labels at all"):
        read_labels(folder / "classes" / "empty")
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(LabelsError, match=r"broken\.png"):
        read_rgb(folder / "broken.png")


def test_transparent_pictures_are_read_on_white(folder: Path) -> None:
    """For classes as for the codec: what lies under alpha is nothing that anybody sees."""
    picture = Image.new("RGBA", (64, 64), (0, 128, 0, 0))
    picture.paste((200, 0, 0, 255), (0, 0, 32, 64))
    picture.save(folder / "logo.png")
    for pixels in (np.asarray(read_rgb(folder / "logo.png")), data.read_rgb(folder / "logo.png")):
        assert (pixels[:, :32] == (200, 0, 0)).all()
        assert (pixels[:, 32:] == 255).all()


def test_names_and_other_files(folder: Path) -> None:
    """Byte-order marks and absolute paths are read; reserved and repeated names are refused."""
    text = f"path,class,split\n{folder / '0.png'},a,train\n1.png,b,train\n"
    (folder / "bom.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(read_labels(folder / "bom.csv").train) == 2
    for name in ("embedding", "my.pets", "a b"):
        with pytest.raises(LabelsError, match="cannot be named"):
            read_labels(folder / "bom.csv", name)
    with pytest.raises(LabelsError, match="second task"):
        read_all([folder / "bom.csv", folder / "bom.csv"])


@pytest.fixture
def masks(folder: Path) -> Path:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:], mask[:4] = 1, 7
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "classes.json").write_text(json.dumps({"classes": {"0": "sky", "1": "sea", "7": "void"}, "ignore_index": 7}))
    return csv(folder, "image,mask,split\n0.png,mask.png,train\n1.png,mask.png,test\n")


def test_masks(masks: Path) -> None:
    """Grey levels are classes; the ignored one becomes IGNORE."""
    labels = read_labels(masks)
    assert (labels.kind, labels.classes) == (SEGMENTATION, ("sky", "sea"))
    assert np.unique(labels.read_mask(labels.train[0])).tolist() == [0, 1, IGNORE]


def test_wrong_masks(masks: Path, folder: Path) -> None:
    """A level that is no class, an unreadable mask, missing or odd classes."""
    labels = read_labels(masks)
    Image.fromarray(np.full((64, 64), 5, np.uint8)).save(folder / "mask.png")
    with pytest.raises(LabelsError, match=r"mask\.png: level 5"):
        labels.read_mask(labels.train[0])
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(folder / "mask.png")
    with pytest.raises(LabelsError, match=r"mask\.png: 64x32"):
        labels.read_mask(labels.train[0])
    (folder / "mask.png").write_bytes(b"broken")
    with pytest.raises(LabelsError, match=r"mask\.png"):
        labels.read_mask(labels.train[0])
    for content in ("[]", '{"classes": {"1": "a"}}', "{"):
        (folder / "classes.json").write_text(content)
        with pytest.raises(LabelsError, match=r"classes\.json"):
            read_labels(masks)
    (folder / "classes.json").unlink()
    with pytest.raises(LabelsError, match=r"no classes\.json"):
        read_labels(masks)
