"""Lines: curves of training, paths of penalties, and what the comparison draws over one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from headstart.report.drawing.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Scale,
    element,
    frame,
    in_percent,
    linear_ticks,
    panel,
    text_width,
)
from headstart.text.formats import general


@dataclass(frozen=True)
class Series:
    """One line: its points from left to right, and the text that each shows when pointed at."""

    kind: Literal["train", "val"]
    points: Sequence[tuple[float, float]]
    tips: Sequence[str] = ()


@dataclass(frozen=True)
class Span:
    """A stretch of the x axis with a name: a phase."""

    start: float
    end: float
    number: int
    label: str
    kept: tuple[float, float] | None = None  # the point whose weights the phase went on with


def curve_panel(
    series: Sequence[Series], spans: Sequence[Span], *, name: str, percent: bool
) -> Markup:
    """A measure over epochs, train and validation, with the phases as named stretches."""
    ends = [edge for span in spans for edge in (span.start, span.end)]
    x = Scale(min(ends), max(ends), LEFT, RIGHT)
    y = _value_scale(series, most=100.0 if percent else math.inf)
    marks: list[Markup] = []
    for span in spans:
        left, right = x(span.start), x(span.end)
        if span is not spans[0]:
            marks.append(
                element("line", class_="boundary", x1=left, x2=left, y1=TOP - 14, y2=BOTTOM)
            )
        text = f"{span.number} {span.label}"
        if text_width(text) > right - left - 6:
            text = str(span.number)
        tip = element("title", f"Phase {span.number}: {span.label}")
        marks.append(
            element("text", tip, text, class_="phase", x=left + 4, y=TOP - 6, text_anchor="start")
        )
    marks += [mark for line in series for mark in _line(line, x, y)]
    kept = [span.kept for span in spans if span.kept is not None]
    marks += [
        element("circle", class_="kept", cx=x(px), cy=y(py), r=5.5, pointer_events="none")
        for px, py in kept
    ]
    shown = in_percent if percent else general
    ticks = [v for v in linear_ticks(x.low, x.high) if v >= 0 and v == int(v)]
    around = frame(x, y, x_label="epoch, all phases", y_format=shown, x_ticks=ticks)
    return panel([*around, *marks], f"{name} by epoch, train and validation")


def path_panel(
    series: Sequence[Series], *, chosen: float | None, name: str, percent: bool
) -> Markup:
    """A measure against the L2 penalty of a solved head, with the value validation chose.

    A penalty of zero has no place on a log axis: it stands one decade below the smallest other.
    """
    given = sorted({px for line in series for px, _ in line.points})
    positive = [v for v in given if v > 0] or [1.0]
    zero_at = positive[0] / 10
    x = Scale(min(zero_at if given[0] <= 0 else given[0] / 1.6, positive[0] / 1.6),
              positive[-1] * 1.6, LEFT, RIGHT, log=True)  # fmt: skip
    y = _value_scale(series, most=100.0 if percent else math.inf)

    def place(value: float) -> float:
        return value if value > 0 else zero_at

    marks: list[Markup] = []
    if chosen is not None:
        at = x(place(chosen))
        end = at > (LEFT + RIGHT) / 2
        marks = [
            element("line", class_="chosen", x1=at, x2=at, y1=TOP - 14, y2=BOTTOM),
            element(
                "text", f"chosen: {general(chosen)}", class_="phase",
                x=at - 5 if end else at + 5, y=TOP - 6, text_anchor="end" if end else "start",
            ),
        ]  # fmt: skip
    for line in series:
        placed = [(place(px), py) for px, py in line.points]
        marks += _line(Series(line.kind, placed, line.tips), x, y)
    shown = in_percent if percent else general
    around = frame(x, y, x_label="L2 penalty", y_format=shown)
    return panel([*around, *marks], f"{name} against the L2 penalty, train and validation")


def _value_scale(series: Sequence[Series], most: float) -> Scale:
    values = [py for line in series for _, py in line.points]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-6)
    bottom = max(0.0, low - pad) if low >= 0 else low - pad
    return Scale(bottom, min(most, high + pad), BOTTOM, TOP)


def _line(line: Series, x: Scale, y: Scale) -> list[Markup]:
    placed = [(x(px), y(py)) for px, py in line.points]
    marks = []
    if len(placed) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
        marks.append(element("polyline", class_=f"line {line.kind}", points=path))
    if len(placed) <= 60:
        tips = line.tips or [""] * len(placed)
        marks += [
            element(
                "circle", element("title", tip), class_=f"knot {line.kind}", cx=px, cy=py, r=2.6
            )
            for (px, py), tip in zip(placed, tips, strict=True)
        ]
    return marks
