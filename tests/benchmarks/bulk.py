"""Convert N pictures with a worker, then the whole run, killed, and resumed: ``python tests/benchmarks/bulk.py [N]``.

Every output must be valid, none missing, none written twice, nothing left over.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import pillow_semicodec as sgc

DEMO = Path(sgc.__file__).parent / "demo.png"


def children(process: int) -> list[int]:
    """Processes below one, those that convert last (Linux)."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


def done(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.sgc")} if folder.exists() else {}


def wait_for(count: int, folder: Path) -> None:
    while len(done(folder)) < count:
        time.sleep(0.05)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    demo, generator = np.asarray(Image.open(DEMO).convert("RGB")), random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in"), Path(name, "out")
        source.mkdir()
        for k in range(count):
            top, left = (generator.randrange(n - 256) for n in demo.shape[:2])
            Image.fromarray(demo[top : top + 256, left : left + 256]).save(source / f"{k:05}.png")
        report = Path(name, "report.json")
        command = [
            sys.executable,
            "-m",
            "pillow_semicodec",
            "convert",
            str(source),
            "-o",
            str(target),
            "--report",
            str(report),
        ]
        start = time.perf_counter()
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        wait_for(count // 10, target)
        os.kill(children(run.pid)[-1], signal.SIGKILL)
        print(f"a worker killed after {len(done(target))} files")
        wait_for(count // 2, target)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        first = done(target)
        left = [path.name for path in target.iterdir() if path.suffix != ".sgc"]
        print(f"the run killed after {len(first)} files, {len(left)} half written")
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        print(finished.stdout.strip(), f"exit code {finished.returncode}", sep="\n")
        second = done(target)
        for path in target.glob("*.sgc"):
            with Image.open(path) as image:
                image.verify()
        twice = [name for name, when in first.items() if second.get(name) != when]
        over = [path.name for path in target.iterdir() if path.suffix != ".sgc"]
        converted = sum(not row["error"] for row in json.loads(report.read_text())["files"])
        print(f"{len(second)} of {count} valid, {len(twice)} written twice, {len(over)} left over")
        print(f"{converted} by the second run, {time.perf_counter() - start:.0f} s in all")
        assert len(second) == count == len(first) + converted
        assert not twice
        assert not over


if __name__ == "__main__":
    main()
