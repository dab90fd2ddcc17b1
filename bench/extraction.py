"""The speed of frozen passes, compared with the limits of the machine and with plain PyTorch.

    python bench/extraction.py [--repeats N]

First the ceilings, measured in the same run: a product of 2,048 x 2,048 matrices in float32 (the
faster of PyTorch's and NumPy's library) and in bfloat16, and a copy of 256 MB. Then, for each
network, images per second from CIFAR-10's stored pixels to pooled features: in plain PyTorch
(channels-last, inference mode, batches of 64, with the resize), and in Headstart's pass into its
cache in float32, bfloat16 (if the CPU supports it) and int8, alternating. Compilation is given
separately. The share is of the float32 ceiling: two operations for each multiply-accumulate of the
network, divided by the rate of the matrix product.

Last, the effect of precision: the accuracy of a head on 5,000 images, on 3,000 test images.
Networks without weights in a package are timed with random ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import PEERS, leave_serving_unmeasured, machine_line, ratio

import headstart
from headstart.data import ImageSet, fetch, load_data
from headstart.errors import HeadstartError
from headstart.features.cache import BoundaryCache
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.models.anatomy import examine
from headstart.models.backbones import Backbone, build_architecture, create_backbone
from headstart.specs import BackboneSpec, DataSpec
from headstart.views.transforms import Transform

sys.path.insert(0, str(PEERS))
from torch_two_phase import Prepare  # type: ignore[import-not-found]  # a script beside us

# Network, pixels, weights, and images a pass: a few seconds each.
NETWORKS = (
    ("mobilenetv2_100", 96, "registry", 3_200),
    ("tf_efficientnet_lite0", 128, "registry", 1_280),
    ("resnet50", 128, "random", 320),
)
PRECISIONS = ("float32", "bfloat16", "int8")
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    leave_serving_unmeasured()
    os.environ["HEADSTART_DATA"] = str(fetch("cifar10").parent)
    precisions = [precision for precision in PRECISIONS if available(precision)]
    images = load_data(DataSpec(source="cifar10", size=32)).train
    print(machine_line(repeats))
    ceiling = product_rate(torch.float32)
    print(f"product of matrices: {ceiling / 1e9:.0f} GFLOP/s in float32", end="")
    print(f", {product_rate(torch.bfloat16) / 1e9:.0f} in bfloat16", end="")
    print(f"; copy {copy_rate() / 1e9:.0f} GB/s read and written")
    with tempfile.TemporaryDirectory() as scratch:
        for name, size, weights, count in NETWORKS:
            backbone = create_backbone(BackboneSpec(name=name, weights=weights), size=size)
            backbone.eval()
            macs = examine(_meta(name, size), size).macs
            note = "" if weights == "registry" else ", random weights: timing alone"
            print(f"\n{name} at {size} pixels, {macs / 1e6:,.0f} million MACs{note}")
            rows = images.pick(np.arange(count))
            runners: dict[str, Callable[[], float]] = {
                "plain torch": partial(torch_rate, backbone, size, rows)
            }
            for precision in precisions:
                runners[precision] = OurPass(backbone, size, precision, rows, Path(scratch)).rate
            seconds: dict[str, list[float]] = {runner: [] for runner in runners}
            for _ in range(repeats):
                for runner, rate in runners.items():
                    seconds[runner].append(1 / rate())
            for runner, each in seconds.items():
                speed = 1 / statistics.median(each)
                share = 2 * macs * speed / ceiling
                times = (
                    ""
                    if runner == "plain torch"
                    else ratio(seconds["plain torch"], each) + " times plain torch"
                )
                print(f"  {runner:<12}{speed:8,.0f} images/s {share:7.0%} of the ceiling   {times}")
        print("\na head on 5,000 images, accuracy on 3,000 test images:")
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        for name, size, weights, _ in NETWORKS:
            if weights == "registry":
                for precision in precisions:
                    print(f"  {name:<24}{precision:<10}" + accuracy(name, size, precision, scratch))


def available(precision: str) -> bool:
    try:
        create_runtime("cpu", precision=precision)
    except HeadstartError as error:
        print(error)
        return False
    return True


def _meta(name: str, size: int) -> torch.nn.Module:
    with torch.device("meta"):
        return build_architecture(name, size=size)


def product_rate(dtype: torch.dtype) -> float:
    """Operations a second of a square product, the best of ten: a ceiling, not a habit."""
    a = torch.randn(2048, 2048).to(dtype)
    seconds = best_of(lambda: a @ a)
    if dtype == torch.float32:
        b = a.numpy()
        seconds = min(seconds, best_of(lambda: b @ b))
    return 2 * 2048**3 / seconds


def copy_rate() -> float:
    source = torch.zeros(2**26)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / best_of(lambda: target.copy_(source))


def best_of(work: Callable[[], object], times: int = 10) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def torch_rate(backbone: Backbone, size: int, images: ImageSet) -> float:
    """Images a second of an eager loop, the first batch not counted."""
    job = {"size": size, "mean": backbone.preprocess.mean, "std": backbone.preprocess.std}
    prepare = Prepare(job)
    model = backbone.model.to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(images.read(np.arange(len(images))))
    with torch.inference_mode():
        model(prepare(pixels[:BATCH], augment=False))
        started = time.perf_counter()
        for first in range(0, len(pixels), BATCH):
            model(prepare(pixels[first : first + BATCH], augment=False))
    return len(pixels) / (time.perf_counter() - started)


class OurPass:
    """A pass into an empty cache by a prefix that is compiled already."""

    def __init__(
        self, backbone: Backbone, size: int, precision: str, images: ImageSet, scratch: Path
    ) -> None:
        runtime = create_runtime("cpu", precision=precision)
        transform = Transform(replace(backbone.preprocess, size=size))
        top = len(backbone.stages())
        self._scratch, self._images, self._passes = scratch, images, 0
        self._cache = BoundaryCache(backbone, top, transform, runtime, Reporter(), images)
        os.environ["HEADSTART_CACHE"] = str(scratch / "compiling")
        started = time.perf_counter()
        self._cache.rows(images.pick(np.arange(BATCH)), label="")
        seconds = time.perf_counter() - started
        print(f"  {precision}: {seconds:.1f} s to compile, with {BATCH} images")

    def rate(self) -> float:
        self._passes += 1
        os.environ["HEADSTART_CACHE"] = str(self._scratch / f"{id(self)}-{self._passes}")
        started = time.perf_counter()
        self._cache.rows(self._images, label="")
        return len(self._images) / (time.perf_counter() - started)


def accuracy(name: str, size: int, precision: str, scratch: str) -> str:
    settings = (
        f"backbone.name={name}",
        f"data.size={size}",
        "data.train_limit=5000",
        "data.test_limit=3000",
        "evaluation.label_efficiency=false",
        f"precision={precision}",
    )
    recipe = headstart.load_recipe("cifar10-probe", settings)
    run = headstart.run(recipe, out=Path(scratch) / f"{name}-{precision}")
    low, high = run.metrics.test.interval
    return f"{100 * run.metrics.test.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
