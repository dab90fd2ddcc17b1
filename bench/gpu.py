"""The speed on a GPU: a leaderboard of frozen networks, and full fine-tuning against other tools.

    python bench/gpu.py [--rows ROW ...] [--repeats N]
    python bench/gpu.py --tiny --device cpu     # tests the script, measures nothing

ceilings: the speed of the device: a product of square bfloat16 matrices, and a copy.

leaderboard: seven frozen networks compared on CIFAR-10's 60,000 images, from an empty cache.
Set-up, frozen passes, solved heads, test and report count; downloads, the start of Python and the
cost of serving do not.

tuning: every layer of ResNet-50 trained on CIFAR-10, with flip and shift, trained batch norms,
AdamW at one rate, bfloat16, channels-last. Images per second over whole epochs after the first, in
which kernels are chosen, caches filled and graphs compiled. As a share of the ceiling, an image
counts six operations for each multiply-accumulate of a forward pass (forward once, backward twice).
Headstart's epochs include validation on a fiftieth of the images; the peers' do not. Peers: plain
PyTorch with its images on the device, and Hugging Face's Trainer with pinned workers. Accuracies
are after the same few epochs, from random weights if the network's own cannot be fetched.

Repeats alternate; medians, with their range. If a package, weights or images are missing, a part is
left out or replaced, and the output says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from gpu_settings import FULL, TINY, Setting
from gpu_tuning import tuning
from harness import leave_serving_unmeasured, machine_line, spread
from safetensors.torch import save_file

import headstart
from headstart.data import fetch, load_data
from headstart.errors import HeadstartError
from headstart.models.backbones import build_architecture
from headstart.models.weights import locate_weights
from headstart.recipe import Recipe
from headstart.rundir.run import Run
from headstart.specs import DataSpec

ROWS = ("ceilings", "leaderboard", "tuning")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a few images: proves the script")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        refuse("this machine has no CUDA device; --tiny --device cpu proves the script without one")
    if options.device == "cpu" and not options.tiny:
        refuse("there is nothing to measure on a CPU: add --tiny, or use a CUDA device")
    leave_serving_unmeasured()
    repeats = options.repeats or (1 if options.tiny else 3)
    amount = TINY if options.tiny else FULL
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = find_images(folder, tiny=options.tiny)
        names = dict.fromkeys((*amount.networks, amount.tuned))
        files = {name: weights_file(name, folder) for name in names}
        random = frozenset(name for name, path in files.items() if path.parent == folder)
        weights = {name: f"file:{path}" for name, path in files.items()}
        setting = Setting(amount, options.device, source, weights, random)
        print(machine_line(repeats))
        if options.tiny:
            print("tiny: these numbers prove that the script runs, and nothing else")
        ceiling = ceilings(setting, repeats)
        if "leaderboard" in options.rows:
            leaderboard(setting, folder, repeats)
        if "tuning" in options.rows:
            tuning(setting, folder, repeats, ceiling)


def refuse(reason: str) -> None:
    print(f"bench/gpu.py: {reason}", file=sys.stderr)
    sys.exit(2)


def find_images(folder: Path, *, tiny: bool) -> str:
    """The name of the source: CIFAR-10, or something of its shape, which is then said."""
    if tiny:
        return "cifar10-mini"
    try:
        os.environ["HEADSTART_DATA"] = str(fetch("cifar10").parent)
    except HeadstartError as error:
        os.environ["HEADSTART_DATA"] = str(stand_in(folder))
        print(f"no CIFAR-10 here, so accuracies mean nothing, only times do ({error})")
        return "cifar100"
    return "cifar10"


def stand_in(folder: Path) -> Path:
    """60,000 images of CIFAR's shape: the embedded sample with noise, in CIFAR-100's files.

    Those files carry no checksum. Its hundred classes make solving no cheaper than ten would.
    """
    sample = load_data(DataSpec(source="cifar10-mini")).train
    rng = np.random.default_rng(0)
    (folder / "cifar-100-binary").mkdir()
    for name, count in (("train", 50_000), ("test", 10_000)):
        rows = np.arange(count) % len(sample)
        planes = sample.read(rows).transpose(0, 3, 1, 2).reshape(count, -1)
        noise = rng.integers(0, 16, planes.shape, dtype=np.uint8)  # no two images are alike
        labels = (10 * sample.labels[rows] + np.arange(count) // 10 % 10).astype(np.uint8)
        records = np.column_stack([labels // 5, labels, np.minimum(planes, 239) + noise])
        records.tofile(folder / "cifar-100-binary" / f"{name}.bin")
    return folder


def weights_file(name: str, folder: Path) -> Path:
    """The network's weights as a file; random ones, in `folder`, where no others can be had."""
    try:
        path = locate_weights(name).path
        assert path is not None
        return path
    except HeadstartError:
        torch.manual_seed(0)
        path = folder / f"{name}.safetensors"
        save_file(build_architecture(name).state_dict(), path)
        return path


