"""Time and memory of a generated picture that never lies in memory: ``python tests/benchmarks/gigapixel.py [MEGAPIXELS]``.

The picture repeats the demo photograph; encoder and decoder ask for boxes and hand boxes over. Also times a box of 512x512.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

import pillow_semicodec as sgc

DEMO = Path(sgc.__file__).parent / "demo.png"


class Tiles:
    """The demo photograph again and again, as an array that cuts boxes, and, as ``out``, compares those that come."""

    dtype = np.dtype(np.uint8)

    def __init__(self, side: int) -> None:
        self.tile = np.asarray(Image.open(DEMO).convert("RGB"))
        self.shape = (side, side, 3)
        self.error, self.pixels, self._lock = 0.0, 0, threading.Lock()

    def __getitem__(self, at: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(s.start, s.stop) % n for s, n in zip(at, self.tile.shape, strict=False))
        return self.tile[rows[:, None], columns]

    def __setitem__(self, at: tuple[slice, slice], box: np.ndarray) -> None:
        error = float(((box.astype(np.float32) - self[at]) ** 2).sum())
        with self._lock:
            self.error, self.pixels = self.error + error, self.pixels + box.shape[0] * box.shape[1]


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def work(what: str, side: int, file: Path) -> None:
    limits, picture = sgc.Limits(max_pixels=2**31), Tiles(side)
    start = time.perf_counter()
    if what == "encode":
        file.write_bytes(sgc.encode(picture, 50, limits=limits))
        told = f"{file.stat().st_size} bytes"
    elif what == "decode":
        sgc.decode(file.read_bytes(), out=picture, limits=limits)
        assert picture.pixels == side**2
        told = f"PSNR {10 * np.log10(255**2 * 3 * picture.pixels / picture.error):.2f} dB"
    else:
        middle = side // 2
        told = f"{sgc.decode(file.read_bytes(), box=(middle, middle, middle + 512, middle + 512), limits=limits).shape}"
    print(f"  {what:8}{time.perf_counter() - start:8.2f} s{peak_mb():8.0f} MB   {told}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        side = round((float(sys.argv[1]) if len(sys.argv) > 1 else 1000) ** 0.5 * 1000)
        print(f"{side}x{side}")
        with tempfile.TemporaryDirectory() as folder:
            for what in ("encode", "decode", "box"):
                subprocess.run([sys.executable, __file__, what, str(side), str(Path(folder, "x.sgc"))], check=True)
