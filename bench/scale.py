"""From 2,000 images to 200,000: the time per image, and the memory of a run.

    python bench/scale.py [--images N ...]

Photos of cifar10-mini are PNG files in class folders, copied as often as needed. A head is solved
on MobileNetV2's features at 32 pixels. Each run is in a separate process and starts with an empty
cache. Prints milliseconds per image of the frozen pass (reading, decoding, network and cache,
without compilation), the seconds of the whole run without the measurement of its serving cost, and
the peak memory of its process. With few images, where a pass takes a second or two, these are
medians of REPEATS runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import machine_line
from PIL import Image

from headstart.data import load_data
from headstart.features import room
from headstart.models.backbones import create_backbone
from headstart.specs import BackboneSpec, DataSpec

IMAGES = (2_000, 200_000)
FEW, REPEATS = 20_000, 3
ORIGINALS = 2_000
TESTED = 1_000
REPORTED = ("images", "frozen_ms", "whole_s", "peak_mb")
RUN = """
import json, sys, time
from dataclasses import asdict
from pathlib import Path
import headstart
from harness import leave_serving_unmeasured
from headstart.machine.host import peak_memory_mb
leave_serving_unmeasured()
started = time.perf_counter()
recipe = headstart.load_recipe("cifar10-probe", [
    f"data.source=folder:{sys.argv[1]}", "data.size=32", "backbone.name=mobilenetv2_100",
    "head.l2=0.01",
])
with headstart.profiled() as profile:
    run = headstart.run(recipe, out=Path(sys.argv[2]))
whole = time.perf_counter() - started
sections = {s["name"]: s["seconds"] for s in profile.to_json()["sections"]}
images = sum(asdict(run.provenance.data.counts).values())
frozen = sum(sections[name] for name in ("decode", "transform", "prefix", "cache write"))
print(json.dumps({
    "frozen_ms": 1e3 * frozen / images, "whole_s": whole, "peak_mb": peak_memory_mb(),
    "images": images,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=list(IMAGES))
    options = parser.parse_args()
    print(machine_line(REPEATS))
    print(f"{'images':>10}{'frozen, ms an image':>22}{'run, s':>10}{'peak, MB':>10}{'n':>4}")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        create_backbone(BackboneSpec(name="mobilenetv2_100"))  # the weights, fetched
        write_originals(Path(scratch) / "originals")
        for count in options.images:
            photos = Path(scratch) / f"photos-{count}"
            copy_photos(Path(scratch) / "originals", photos, count)
            results = []
            for number in range(REPEATS if count <= FEW else 1):
                room.clear_cache()
                results.append(run_on(photos, Path(scratch) / f"run-{count}-{number}"))
            middle = {k: statistics.median(f[k] for f in results) for k in REPORTED}
            print(
                f"{middle['images']:>10,}{middle['frozen_ms']:>22.3f}{middle['whole_s']:>10.1f}"
                f"{middle['peak_mb']:>10,.0f}{len(results):>4}",
                flush=True,
            )


def write_originals(folder: Path) -> None:
    splits = load_data(DataSpec(source="cifar10-mini"))
    pixels = splits.train.read(np.arange(len(splits.train)))
    for number in range(ORIGINALS):
        label = splits.class_names[splits.train.labels[number % len(pixels)]]
        path = folder / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number % len(pixels)]).save(path)


def copy_photos(originals: Path, photos: Path, count: int) -> None:
    """`count` names for the originals, hard links, and a test split of the same size each time."""
    paths = sorted(originals.glob("*/*.png"), key=lambda path: int(path.stem))
    for split, wanted in (("train", count), ("test", TESTED)):
        for number in range(wanted):
            path = paths[number % len(paths)]
            folder = photos / split / path.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            os.link(path, folder / f"{number}.png")


def run_on(photos: Path, out: Path) -> dict[str, Any]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(photos), str(out)],
        cwd=Path(__file__).parent,  # for harness
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
