"""The data sources by name: list, fetch, load and describe them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.check.faults import find_warnings
from headstart.data.groups import with_groups
from headstart.data.sources import cifar, mini
from headstart.data.sources.cifar import CIFARS
from headstart.data.sources.download import Progress
from headstart.data.sources.fetching import fetch_cifar
from headstart.data.sources.folder import open_photos
from headstart.data.sources.layout import find_photos
from headstart.data.sources.manifest import read_manifest
from headstart.data.sources.masks import without_masks
from headstart.data.sources.named import find_named
from headstart.data.sources.places import (
    MANIFEST,
    is_manifest,
    is_photos,
    is_table,
    photos_path,
    photos_root,
)
from headstart.data.sources.scan import forget_scan
from headstart.data.splits import BadImage, Source, Splits, make_splits, torn_labels
from headstart.data.strata import class_counts
from headstart.errors import DataError, did_you_mean
from headstart.files import expand_user
from headstart.specs import DataSpec
from headstart_predict.cards import Card, Shown


@dataclass(frozen=True)
class SourceInfo:
    """A source that has a name. path: its folder or archive on this machine, or None."""

    name: str
    images: int
    classes: int
    side: int
    path: Path | None
    licence: str
    citation: str


@dataclass(frozen=True, repr=False)
class Description(Shown):
    """A data set in plain values.

    counts: by split, the number of images of each class, in class order. images: by split; not the
    sum of the counts where an image may have several labels. smallest, median, largest:
    (width, height) of stored images, ordered by area. cut: the median share of an image that is
    outside its centre square. balance: training images of the largest class
    divided by those of the smallest; 1 is balanced.
    """

    source: str
    class_names: tuple[str, ...]
    counts: dict[str, list[int]]
    images: dict[str, int]
    balance: float
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    cut: float
    fingerprint: str
    quarantined: tuple[BadImage, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def _card(self) -> Card:
        splits = ("train", "val", "test")
        counts = ", ".join(f"{split} {self.images[split]:,}" for split in splits)
        facts = [("images", counts), ("balance", f"{self.balance:.2f} (1 is balanced)")]
        facts.append(("median", "{} x {} pixels".format(*self.median)))
        if self.quarantined:
            bad = self.quarantined[0]
            example = f"{len(self.quarantined):,}, such as {bad.path}: {bad.reason}"
            facts.append(("left out", example))
        facts += [("warning", line) for line in self.warnings]
        rows = [
            [name, *(f"{self.counts[split][i]:,}" for split in splits)]
            for i, name in enumerate(self.class_names)
        ]
        title = f"{self.source}: {len(self.class_names)} classes"
        return Card(title, facts, ("class", *splits), rows)


def load_data(spec: DataSpec, *, progress: Progress | None = None) -> Splits:
    """The images of a recipe, split. `spec.size` must be set for photos, which are read at it.

    Downloads CIFAR if it is not on this machine. Raises DataError, one line, for anything that the
    user can fix.
    """
    return _split(open_source(spec, progress=progress), spec)


def open_source(spec: DataSpec, *, progress: Progress | None = None) -> Source:
    """The source that `spec.source` names, before it is split. Raises DataError for an unknown
    name."""
    name = spec.source
    if spec.labels == "many" and not is_manifest(name):
        raise DataError(
            f'{name}: data.labels = "many" needs a table that gives each photo its labels '
            "(manifest:PATH)"
        )
    if is_photos(name):
        return _open_photos(spec, progress)
    for key in ("label_from", "group", "framing"):
        if getattr(spec, key) != DataSpec.model_fields[key].default:
            raise DataError(f"data.{key} is for photos of your own, not for {name}: leave it out")
    if name == mini.NAME:
        return mini.open_mini()
    if name in CIFARS:
        return cifar.open_cifar(CIFARS[name], fetch_cifar(CIFARS[name], progress))
    raise _unknown(name)


def _open_photos(spec: DataSpec, progress: Progress | None) -> Source:
    path, root = photos_path(spec.source), photos_root(spec.source)
    if spec.size is None:
        raise DataError(f"{spec.source}: data.size is needed: how many pixels a side to read")
    if is_manifest(spec.source):
        if spec.label_from is not None:
            raise DataError(f"{path}: the table has the labels: leave data.label_from out")
        layout = read_manifest(path, many=spec.labels == "many")
    elif is_table(path) and path.is_file():
        raise DataError(f"{path}: a table, not a folder: write {MANIFEST}{path}")
    else:
        named = spec.label_from
        layout = find_photos(root) if named is None else find_named(root, named)
        layout = without_masks(root, layout)
    source = open_photos(path, root, layout, spec.size, spec.framing, progress)
    # The name stays as it was typed, so that a run records the same source on any machine.
    source = replace(source, name=spec.source)
    return source if spec.group is None else with_groups(source, layout, root, spec.group, progress)


def forget_scans(sources: Iterable[str]) -> None:
    """Have the photos of these sources be read again, whatever is remembered of them."""
    for source in sources:
        if is_photos(source):
            forget_scan(photos_root(source))


def list_sources() -> list[SourceInfo]:
    """The sources that have a name, and where each is. Reads no image, uses no network."""
    asset = Path(str(resources.files("headstart") / "assets" / mini.ASSET))
    sources = [
        SourceInfo(
            mini.NAME,
            sum(mini.COUNTS.values()),
            10,
            cifar.SIDE,
            asset,
            cifar.LICENCE,
            cifar.CITATION,
        )
    ]
    for kind in CIFARS.values():
        images = sum(file.images for file in kind.files)
        sources.append(
            SourceInfo(
                kind.name,
                images,
                len(kind.class_names),
                cifar.SIDE,
                cifar.find(kind),
                cifar.LICENCE,
                cifar.CITATION,
            )
        )
    return sources


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Download cifar10 or cifar100 if needed, verify it, and return its folder.

    A data set that is on this machine already is verified and not moved.
    """
    if name not in CIFARS:
        if name == mini.NAME:
            raise DataError(f"{name} is inside the package: there is nothing to fetch")
        raise _unknown(name)
    folder = fetch_cifar(CIFARS[name], progress)
    cifar.verify(CIFARS[name], folder)
    return folder


