"""Encoding with effort: other roundings, the same decoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import photo

import pillow_semicodec as sgc
from pillow_semicodec import bundle, inference, slices
from pillow_semicodec.layout import Layout, RatePlan
from pillow_semicodec.rate_control import SquaredError


def psnr(picture: np.ndarray, data: bytes) -> float:
    error = SquaredError(picture)
    error[0 : picture.shape[0], 0 : picture.shape[1]] = sgc.decode(data, threads=1)
    return error.psnr


@pytest.mark.model
@pytest.mark.parametrize(("quality", "grey"), [(60, False), (90, False), (75, True)])
def test_effort_saves_bits(quality: int, grey: bool) -> None:
    """At the PSNR of effort 1 the file is smaller: decibels count as much as they cost by a higher quality."""
    picture = photo(256, 256, 3)[:, :, 1] if grey else photo(256, 256, 3)
    plain, tried = sgc.encode(picture, quality), sgc.encode(picture, quality, effort=7)
    higher = sgc.encode(picture, quality + 3)
    slope = np.log(len(higher) / len(plain)) / (psnr(picture, higher) - psnr(picture, plain))  # of bytes over dB
    saved = np.log(len(plain) / len(tried)) + slope * (psnr(picture, tried) - psnr(picture, plain))
    assert saved > 0.005


def test_one_is_the_default(picture: np.ndarray) -> None:
    """And changes nothing."""
    assert sgc.encode(picture, 60, effort=1) == sgc.encode(picture, 60)


@pytest.mark.parametrize(
    "options",
    [
        {"slice_side": 64},
        {"slice_side": 64, "threads": 3},
        {"roi": [(0, 0, 50, 50)]},
        {"target_size": 1200},
        {"target_psnr": 27},
        {"target_size": 1200, "slice_side": 64},
    ],
)
@pytest.mark.parametrize("kind", ["RGB", "L", "RGBA", "uint16"])
def test_every_kind_of_picture(kind: str, options: dict[str, object]) -> None:
    """Slices, regions, targets and modes: the file decodes, targets are met, progress ends at 1."""
    picture = photo(90, 140)
    if kind == "L":
        picture = picture[:, :, 0]
    if kind == "RGBA":
        picture = np.concatenate([picture, np.full((90, 140, 1), 90, np.uint8)], 2)
    if kind == "uint16":
        picture = picture.astype(np.uint16) * 257
    said: list[float] = []
    data = sgc.encode(picture, 50, effort=4, progress=said.append, **options)
    assert said == sorted(said) and said[-1] == 1
    assert sgc.decode(data).shape == picture.shape
    if "target_size" in options:
        assert len(data) <= 1200
        assert len(said) == len(set(said)), "every step counts, those of a second try, too"
    if "target_psnr" in options and kind in ("RGB", "L"):
        assert psnr(picture, data) >= 27


@pytest.mark.parametrize("quality", [10, 40, 70, 85])
def test_effort_counts_with_a_size(quality: int) -> None:
    """What it makes may take a little more at the same rate: then a lower one, not nothing."""
    picture = photo(130, 200)
    wanted = len(sgc.encode(picture, quality))
    plain, better = (sgc.encode(picture, target_size=wanted, effort=effort) for effort in (1, 3))
    assert len(better) <= wanted
    assert psnr(picture, better) > psnr(picture, plain) + 0.03


@pytest.mark.model
def test_effort_counts_with_a_psnr() -> None:
    """What it makes is better at the same rate: then a lower one is enough, and never is a file larger for it."""
    picture, saved = photo(130, 200), []
    for wanted in (27, 31, 35):
        plain, better = (sgc.encode(picture, target_psnr=wanted, effort=effort) for effort in (1, 5))
        assert psnr(picture, better) >= wanted
        saved.append(1 - len(better) / len(plain))
    assert min(saved) >= 0
    assert np.mean(saved) > 0.005


def test_what_is_promised_is_what_is_coded() -> None:
    """The latents that are chosen are those that a decoder finds."""
    from pillow_semicodec.effort import refine

    model, picture = bundle.find_model(), photo(96, 128)
    layout, plan = Layout(96, 128), RatePlan(model.rate_bank.rate_of_quality(60))
    y = slices.analyse(picture, model, layout, 1)
    refined = refine(y, picture, plan, model, layout, 6, 1)
    streams = slices.Encoder(y, plan, model, layout, 1, refined).streams()
    decoder = slices.Decoder(streams, plan, model, layout, 1)
    steps = decoder.y_hat.read(layout.latents.bounds)[0] / decoder.rate("inverse", layout.latents.bounds)[0]
    assert np.abs(steps - refined.read(layout.latents.bounds)[0]).max() < 1e-3


def test_a_model_without_gradients(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Effort is then what it was."""
    plain = sgc.encode(picture, 60)
    monkeypatch.setattr("pillow_semicodec.codec.has_companion", lambda bundle, name: False)
    assert sgc.encode(picture, 60, effort=9) == plain


@pytest.mark.parametrize(
    ("effort", "error"), [(0, ValueError), (10, ValueError), (2.5, TypeError), ("9", TypeError), (True, TypeError)]
)
def test_effort_is_checked(picture: np.ndarray, effort: object, error: type[Exception]) -> None:
    """The message says the range."""
    with pytest.raises(error, match="1 to 9"):
        sgc.encode(picture, effort=effort)


@pytest.mark.parametrize("effort", [2, 5, 9])
def test_gradients_are_of_what_is_gone_on_from(effort: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that is taken back, or the last one, needs none."""
    transforms, calls = inference.Transforms, list[str]()

    def counted(name: str) -> Callable[..., object]:
        inner = getattr(transforms, name)

        def call(*arguments: object) -> object:
            calls.append(name)
            return inner(*arguments)

        return call

    for name in ("gradient", "synthesis_of_levels"):
        monkeypatch.setattr(transforms, name, counted(name))
    sgc.encode(photo(64, 64), 50, effort=effort, threads=1)
    assert calls[:2] == ["synthesis_of_levels", "gradient"]
    assert calls[-1] == "synthesis_of_levels"
    assert "gradient gradient" not in " ".join(calls)
