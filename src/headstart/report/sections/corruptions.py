"""Corruptions: accuracy on corrupted test images, a small plot for each corruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.evaluation.corruptions import CorruptedScores, Corruptions
from headstart.report.contenders import Contender
from headstart.report.drawing.series import Band, draw, key
from headstart.report.drawing.svg import (
    BOTTOM,
    LEFT,
    SMALL_RIGHT,
    SMALL_VIEW,
    TOP,
    Figure,
    Scale,
    frame,
    in_percent,
    panel,
)
from headstart.report.sections.tables import TableRow
from headstart.text import formats


@dataclass(frozen=True)
class Tested:
    """A configuration that was tested: its style is its rank, as in every plot of the page."""

    name: str
    style: int
    block: Corruptions


@dataclass(frozen=True, slots=True)
class CorruptionsRow:
    """A configuration's accuracy on clean images, the mean over all corruptions, and the worst.
    key: of its line in the plots. balanced: balanced accuracy, clean and mean."""

    name: str
    key: Markup
    clean: float
    mean: float
    balanced: tuple[float, float]
    drop: str
    worst: CorruptedScores


@dataclass(frozen=True, slots=True)
class CorruptionsSection:
    """On `n` test images. many: whether there are several configurations."""

    figures: list[Figure]
    rows: list[CorruptionsRow]
    n: int
    many: bool


@dataclass(frozen=True, slots=True)
class Heat:
    """One corruption at one severity. shade: the lost share of the clean accuracy, 0 to 1."""

    accuracy: float
    setting: str
    shade: float


@dataclass(frozen=True, slots=True)
class HeatTable:
    """One run on `n` test images: None in a cell where a severity was not tested."""

    severities: list[int]
    rows: list[TableRow[Heat | None]]
    clean: float
    n: int


def describe_corruptions(contenders: Sequence[Contender]) -> CorruptionsSection | None:
    """A plot for each corruption and a line for each configuration; None where none was tested."""
    tested = [
        Tested(c.name, rank, block)
        for rank, c in enumerate(contenders)
        if (block := c.first(lambda metrics: metrics.corruptions))
    ]
    if not tested:
        return None
    kinds = dict.fromkeys(row.name for each in tested for row in each.block.corruptions)
    shown = [row.accuracy for each in tested for row in each.block.corruptions]
    shown += [each.block.accuracy for each in tested]
    extent = (100 * min(shown), 100 * max(shown))
    figures = [
        Figure(_title(kind), _panel(kind, tested, extent), under=_settings(kind, tested))
        for kind in kinds
    ]
    rows = [
        CorruptionsRow(
            name=each.name,
            key=key(each.style),
            clean=each.block.accuracy,
            mean=each.block.mean,
            balanced=(each.block.balanced_accuracy, each.block.balanced_mean),
            drop=formats.points(each.block.mean - each.block.accuracy),
            worst=min(each.block.corruptions, key=lambda row: row.accuracy),
        )
        for each in tested
    ]
    return CorruptionsSection(figures, rows, tested[0].block.n, len(tested) > 1)


def _title(kind: str) -> str:
    return kind.upper() if kind == "jpeg" else kind[0].upper() + kind[1:]


def _rows(kind: str, block: Corruptions) -> list[CorruptedScores]:
    own = [row for row in block.corruptions if row.name == kind]
    return sorted(own, key=lambda row: row.severity)


def _settings(kind: str, tested: Sequence[Tested]) -> str:
    rows = next(rows for each in tested if (rows := _rows(kind, each.block)))
    return "; ".join(f"{row.severity}: {row.setting}" for row in rows)


def _panel(kind: str, tested: Sequence[Tested], extent: tuple[float, float]) -> Markup:
    """Severity from 0, the clean images, to the strongest that was tested."""
    bands = []
    for each in tested:
        block = each.block
        points = [(0.0, 100 * block.accuracy)]
        points += [(row.severity, 100 * row.accuracy) for row in _rows(kind, block)]
        tips = [f"{each.name}, clean: {formats.percent(block.accuracy)}"]
        tips += [
            f"{each.name}, severity {row.severity} ({row.setting}): "
            f"{formats.percent(row.accuracy)} {formats.interval(row.interval)}"
            for row in _rows(kind, block)
        ]
        bands.append(Band(each.name, each.style, points, tips))
    last = max(px for band in bands for px, _ in band.points)
    pad = max(2.0, 0.06 * (extent[1] - extent[0]))
    x = Scale(-0.2, last + 0.2, LEFT, SMALL_RIGHT)
    y = Scale(max(0.0, extent[0] - pad), min(100.0, extent[1] + pad), BOTTOM, TOP)
    ticks = sorted({px for band in bands for px, _ in band.points})
    marks = frame(x, y, x_label="severity (0: clean)", y_format=in_percent, x_ticks=ticks,
                  right=SMALL_RIGHT)  # fmt: skip
    marks += [mark for band in reversed(bands) for mark in draw(band, x, y)]
    label = f"Accuracy by severity of {kind}: {', '.join(b.name for b in bands)}"
    return panel(marks, label, SMALL_VIEW)


def heat_table(block: Corruptions) -> HeatTable:
    """One run's accuracies: corruptions as rows, severities as columns."""
    severities = sorted({row.severity for row in block.corruptions})
    clean = max(block.accuracy, 1e-9)
    rows = []
    for kind in dict.fromkeys(row.name for row in block.corruptions):
        known = {row.severity: row for row in _rows(kind, block)}
        rows.append(
            TableRow(kind, [_heat(known[s], clean) if s in known else None for s in severities])
        )
    return HeatTable(severities, rows, block.accuracy, block.n)


def _heat(scores: CorruptedScores, clean: float) -> Heat:
    lost = min(1.0, max(0.0, 1 - scores.accuracy / clean))
    return Heat(scores.accuracy, scores.setting, round(lost, 2))
