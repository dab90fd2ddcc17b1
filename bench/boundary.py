"""The gain of the boundary cache: a phase that trains the last stage, with and without it.

    python bench/boundary.py

The shipped recipe `cifar10-two-phase` on 5,000 training images, with a second phase of three
epochs. Runs with and without room for the cache alternate, three times each. Prints seconds per
epoch (medians), the ratio with its range, and both test accuracies.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import headstart
from headstart.data import fetch
from headstart.machine.runtime import machine
from headstart.workbench import run as run_recipe

OVERRIDES = ("data.train_limit=5000", "phases.0.epochs=3", "phases.1.epochs=3")
REPEATS = 3
LIMITS_GB = {"cached": 20.0, "recomputed": 0.0}


def main() -> None:
    data = fetch("cifar10")
    seconds: dict[str, list[float]] = {kind: [] for kind in LIMITS_GB}
    accuracies: dict[str, tuple[float, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_DATA"] = str(data.parent)
        recipe = headstart.load_recipe("cifar10-two-phase", OVERRIDES)
        for repeat in range(REPEATS):
            for kind, limit in LIMITS_GB.items():
                os.environ["HEADSTART_CACHE"] = str(Path(scratch) / f"cache-{repeat}")
                out = Path(scratch) / f"{kind}-{repeat}"
                run = run_recipe(recipe, out=out, cache_limit_gb=limit)
                epochs = run.history.epochs_of(1)
                seconds[kind].append(statistics.median(epoch.seconds for epoch in epochs))
                test = run.metrics.test
                accuracies[kind] = (test.accuracy, test.interval)
    print(f"machine: {machine()['cpu']}, {machine()['cores']} cores; n = {REPEATS}, seed 0")
    for kind, (accuracy, (low, high)) in accuracies.items():
        epoch = statistics.median(seconds[kind])
        print(
            f"{kind:<12}{epoch:8.2f} s an epoch   test {100 * accuracy:.2f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}]"
        )
    pairs = zip(seconds["recomputed"], seconds["cached"], strict=True)
    ratios = sorted(slow / fast for slow, fast in pairs)
    print(f"ratio       {statistics.median(ratios):8.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
