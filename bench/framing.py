"""Crop, pad or squash: what held-out answers choose for wide photos, and what test says.

    python bench/framing.py FOLDER... [--plant FOLDER] [--seeds 3] [--backbone NAME] [--size 128]
        [--paddings]

Each folder of photos, one folder a class, is split anew for each seed. A linear head on frozen
features is probed for each framing, as `headstart fit` does, and then run in full, so that test
says whether the choice was right. --plant makes wide sets of a folder's pictures: each is put onto
a canvas of soft noise, at the left or right end or in the middle, three times or 4/3 as wide as
high. --paddings tries other colours than pad's own, by their held-out accuracy.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

import headstart as library
from headstart.data import describe
from headstart.machine.progress import Reporter
from headstart.recipe import Recipe
from headstart.selection.evidence import EvidenceSource
from headstart.selection.framing import choose_framing
from headstart_predict import squares
from headstart_predict.framing import FRAMINGS, PAD

SETS = {"at the ends, 3:1": (3.0, "ends"), "in the middle, 3:1": (3.0, "middle"),
        "at the ends, 4:3": (4 / 3, "ends")}  # fmt: skip
PADDINGS = {"mean": (124, 116, 104), "black": (0, 0, 0), "white": (255, 255, 255)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--plant", type=Path, help="a folder of pictures, below which are classes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--paddings", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sets = {folder.name: folder for folder in given.folders}
        if given.plant:
            for name, (aspect, where) in SETS.items():
                sets[f"{given.plant.name} {name}"] = plant(
                    given.plant, Path(scratch, name.replace(":", "-")), aspect, where
                )
        for name, folder in sets.items():
            for seed in range(given.seeds):
                recipe = probe(folder, seed, given.backbone, given.size)
                if given.paddings:
                    print(name, seed, *paddings(recipe, Path(scratch)), sep=" | ", flush=True)
                else:
                    print(name, seed, *compare(recipe, Path(scratch)), sep=" | ", flush=True)


def plant(source: Path, folder: Path, aspect: float, where: str) -> Path:
    """The pictures of all splits of `source` on wide canvases, a folder a class."""
    random = np.random.default_rng(0)
    for path in sorted(source.rglob("*.jpg")):
        with Image.open(path) as image:
            picture = image.convert("RGB").resize((160, 160))
        width = round(aspect * 160)
        noise = Image.fromarray(random.integers(0, 256, (4, 12, 3), np.uint8))
        canvas = noise.resize((width, 160), Image.Resampling.BICUBIC)
        room = width - 160
        left = room // 2 if where == "middle" else int(random.integers(2)) * room
        canvas.paste(picture, (left, 0))
        out = folder / path.parent.name / f"{path.parent.parent.name}-{path.name}"
        out.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(out, quality=92)
    return folder


def probe(folder: Path, seed: int, backbone: str, size: int) -> Recipe:
    data = {"source": f"folder:{folder}", "split_seed": seed, "size": size}
    return Recipe.model_validate(
        {"name": "probe", "data": data, "backbone": {"name": backbone},
         "phases": [{"train": "head"}], "evaluation": {"label_efficiency": False}}
    )  # fmt: skip


def compare(recipe: Recipe, scratch: Path) -> Iterator[str]:
    """The cut, the three held-out accuracies, the choice, and the three accuracies on test."""
    found = describe(recipe.data)
    source = EvidenceSource(recipe, "cpu", None, Reporter())
    choice = choose_framing(source, recipe, found.cut, found.counts["train"], 10**9)
    assert choice is not None
    yield f"{found.cut:.2f}"
    yield f"{choice.images}"
    yield from (f"{100 * choice.scores[name]:.1f}" for name in FRAMINGS)
    yield f"{choice.chosen} (p {choice.p_value:.2g}, {choice.seconds:.0f} s)"
    for name in FRAMINGS:
        data = recipe.data.model_copy(update={"framing": name})
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            run = library.run(
                recipe.model_copy(update={"data": data}), out=Path(out, "run"), measure=False,
                reporter=Reporter(),
            )  # fmt: skip
            yield f"{100 * run.metrics.test.accuracy:.1f}"
    yield f"{run.metrics.test.n}"


def paddings(recipe: Recipe, scratch: Path) -> Iterator[str]:
    """The held-out accuracy of pad by the colour that it fills with."""
    counts = describe(recipe.data).counts["train"]
    weights = Path(os.environ["HEADSTART_CACHE"], "weights")
    for name, colour in PADDINGS.items():
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            Path(cache, "weights").symlink_to(weights)
            own = mock.patch.dict(os.environ, {"HEADSTART_CACHE": cache})
            with own, mock.patch.object(squares, "PADDING", colour):
                source = EvidenceSource(recipe, "cpu", None, Reporter())
                choice = choose_framing(source, recipe, 1.0, counts, 10**9)
            assert choice is not None
            yield f"{name} {100 * choice.scores[PAD]:.1f}"


if __name__ == "__main__":
    main()
