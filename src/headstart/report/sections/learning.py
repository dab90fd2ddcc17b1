"""Label efficiency: accuracy against labelled images a class, all backbones in one plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.report.contenders import Contender
from headstart.report.drawing.series import Band, draw, key
from headstart.report.drawing.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Scale,
    element,
    frame,
    in_percent,
    panel,
)
from headstart.report.sections.tables import TableRow
from headstart.rundir.records import EfficiencyPoint, LabelEfficiency
from headstart.text import formats


@dataclass(frozen=True, slots=True)
class LearningRow(TableRow[EfficiencyPoint | None]):
    """Configurations that share a line. key: of the line."""

    key: Markup


@dataclass(frozen=True, slots=True)
class LearningSection:
    """The plot and its numbers. sizes: images a class, a cell each in every row. n: images that
    the split has. draws: of training images, at most."""

    svg: Markup
    sizes: list[int]
    rows: list[LearningRow]
    n: int
    split: str
    draws: int
    notes: list[str]


def describe_learning(contenders: Sequence[Contender]) -> LearningSection | None:
    """The plot, and its numbers as a table; None where no run has frozen features.

    Configurations whose frozen features are the same share a line. Curves on validation are shown
    only where there is none on test: the two are not to be compared.
    """
    curves = [
        (rank, c.name, curve)
        for rank, c in enumerate(contenders)
        if (curve := c.first(lambda metrics: metrics.label_efficiency)) and curve.points
    ]
    split = "test" if any(curve.split == "test" for _, _, curve in curves) else "val"
    found: dict[str, tuple[int, list[str], LabelEfficiency]] = {}
    for rank, name, curve in curves:
        if curve.split == split:
            found.setdefault(str(curve.points), (rank, [], curve))[1].append(name)
    if not found:
        return None
    bands, rows = [], []
    curve_of = [curve for _, _, curve in found.values()]
    sizes = sorted({size for curve in curve_of for size, _ in _sized(curve)})
    for style, owners, curve in found.values():
        name = formats.join_words(owners)
        bands.append(_band(name, style, _sized(curve)))
        known = dict(_sized(curve))
        rows.append(LearningRow(name, [known.get(n) for n in sizes], key(style)))
    first = curve_of[0]
    return LearningSection(
        svg=learning_panel(bands),
        sizes=sizes,
        rows=rows,
        n=first.n,
        split=split,
        draws=max(point.draws for point in first.points),
        notes=list(dict.fromkeys(curve.note for curve in curve_of)),
    )


def _sized(curve: LabelEfficiency) -> list[tuple[int, EfficiencyPoint]]:
    """Points by their images a class, rounded for that of all images."""
    per_class = ((p.images, p.per_class) for p in curve.points if p.per_class)
    images, size = next(per_class, (1, 1))
    classes = images / size
    return [(point.per_class or round(point.images / classes), point) for point in curve.points]


def _band(name: str, style: int, points: Sequence[tuple[int, EfficiencyPoint]]) -> Band:
    ordered = sorted(points, key=lambda sized: sized[0])
    return Band(
        name,
        style,
        [(float(size), 100 * p.accuracy) for size, p in ordered],
        [
            f"{name}, {size} a class: {formats.percent(p.accuracy)} "
            f"({100 * p.low:.1f} to {100 * p.high:.1f})"
            for size, p in ordered
        ],
        [(100 * p.low, 100 * p.high) for _, p in ordered],
    )


def learning_panel(bands: Sequence[Band]) -> Markup:
    """Accuracy in percent over images a class on a log axis."""
    xs = [px for band in bands for px, _ in band.points]
    ys = [bound for band in bands for pair in band.ranges for bound in pair]
    pad = max(2.0, 0.06 * (max(ys) - min(ys)))
    spread = 1.12 if max(xs) > min(xs) else 2.0
    x = Scale(min(xs) / spread, max(xs) * spread, LEFT, RIGHT, log=True)
    y = Scale(max(0.0, min(ys) - pad), min(100.0, max(ys) + pad), BOTTOM, TOP)
    ticks = sorted(set(xs))
    marks = frame(x, y, x_label="labelled images a class", y_format=in_percent, x_ticks=ticks)
    marks += [mark for band in reversed(bands) for mark in draw(band, x, y)]
    names = ", ".join(band.name for band in bands)
    return panel([*marks, element("desc", names)], f"Accuracy by images a class: {names}")
