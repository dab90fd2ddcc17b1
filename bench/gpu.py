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
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import leave_serving_unmeasured, machine_line, peer_python, ratio, run_peer
from safetensors.torch import save_file

import headstart
from headstart.data import fetch, load_data
from headstart.errors import HeadstartError
from headstart.models import classifier
from headstart.models.anatomy import examine
from headstart.models.backbones import build_architecture, create_backbone
from headstart.models.weights import locate_weights
from headstart.recipe import Recipe
from headstart.rundir.run import Run
from headstart.specs import DataSpec

ROWS = ("ceilings", "leaderboard", "tuning")
PEERS = {"torch": "torch_full.py", "trainer": "trainer_full.py"}
COMPILED = ", compiled"
RATE = 1e-3
LOADERS = 8  # worker processes of the peer that has some


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    matmul: int  # rows and columns
    copied: int  # bytes
    networks: tuple[str, ...]
    frozen_size: int  # pixels
    frozen_limits: tuple[str, ...]  # overrides of the leaderboard's data
    tuned: str
    tuned_sizes: tuple[int, ...]
    images: int  # of which a fiftieth is for validation
    tested: int
    batch: int
    epochs: int


FULL = Amount(
    matmul=8192,
    copied=2**30,
    networks=(
        "resnet50",
        "mobilenetv2_100",
        "tf_efficientnet_lite0",
        "densenet121",
        "vgg16",
        "convnext_tiny",
        "vit_small_patch16_224",
    ),
    frozen_size=224,
    frozen_limits=(),
    tuned="resnet50",
    tuned_sizes=(128, 224),
    images=10_000,
    tested=2_000,
    batch=128,
    epochs=4,
)
TINY = Amount(
    matmul=256,
    copied=2**22,
    networks=("tf_efficientnet_lite0", "resnet18"),
    frozen_size=32,
    frozen_limits=("data.train_limit=200", "data.test_limit=100"),
    tuned="resnet18",
    tuned_sizes=(32, 64),
    images=200,
    tested=100,
    batch=32,
    epochs=2,
)


@dataclass(frozen=True)
class Setting:
    """One call of this script. weights: "file:PATH" of each network; random: those without any."""

    amount: Amount
    device: str
    source: str
    weights: dict[str, str]
    random: frozenset[str]


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


@dataclass(frozen=True)
class Tuned:
    """One tool's run: seconds of each epoch after the first, of `images`, and test accuracy."""

    epoch_s: list[float]
    images: int
    accuracy: float

    @property
    def rate(self) -> float:
        return self.images / statistics.median(self.epoch_s)


def tuning(setting: Setting, folder: Path, repeats: int, ceiling: float) -> None:
    """Images a second of each tool at each size, their share of the ceiling, and accuracies."""
    amount = setting.amount
    tools = ["headstart"]
    try:
        peer_python("torch")
        tools += list(PEERS)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"\npeers left out: their environment cannot be installed ({error})")
    if setting.device == "cuda":
        tools += [f"{tool}{COMPILED}" for tool in tools]
    tuned: dict[tuple[str, int], list[Tuned]] = defaultdict(list)
    for repeat in range(repeats):
        for size in amount.tuned_sizes:
            for tool in tools:
                here = folder / f"tuning-{size}-{repeat}" / tool
                tuned[tool, size].append(tune(setting, tool, size, here, folder / f"job-{size}"))
    start = "random" if amount.tuned in setting.random else "pretrained"
    print(
        f"\ntuning: every layer of {amount.tuned} ({start} weights), {amount.images:,} images of "
        f"{setting.source}, batches of {amount.batch}"
    )
    for size in amount.tuned_sizes:
        operations = 6 * macs(amount.tuned, size)
        print(f"\n{f'{size} pixels':<24}{'images/s':>26}{'of the ceiling':>16}", end="")
        print(f"{'seconds, times ours':>30}{'accuracy, %':>14}")
        ours = [statistics.median(t.epoch_s) for t in tuned["headstart", size]]
        for tool in tools:
            runs = tuned[tool, size]
            rates = [run.rate for run in runs]
            share = statistics.median(rates) * operations / ceiling
            times = ratio([statistics.median(t.epoch_s) for t in runs], ours)
            print(f"{tool:<24}{spread(rates, 0):>26}{share:>16.1%}{times:>30}", end="")
            print(f"{100 * runs[0].accuracy:>14.1f}")


