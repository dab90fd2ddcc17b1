"""The output of `data`: sources, a data set, its faults and duplicates, and the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.cli.tables.common import warning_lines
from headstart_predict.cards import grid, percent
from headstart_predict.plain import one_line

if TYPE_CHECKING:
    from headstart.data import Description, SourceInfo
    from headstart.data.check.duplicates import Duplicates


def format_sources(sources: Sequence[SourceInfo]) -> str:
    rows = [
        [s.name, f"{s.images:,}", str(s.classes), f"{s.side}", str(s.path or "not here yet")]
        for s in sources
    ]
    table = grid(["name", "images", "classes", "pixels", "found"], rows, "lrrrl")
    hints = [
        "folder:PATH is a folder of class folders, or of train/, val/ and test/ with classes.",
        "manifest:PATH is a .csv, .tsv or .parquet with columns path,label[,split][,group].",
        "Fetch one: headstart data fetch cifar10. Look at one: headstart data samples cifar10-mini",
    ]
    return "\n".join([table, "", *hints])


def format_description(description: Description) -> str:
    d = description
    rows = [
        [name, *(f"{d.counts[split][i]:,}" for split in ("train", "val", "test"))]
        for i, name in enumerate(d.class_names)
    ]
    rows.append(["total", *(f"{d.images[s]:,}" for s in ("train", "val", "test"))])
    w, h = d.median
    lines = [
        f"{d.source}: {len(d.class_names)} classes, balance {d.balance:.2f} (1 is balanced), "
        f"median image {w} x {h}",
        grid(["class", "train", "val", "test"], rows, "lrrr"),
        f"fingerprint {d.fingerprint}",
    ]
    return "\n".join(lines)


def fault_lines(description: Description) -> list[str]:
    """The faults of a data set: its warnings, and each image that is left out."""
    lines = warning_lines(description.warnings)
    left_out = (f"left out: {b.path}: {b.reason}" for b in description.quarantined[1:])
    return [*lines, *map(one_line, left_out)]


def format_duplicates(duplicates: Duplicates) -> str:
    """Duplicates between splits: images of the first split with a duplicate in the second."""
    rows = []
    for between, pairs in duplicates.pairs.items():
        first, second = between.split("/")
        images, exact = duplicates.affected(between), sum(pair.kind == "exact" for pair in pairs)
        share = percent(images / max(duplicates.images[first], 1))
        where = f"{first} in {second}" if first != second else f"within {first}"
        mirrored = sum(pair.mirrored for pair in pairs)
        rows.append((where, f"{images:,}", share, f"{len(pairs):,}", f"{exact:,}", f"{mirrored:,}"))
    lines = [
        grid(("duplicates", "images", "share", "pairs", "exact", "mirrored"), rows, "lrrrrr"),
        f"by {duplicates.source}",
    ]
    for between in ("test/train", "test/val"):
        if pairs := duplicates.pairs[between]:
            images, other = duplicates.affected(between), between.rpartition("/")[2]
            lines.append(
                f"{images:,} of {duplicates.images['test']:,} test images have a duplicate in "
                f"{other}, such as {pairs[0].first} = {pairs[0].second}: "
                "test scores will look better than they are"
            )
    return "\n".join(lines)


def format_cache(entries: Sequence[tuple[Path, int]], root: Path, limit: int) -> str:
    rows = [[path.name, f"{size / 1e6:,.1f}"] for path, size in entries]
    total = sum(size for _, size in entries)
    summary = f"{root}: {total / 1e9:.2f} of {limit / 1e9:.0f} GB in {len(entries)} entries"
    return "\n".join([grid(["entry", "MB"], rows, "lr"), "", summary]) if rows else summary
