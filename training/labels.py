"""Labelled pictures: CSV files or folders of classes, checked before anything is trained.

* classification: a CSV with columns ``path``, ``class`` and, if there is one, ``split``; or a folder with one folder of
  pictures per class (the layout of torchvision's ImageFolder), split by a hash of the names; or such folders named
  ``train`` and ``test`` (or ``val``);
* segmentation: a CSV with columns ``image``, ``mask``, ``split``, masks being pictures whose grey levels are classes, and
  a ``classes.json`` with ``{"classes": {"0": name, …}, "ignore_index": n}`` beside it or beside the masks.

Paths are relative to the CSV. Every error is one line that names the file.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pillow_semicodec.convert import as_rgb
from pillow_semicodec.head_bundle import CLASSIFICATION, SEGMENTATION

TRAIN, TEST = "train", "test"
TEST_SHARE = 0.2  # of a folder without splits
IGNORE = 255  # label of pixels that count for nothing


class LabelsError(ValueError):
    """Labels that cannot be trained on; the message names the file and what is wrong."""


@dataclasses.dataclass(frozen=True)
class Item:
    picture: Path
    label: int  # class of a picture; -1 where ``mask`` says it
    mask: Path | None = None

    def read(self) -> Image.Image:
        return read_rgb(self.picture)


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """One task: a name, the names of its classes, and pictures for training and test."""

    name: str
    kind: str
    classes: tuple[str, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    ignore_index: int | None = None

    def read_mask(self, item: Item) -> NDArray[np.uint8]:
        """uint8 [H, W]: class of every pixel, ``IGNORE`` where there is none.

        Raises:
            LabelsError: unreadable, or a level that is no class.
        """
        assert item.mask is not None
        try:
            with Image.open(item.mask) as image:
                mask = np.array(image.convert("L") if image.mode not in ("L", "P") else image, np.uint8)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise LabelsError(f"cannot read mask {item.mask}: {error}") from error
        with Image.open(item.picture) as image:
            if image.size != mask.shape[::-1]:
                raise LabelsError(
                    f"{item.mask}: {mask.shape[1]}x{mask.shape[0]} pixels, its picture has {image.width}x{image.height}"
                )
        ignored = mask == self.ignore_index
        unknown = np.unique(mask[~ignored & (mask >= len(self.classes))])
        if len(unknown):
            raise LabelsError(f"{item.mask}: level {unknown[0]} is none of the {len(self.classes)} classes")
        mask[ignored] = IGNORE
        return mask

    def check_tests(self) -> None:
        """Open every test picture and mask: what is broken must not come out after the training. Raises LabelsError."""
        for item in self.test:
            item.read()
            if item.mask is not None:
                self.read_mask(item)

    def fraction(self, share: float, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """(labelled, the rest) of ``train``: the same share of every class, at least one picture of each."""
        random = np.random.default_rng(seed)
        order = [self.train[i] for i in random.permutation(len(self.train))]
        sizes = Counter(item.label for item in order)
        taken: Counter[int] = Counter()
        chosen, rest = [], []
        for item in order:
            if taken[item.label] < max(1, round(share * sizes[item.label])):
                taken[item.label] += 1
                chosen.append(item)
            else:
                rest.append(item)
        return tuple(chosen), tuple(rest)


def read_rgb(path: Path) -> Image.Image:
    """Raises LabelsError where the picture is missing or broken."""
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LabelsError(f"cannot read picture {path}: {error}") from error


def read_labels(path: Path, name: str = "") -> LabelledSet:
    """Read a CSV file or a folder of classes.

    Raises:
        LabelsError: no such file, missing columns, no labels at all, pictures that are not there, a test class that
            training does not know, a class without training pictures, fewer than two classes.
    """
    name = name or path.stem
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in ("latents", "embedding"):
        raise LabelsError(f"{path}: a task cannot be named {name!r}: letters, digits, - and _, but not latents or embedding")
    if path.is_dir():
        return _checked(path, name, CLASSIFICATION, _folder_rows(path))
    if not path.is_file():
        raise LabelsError(f"no labels file {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path} is no CSV file: {error}") from error
    if not rows:
        raise LabelsError(f"{path}: no labels at all")
    columns = set(rows[0])
    if {"image", "mask"} <= columns:
        return _segmentation(path, name, rows)
    if not {"path", "class"} <= columns:
        raise LabelsError(f"{path}: needs columns path, class or image, mask; it has {', '.join(sorted(map(str, columns)))}")
    triples = []
    for line, row in enumerate(rows, 2):
        if not row["path"] or not row["class"]:
            raise LabelsError(f"{path}, line {line}: no picture or no class")
        triples.append((path.parent / row["path"], row["class"], _split(path, line, row)))
    return _checked(path, name, CLASSIFICATION, triples)


def read_all(paths: list[Path], names: list[str] | None = None) -> list[LabelledSet]:
    """Several tasks; raises LabelsError where two have the same name, or names are missing."""
    names = names or [""] * len(paths)
    if len(names) != len(paths):
        raise LabelsError(f"{len(names)} names for {len(paths)} files of labels")
    sets = [read_labels(path, name) for path, name in zip(paths, names, strict=True)]
    for k, labelled_set in enumerate(sets):
        if labelled_set.name in [s.name for s in sets[:k]]:
            raise LabelsError(f"{paths[k]}: a second task is named {labelled_set.name}; rename the file")
    return sets


SPLIT_FOLDERS = {"train": TRAIN, "test": TEST, "val": TEST, "valid": TEST, "validation": TEST}


def _folder_rows(folder: Path) -> list[tuple[Path, str, str]]:
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    if TRAIN in {c.name for c in children} and {c.name for c in children} <= set(SPLIT_FOLDERS):
        return [(p, label, SPLIT_FOLDERS[c.name]) for c in children for p, label, _ in _class_rows(c)]
    return _class_rows(folder)


def _class_rows(folder: Path) -> list[tuple[Path, str, str]]:
    extensions = Image.registered_extensions()
    rows = []
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            pictures = sorted(p for p in child.rglob("*") if p.suffix.lower() in extensions)
            if not pictures:
                raise LabelsError(f"{child}: class {child.name} has no pictures")
            rows += [(p, child.name, "") for p in pictures]
    if not rows:
        raise LabelsError(f"{folder}: no labels at all: it should hold one folder of pictures for every class")
    return rows


def _split_by_name(folder: Path, rows: list[tuple[Path, str, str]]) -> list[tuple[Path, str, str]]:
    """Decide rows without a split: the same picture falls on the same side on every machine, in every order of files;
    a class of fewer than five keeps them all for training.
    """
    sizes = Counter(row[1] for row in rows)
    result = []
    for picture, label, given in rows:
        name = os.path.relpath(picture, folder).replace(os.sep, "/")
        draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
        split = TEST if draw < TEST_SHARE and sizes[label] >= 5 else TRAIN
        result.append((picture, label, given or split))
    return result


def _split(path: Path, line: int, row: dict[str, str]) -> str:
    if "split" not in row:
        return ""
    if row["split"] not in (TRAIN, TEST):
        raise LabelsError(f"{path}, line {line}: split {row['split']!r} is neither {TRAIN} nor {TEST}")
    return row["split"]


def _checked(path: Path, name: str, kind: str, rows: list[tuple[Path, str, str]]) -> LabelledSet:
    _check_present(path, [row[0] for row in rows])
    rows = _split_by_name(path if path.is_dir() else path.parent, rows)
    classes = sorted({row[1] for row in rows if row[2] == TRAIN})
    for picture, label, _ in rows:
        if label not in classes:
            raise LabelsError(f"{path}: class {label!r} of {picture} has no training picture")
    if len(classes) < 2:
        raise LabelsError(f"{path}: a classifier needs two classes at least; it has {', '.join(classes)}")
    items = {s: tuple(Item(p, classes.index(c)) for p, c, split in rows if split == s) for s in (TRAIN, TEST)}
    return LabelledSet(name, kind, tuple(classes), items[TRAIN], items[TEST])


def _segmentation(path: Path, name: str, rows: list[dict[str, str]]) -> LabelledSet:
    triples = []
    for line, row in enumerate(rows, 2):
        if not row["image"] or not row["mask"]:
            raise LabelsError(f"{path}, line {line}: no picture or no mask")
        triples.append((path.parent / row["image"], path.parent / row["mask"], _split(path, line, row)))
    _check_present(path, [p for row in triples for p in row[:2]])
    candidates = [path.parent / "classes.json", *(parent / "classes.json" for parent in triples[0][1].parents)]
    found = next((c for c in candidates if c.is_file()), None)
    if found is None:
        raise LabelsError(f"{path}: no classes.json beside it or beside its masks")
    try:
        content = json.loads(found.read_bytes())
        names = {int(k): str(v) for k, v in content["classes"].items()}
        ignore = content.get("ignore_index")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabelsError(f"{found}: not a description of classes ({error})") from error
    names.pop(ignore, None)
    if sorted(names) != list(range(len(names))) or not names:
        raise LabelsError(f"{found}: classes should be numbered from 0 without gaps")
    splits = [row[2] for row in _split_by_name(path.parent, [(p, "", split) for p, _, split in triples])]
    items = {
        s: tuple(Item(p, -1, m) for (p, m, _), split in zip(triples, splits, strict=True) if split == s)
        for s in (TRAIN, TEST)
    }
    if not items[TRAIN]:
        raise LabelsError(f"{path}: no training picture")
    return LabelledSet(name, SEGMENTATION, tuple(names[k] for k in sorted(names)), items[TRAIN], items[TEST], ignore)


def _check_present(path: Path, files: list[Path]) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise LabelsError(f"{path}: {len(missing)} of {len(files)} pictures are not there, first {missing[0]}")