def tune(setting: Setting, tool: str, size: int, folder: Path, job: Path) -> Tuned:
    name, compiled = tool.removesuffix(COMPILED), tool.endswith(COMPILED)
    if name == "headstart":
        return tune_here(setting, size, folder, compiled=compiled)
    write_job(setting, size, job, compiled=compiled)
    answer = run_peer("torch", PEERS[name], job, cuda=setting.device == "cuda")
    return Tuned(answer["epoch_s"][1:], answer["images"], answer["accuracy"])


def tune_here(setting: Setting, size: int, folder: Path, *, compiled: bool) -> Tuned:
    os.environ["HEADSTART_CACHE"] = str(folder / "cache")
    usual = classifier.COMPILE_STEPS
    # Only which side of the threshold a short run is on: what it then does is what a long one does.
    classifier.COMPILE_STEPS = 0 if compiled else sys.maxsize
    try:
        run = headstart.run(tuned_recipe(setting, size), out=folder / "run", device=setting.device)
    finally:
        classifier.COMPILE_STEPS = usual
    seconds = [epoch.seconds for epoch in run.history.epochs]
    accuracy = float(run.predictions("test").correct.mean())
    return Tuned(seconds[1:], run.provenance.data.counts.train, accuracy)


def tuned_recipe(setting: Setting, size: int) -> Recipe:
    amount = setting.amount
    settings = (
        f"name={amount.tuned}-{size}",
        f"data.source={setting.source}",
        f"data.size={size}",
        f"data.train_limit={amount.images}",
        f"data.test_limit={amount.tested}",
        "data.val_fraction=0.02",
        "data.augment={flip=true, shift=0.1}",
        f"backbone.name={amount.tuned}",
        f"backbone.weights={setting.weights[amount.tuned]}",
        f"batch_size={amount.batch}",
        f'phases=[{{train="all", norm="train", optimizer="adamw", epochs={amount.epochs}, '
        f'lr={RATE}, schedule="constant"}}]',
    )
    return headstart.load_recipe("cifar10-finetune", settings)


def write_job(setting: Setting, size: int, folder: Path, *, compiled: bool) -> None:
    """What a peer is given: images, the weights by timm's names, and the settings."""
    recipe = tuned_recipe(setting, size)
    splits = load_data(recipe.data)
    backbone = create_backbone(recipe.backbone, size=size)
    if not folder.exists():
        folder.mkdir(parents=True)
        np.savez(
            folder / "data.npz",
            train_images=splits.train.read(np.arange(len(splits.train))),
            train_labels=splits.train.labels,
            test_images=splits.test.read(np.arange(len(splits.test))),
            test_labels=splits.test.labels,
        )
        state = {name: tensor.numpy() for name, tensor in backbone.model.state_dict().items()}
        np.savez(folder / "weights.npz", **state)
    job: dict[str, Any] = {
        "backbone": backbone.name,
        "size": size,
        "mean": backbone.preprocess.mean,
        "std": backbone.preprocess.std,
        "classes": len(splits.class_names),
        "batch": recipe.batch_size,
        "epochs": setting.amount.epochs,
        "lr": RATE,
        "weight_decay": 0.01,
        "seed": recipe.seed,
        "device": setting.device,
        "compile": compiled,
        "workers": LOADERS if setting.device == "cuda" else 0,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def macs(name: str, size: int) -> int:
    """Multiply-accumulates of a forward pass over one image."""
    with torch.device("meta"):
        return examine(build_architecture(name, size=size), size).macs


def spread(values: list[float], digits: int) -> str:
    """The median and the range."""
    low, high = min(values), max(values)
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


if __name__ == "__main__":
    main()
