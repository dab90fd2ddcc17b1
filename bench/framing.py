"""Crop, pad or squash: what held-out answers choose for wide photos, and what test says.

    python bench/framing.py FOLDER... [--plant FOLDER] [--seeds 3] [--backbone NAME] [--size 128]
        [--per-class 40] [--paddings]

Each folder of photos, one folder a class, is split anew for each seed. A linear head on frozen
features is probed for each framing, as `headstart fit` does; then each is solved and asked on
test, which says whether the choice was right. --plant makes wide sets of a folder's pictures: each
is put onto a canvas of soft noise, at the left or right end or in the middle, three times or 4/3 as
wide as high. --paddings tries other colours than pad's own, by their held-out accuracy.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from headstart.data.loading import open_source
from headstart.features.cache import BoundaryCache
from headstart.features.feeds import CachedFeed
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import load_backbone
from headstart.plan.plan import make_plan
from headstart.recipe import Recipe
from headstart.selection.evidence import EvidenceSource
from headstart.selection.framing import choose_framing
from headstart.training.solver import L2_PATH
from headstart.training.solving import HeadProblem
from headstart_predict import squares
from headstart_predict.framing import FRAMINGS, PAD, Framing

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
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--paddings", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sets = {folder.name: folder for folder in given.folders}
        if given.plant:
            for name, (aspect, where) in SETS.items():
                sets[f"{given.plant.name} {name}"] = plant(
                    given.plant,
                    Path(scratch, name.replace(":", "-")),
                    aspect,
                    where,
                    given.per_class,
                )
        for name, folder in sets.items():
            for seed in range(given.seeds):
                recipe = probe(folder, seed, given.backbone, given.size)
                if given.paddings:
                    print(name, seed, *paddings(recipe, Path(scratch)), sep=" | ", flush=True)
                else:
                    print(name, seed, *compare(recipe), sep=" | ", flush=True)


def plant(source: Path, folder: Path, aspect: float, where: str, per_class: int) -> Path:
    """Some pictures of all splits of `source` on wide canvases, a folder a class."""
    random = np.random.default_rng(0)
    for path in [path for each in _by_class(source) for path in each[:per_class]]:
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


def _by_class(source: Path) -> list[list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.jpg")):
        found.setdefault(path.parent.name, []).append(path)
    return list(found.values())


def probe(folder: Path, seed: int, backbone: str, size: int) -> Recipe:
    data = {"source": f"folder:{folder}", "split_seed": seed, "size": size}
    return Recipe.model_validate(
        {"name": "probe", "data": data, "backbone": {"name": backbone},
         "phases": [{"train": "head"}]}
    )  # fmt: skip


def compare(recipe: Recipe) -> Iterator[str]:
    """The cut, the three held-out accuracies, the choice, and the three accuracies on test."""
    source = EvidenceSource(recipe, "cpu", None, Reporter())
    images = open_source(recipe.data)
    cut = float(np.median(1 - images.sizes.min(axis=1) / images.sizes.max(axis=1)))
    choice = choose_framing(source, recipe, cut, 10**9)
    assert choice is not None
    yield f"{cut:.2f}"
    yield f"{choice.images}"
    yield from (f"{100 * choice.scores[name]:.1f}" for name in FRAMINGS)
    yield f"{choice.chosen} (p {choice.p_value:.2g}, {choice.seconds:.0f} s)"
    for name in FRAMINGS:
        accuracy, asked = tested(recipe, name)
        yield f"{100 * accuracy:.1f}"
    yield f"{asked}"


def tested(recipe: Recipe, framing: Framing) -> tuple[float, int]:
    """Accuracy on test of the head that a run of the recipe solves, and the number of images."""
    runtime = create_runtime("cpu")
    data = recipe.data.model_copy(update={"framing": framing})
    plan = make_plan(recipe.model_copy(update={"data": data}), runtime, Reporter())
    backbone = load_backbone(plan.weights, size=plan.size)
    top = len(backbone.stages())
    cache = BoundaryCache(backbone, top, plan.transform, runtime, Reporter())
    splits = plan.splits
    train, val, test = (
        CachedFeed(cache.rows(images, label="").array, images.labels, images.keys, 0, runtime)
        for images in (splits.train, splits.val, splits.test)
    )
    problem = HeadProblem(train, val, plan.classes, None, data.split_seed, splits.val_cut)
    l2 = problem.solve(L2_PATH, lambda: None)[0].l2
    head = problem.fit_to_all(l2)
    rows = torch.from_numpy(np.array(test.array)).reshape(len(test.labels), -1)
    answers = torch.addmm(head.bias, rows, head.weight.T).argmax(dim=1).numpy()
    return float((answers == test.labels).mean()), len(answers)


def paddings(recipe: Recipe, scratch: Path) -> Iterator[str]:
    """The held-out accuracy of pad by the colour that it fills with."""
    weights = Path(os.environ["HEADSTART_CACHE"], "weights")
    for name, colour in PADDINGS.items():
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            Path(cache, "weights").symlink_to(weights)
            own = mock.patch.dict(os.environ, {"HEADSTART_CACHE": cache})
            with own, mock.patch.object(squares, "PADDING", colour):
                source = EvidenceSource(recipe, "cpu", None, Reporter())
                choice = choose_framing(source, recipe, 1.0, 10**9)
            assert choice is not None
            yield f"{name} {100 * choice.scores[PAD]:.1f}"


if __name__ == "__main__":
    main()
