"""Find the test images of CIFAR-10 and CIFAR-100 that have a duplicate, in train or in test.

    python tools/find_duplicates.py [cifar10 cifar100]

writes src/headstart/assets/duplicates_NAME.csv, one pair in each row, the surest first. Candidates
are neighbours by thumbnail and in the feature space of EfficientNet-Lite0 at 96 pixels;
`headstart.data.check.pairs` decides which are duplicates. Images are named by their content. The
features are cached: on two cores the first time takes ten minutes for a data set, then five.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data.check.duplicates import COLUMNS, content_name, list_name
from headstart.data.check.pairs import Features, Pairs, find_pairs, unit_rows
from headstart.data.images import ImageSet, Store, encode_png
from headstart.data.loading import open_source
from headstart.features.cache import BoundaryCache
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import load_backbone
from headstart.models.weights import locate_weights
from headstart.specs import DataSpec
from headstart.views.transforms import Transform
from headstart_predict.framing import CROP

ASSETS = Path(__file__).resolve().parents[1] / "src" / "headstart" / "assets"
BACKBONE, SIZE = "tf_efficientnet_lite0", 96


@dataclass(frozen=True, eq=False)
class Mirrored:
    """A store's images, left to right."""

    store: Store
    slow_to_read = False
    framing = CROP

    @property
    def side(self) -> int:
        return self.store.side

    def read(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.store.read(rows)[:, :, ::-1])

    def digests(self, rows: np.ndarray) -> list[bytes]:
        return [b"mirrored" + digest for digest in self.store.digests(rows)]

    def as_file(self, row: int) -> bytes:
        return encode_png(self.read(np.array([row]))[0])


def main() -> None:
    weights = locate_weights(BACKBONE, "registry")
    backbone = load_backbone(weights, size=SIZE)
    transform = Transform(replace(weights.preprocess, size=SIZE))
    runtime = create_runtime("cpu")
    cache = BoundaryCache(backbone, len(backbone.stages()), transform, runtime, Reporter())

    def features(images: ImageSet, label: str) -> np.ndarray:
        return unit_rows(cache.rows(images, label=label).array[:, 0])

    for name in sys.argv[1:] or ("cifar10", "cifar100"):
        source = open_source(DataSpec(source=name))
        train, test = source.train, source.test
        assert test is not None  # CIFAR brings its own
        mirrored = replace(test, store=Mirrored(test.store))
        plain, turned = features(test, f"{name} test"), features(mirrored, f"{name} mirrored")
        rows: dict[tuple[str, ...], tuple[str, ...]] = {}  # two train images may be one picture
        for other, features_of in (
            (train, Features(plain, turned, features(train, f"{name} train"))),
            (test, Features(plain, turned, plain)),
        ):
            pairs = find_pairs(test, other, features_of)
            for row in (as_row(pairs, i, test, other) for i in range(len(pairs))):
                rows.setdefault(row[:2], row)
        path = ASSETS / list_name(name)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows.values()])
        sys.stdout.write(f"{path}: {len(rows)} pairs, {path.stat().st_size} bytes\n")


def as_row(pairs: Pairs, i: int, first: ImageSet, second: ImageSet) -> tuple[str, ...]:
    """One pair as a row of the list."""
    return (
        content_name(first.digests[pairs.first[i]]),
        content_name(second.digests[pairs.second[i]]),
        "exact" if pairs.exact[i] else "near",
        str(int(pairs.mirrored[i])),
        f"{pairs.correlation[i]:.3f}",
        f"{pairs.cosine[i]:.3f}",
    )


if __name__ == "__main__":
    main()
