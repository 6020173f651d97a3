"""Networks beside a model: what is written can be begun with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pillow_semicodec.companions import REDUCED  # noqa: E402
from training.companions import start_from  # noqa: E402
from training.reduced import Coded, ReducedSynthesis, export, train  # noqa: E402


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReducedSynthesis, Path]:
    folder = tmp_path_factory.mktemp("reduced")
    net = ReducedSynthesis(12, 16)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) / 32)
    export(net, bytes(8), folder)
    return net, folder / f"{REDUCED}.onnx"


def test_training_begins_with_weights_that_were_written(written: tuple[ReducedSynthesis, Path]) -> None:
    """They are kept in 16 bits; without a minute of training they stay as they are."""
    net, path = written
    coded = [Coded(np.zeros((12, 4, 4), np.float16), np.zeros((16, 1, 1), np.float32), np.zeros((64, 64, 3), np.uint8))]
    started = train(coded, 1e-9, path, batch=1)
    for (name, weight), (_, expected) in zip(started.state_dict().items(), net.state_dict().items(), strict=True):
        assert torch.allclose(weight, expected, rtol=1e-3, atol=1e-5), name


def test_weights_of_another_network(written: tuple[ReducedSynthesis, Path], tmp_path: Path) -> None:
    """Refused, with the file's name."""
    with pytest.raises(ValueError, match=r"reduced\.onnx: not the weights of this network"):
        start_from(ReducedSynthesis(16, 16), written[1])
    (tmp_path / "other.onnx").write_bytes(b"no graph at all")
    with pytest.raises(ValueError, match=r"other\.onnx: not an ONNX graph"):
        start_from(ReducedSynthesis(12, 16), tmp_path / "other.onnx")
    with pytest.raises(OSError, match="missing"):
        start_from(ReducedSynthesis(12, 16), tmp_path / "missing.onnx")
