"""The speed of a probe: full CIFAR-10 with an empty cache, and a second head from the cache.

    python bench/probe.py

Runs the shipped recipe `cifar10-probe` in a fresh cache (data from $HEADSTART_DATA, or fetched
before the clock starts), then the same with an MLP head. Prints accuracy, seconds and rates.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import headstart
from headstart.data import fetch
from headstart.machine.runtime import machine


def main() -> None:
    data = fetch("cifar10")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_DATA"] = str(data.parent)
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        print(f"machine: {machine()['cpu']}, {machine()['cores']} cores; n = 1, seed 0")
        print(f"{'run':<24}{'test accuracy':>24}{'wall s':>10}{'frozen s':>10}{'images/s':>10}")
        measure("probe from cold", Path(scratch) / "first", ())
        mlp = ("head.hidden=[256]", "phases.0.epochs=5", "phases.0.lr=1e-3")
        measure("MLP head, cached", Path(scratch) / "second", mlp)


def measure(label: str, out: Path, overrides: tuple[str, ...]) -> None:
    started = time.perf_counter()
    run = headstart.run(headstart.load_recipe("cifar10-probe", overrides), out=out)
    seconds = time.perf_counter() - started
    test, cost = run.metrics.test, run.cost
    low, high = test.interval
    accuracy = f"{100 * test.accuracy:.2f} % [{100 * low:.1f}, {100 * high:.1f}]"
    rate = f"{cost.images_per_s:,.0f}" if cost.extract_s else "-"
    print(f"{label:<24}{accuracy:>24}{seconds:>10.1f}{cost.extract_s:>10.1f}{rate:>10}")


if __name__ == "__main__":
    main()
