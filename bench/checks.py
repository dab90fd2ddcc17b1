"""What it costs a run to check and to flush what it stores.

    python bench/checks.py [--repeats N]

The demo, and `cifar10-probe` on all of CIFAR-10 with MobileNetV2 at 96 pixels, each from an empty
cache and with stored weights. The time within CRC-32, SHA-256 and fsync is added up over all
threads, and given as a share of the whole time. The cost of serving is not measured in these runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from harness import leave_serving_unmeasured, machine_line

import headstart
from headstart.data import fetch
from headstart.files import cache_root

PROBE = ("backbone.name=mobilenetv2_100", "data.size=96")

spent: dict[str, float] = defaultdict(float)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["HEADSTART_DATA"] = str(fetch("cifar10").parent)
    leave_serving_unmeasured()
    weights = cache_root() / "weights"
    time_checks()
    jobs: dict[str, Callable[[Path], object]] = {
        "demo": lambda out: headstart.compare(headstart.load_study("demo"), out=out),
        "probe": lambda out: headstart.run(
            headstart.load_recipe("cifar10-probe", PROBE), out=out, device="cpu"
        ),
    }
    shares: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(repeats):
        for name, job in jobs.items():
            with tempfile.TemporaryDirectory() as scratch:
                cache = Path(scratch) / "cache"
                shutil.copytree(weights, cache / "weights")
                os.environ["HEADSTART_CACHE"] = str(cache)
                spent.clear()
                began = time.perf_counter()
                job(Path(scratch) / "out")
                shares[name].append({"whole": time.perf_counter() - began, **spent})
    print(machine_line(repeats))
    for name, runs in shares.items():
        whole = statistics.median(run["whole"] for run in runs)
        parts = {kind: statistics.median(run.get(kind, 0.0) for run in runs) for kind in KINDS}
        total = [sum(run.get(kind, 0.0) for kind in KINDS) / run["whole"] for run in runs]
        listed = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in parts.items())
        print(
            f"{name:<8}{whole:8.1f} s: {listed}; {statistics.median(total):.2%} of it "
            f"({min(total):.2%} to {max(total):.2%})"
        )


KINDS = ("CRC-32", "SHA-256", "fsync")


def time_checks() -> None:
    """Have every call of the three counted."""

    def timed(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[kind] += time.perf_counter() - began

        return call

    class Sha256:
        """hashlib's, with its time counted."""

        def __init__(self, data: bytes = b"") -> None:
            self._sums = original()
            self.update(data)

        def update(self, data: Any) -> None:
            timed("SHA-256", self._sums.update)(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sums, name)

    original = hashlib.sha256
    mock.patch("zlib.crc32", timed("CRC-32", zlib.crc32)).start()
    mock.patch("os.fsync", timed("fsync", os.fsync)).start()
    mock.patch("hashlib.sha256", Sha256).start()


if __name__ == "__main__":
    main()