def describe(spec: DataSpec, *, progress: Progress | None = None) -> Description:
    """Counts, sizes, balance and faults of a data set as `spec` splits it; size may be None."""
    spec = spec if spec.size is not None else spec.model_copy(update={"size": 224})
    source = open_source(spec, progress=progress)
    splits = _split(source, spec)
    classes = len(splits.class_names)
    sets = {"train": splits.train, "val": splits.val, "test": splits.test}
    counts = {
        split: class_counts(images.labels, classes).tolist() for split, images in sets.items()
    }
    by_area = source.sizes[np.lexsort((source.sizes[:, 0], source.sizes.prod(axis=1)))].tolist()
    smallest, median, largest = (tuple(by_area[i]) for i in (0, len(by_area) // 2, -1))
    return Description(
        source=splits.source,
        class_names=splits.class_names,
        counts=counts,
        images={split: len(images) for split, images in sets.items()},
        balance=max(counts["train"]) / min(counts["train"]),
        smallest=smallest,
        median=median,
        largest=largest,
        cut=float(np.median(1 - source.sizes.min(axis=1) / source.sizes.max(axis=1))),
        fingerprint=splits.fingerprint,
        quarantined=splits.quarantined,
        warnings=tuple(find_warnings(splits, spec, progress)),
    )


def _split(source: Source, spec: DataSpec) -> Splits:
    splits = make_splits(source, spec)
    if is_photos(spec.source):  # the known data sets need no check
        splits = replace(splits, notes=splits.notes + torn_labels(splits))
    return splits


def _unknown(name: str) -> DataError:
    known = [mini.NAME, *CIFARS]
    path = expand_user(name)
    if path.is_dir():
        hint = f"; did you mean folder:{name}?"
    elif is_table(path):
        hint = f"; did you mean manifest:{name}?"
    else:
        hint = did_you_mean(name, known)
    places = "folder:PATH, manifest:PATH"
    return DataError(f"unknown data source {name!r}{hint} (known: {', '.join(known)}, {places})")