def ceilings(setting: Setting, repeats: int) -> float:
    """Prints what the device reaches; returns its operations a second."""
    device, amount = setting.device, setting.amount
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(amount.matmul, amount.matmul, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(amount.copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    operations, moved = 2 * amount.matmul**3, 2 * amount.copied  # a copy reads and writes
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        rates["matmul"].append(operations / seconds_a_call(lambda: a @ b, device) / 1e12)
        rates["copy"].append(moved / seconds_a_call(lambda: target.copy_(source), device) / 1e9)
    shape = f"{str(dtype).removeprefix('torch.')} {amount.matmul} x {amount.matmul}"
    print(f"\nceilings\n{'product of ' + shape:<36}{spread(rates['matmul'], 1)} TFLOP/s")
    print(f"{'copy':<36}{spread(rates['copy'], 0)} GB/s, read and written")
    return statistics.median(rates["matmul"]) * 1e12


def seconds_a_call(call: Callable[[], object], device: str, calls: int = 20) -> float:
    for _ in range(3):
        call()
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - started) / calls


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def leaderboard(setting: Setting, folder: Path, repeats: int) -> None:
    """Seconds for every network's run and for the comparison of them all."""
    amount, totals = setting.amount, list[float]()
    each: dict[str, list[float]] = defaultdict(list)
    images = 0
    for repeat in range(repeats):
        root = folder / f"leaderboard-{repeat}"
        os.environ["HEADSTART_CACHE"] = str(root / "cache")
        runs, began = list[Run](), time.perf_counter()
        for name in amount.networks:
            started = time.perf_counter()
            recipe = frozen_recipe(setting, name)
            runs.append(headstart.run(recipe, out=root / name, device=setting.device))
            each[name].append(time.perf_counter() - started)
        headstart.compare(runs, out=root / "comparison")
        totals.append(time.perf_counter() - began)
        images = sum(asdict(runs[0].provenance.data.counts).values())
    print(
        f"\nleaderboard: {len(amount.networks)} frozen networks, {images:,} images of "
        f"{setting.source} at {amount.frozen_size} pixels, empty cache to report, seconds"
    )
    print(f"{'all of them':<36}{spread(totals, 1)}")
    for name, seconds in each.items():
        note = "   random weights: timing only" if name in setting.random else ""
        print(f"  {name:<34}{spread(seconds, 1)}{note}")


def frozen_recipe(setting: Setting, network: str) -> Recipe:
    settings = (
        f"name={network}",
        f"data.source={setting.source}",
        f"data.size={setting.amount.frozen_size}",
        f"backbone.name={network}",
        f"backbone.weights={setting.weights[network]}",
        *setting.amount.frozen_limits,
    )
    return headstart.load_recipe("cifar10-probe", settings)


if __name__ == "__main__":
    main()
