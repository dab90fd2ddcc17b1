"""How many planted duplicates are found between splits.

    python bench/duplicates.py FOLDER... [--cifar100 N] [--seeds 3]

Of each folder of classes, of the embedded sample and of N training images of CIFAR-100 (from
HEADSTART_DATA), four fifths are train and the rest is test. Copies of train images, 5 % of all, are
added to test: the same bytes, resized to 60 %, JPEG of quality 40, or mirrored. The table gives the
share of each kind that `headstart data duplicates` reports together with its own original, and the
test images that it reports without a copy of ours, which are true duplicates or false alarms.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from audit import exported
from PIL import Image, ImageOps

import headstart
from headstart.machine.progress import Reporter

SHARE, TESTED = 0.05, 0.2


def resized(image: Image.Image, path: Path) -> None:
    small = image.resize((max(round(0.6 * image.width), 1), max(round(0.6 * image.height), 1)))
    small.save(path.with_suffix(".png"))


def recompressed(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".jpg"), quality=40)


def mirrored(image: Image.Image, path: Path) -> None:
    ImageOps.mirror(image).save(path.with_suffix(".png"))


KINDS: dict[str, Callable[[Image.Image, Path], None] | None] = {
    "same bytes": None,
    "resized": resized,
    "recompressed": recompressed,
    "mirrored": mirrored,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--cifar100", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    print(f"| set | images | planted | {' | '.join(KINDS)} | others |")
    print(f"| --- | ---: | ---: | {' | '.join('---:' for _ in KINDS)} | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for folder in [*asked.folders, *exported(Path(scratch) / "sets", asked.cifar100)]:
            found: dict[str, list[bool]] = defaultdict(list)
            others = []
            for seed in range(asked.seeds):
                root = Path(scratch) / "planted"
                planted = plant(folder, root, seed)
                others.append(look_for(planted, root, found))
                shutil.rmtree(root)
            images = len(pictures(folder))
            shares = [f"{np.mean(found[kind]):.1%}" for kind in KINDS]
            mean = f"{np.mean(others):.0f}"
            count = str(sum(map(len, found.values())))
            print(f"| {' | '.join([folder.name, str(images), count, *shares, mean])} |", flush=True)


def pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def plant(folder: Path, root: Path, seed: int) -> dict[str, tuple[str, str]]:
    """Lay out train/ and test/ in `root`; the kind and the original of each copy, by its stem."""
    rng = np.random.default_rng(seed)
    paths = pictures(folder)
    order = rng.permutation(len(paths))
    tested = set(order[: round(TESTED * len(paths))].tolist())
    for number, path in enumerate(paths):
        split = "test" if number in tested else "train"
        target = root / split / path.parent.name / f"{number:06}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    copies = {}
    originals = [number for number in order.tolist() if number not in tested]
    for count, number in enumerate(originals[: round(SHARE * len(paths))]):
        kind = list(KINDS)[count % len(KINDS)]
        path, stem = paths[number], f"copy-{number:06}"
        target = root / "test" / path.parent.name / stem
        target.parent.mkdir(parents=True, exist_ok=True)
        if (change := KINDS[kind]) is None:
            shutil.copy(path, target.with_suffix(path.suffix))
        else:
            change(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), target)
        copies[stem] = kind, f"{number:06}"
    return copies


def look_for(copies: dict[str, tuple[str, str]], root: Path, found: dict[str, list[bool]]) -> int:
    """Add whether each copy was found with its original; the other test images that were found."""
    pairs = headstart.duplicates(f"folder:{root}", reporter=Reporter()).pairs["test/train"]
    by_test: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        by_test[Path(pair.first).stem].add(Path(pair.second).stem)
    for stem, (kind, original) in copies.items():
        found[kind].append(original in by_test[stem])
    return len({stem for stem, others in by_test.items() if others and stem not in copies})


if __name__ == "__main__":
    main()
