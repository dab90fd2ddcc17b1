"""Plots as inline SVG: coordinates are computed here, colours come from the page's style sheet.

Drawn by hand and not by a plotting library so that one drawing serves light, dark and print, stays
sharp at every size, keeps its text selectable and weighs a few kilobytes. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from headstart.report.formats import general, shorten

WIDTH, HEIGHT = 380, 280  # of a panel, in units that are about one pixel
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 368, 22, 242  # the plotting area inside it
_LETTER = 5.9  # average width of a letter at the panels' text size of 11

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A run in a plot of accuracy against cost; accuracies are in percent."""

    label: str
    x: float
    y: float
    low: float
    high: float
    kind: Literal["best", "near", "other"]
    tip: str


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


@dataclass(frozen=True)
class Scale:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = ((math.log(v) if self.log else v) for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def element(name: str, *children: str, **attributes: object) -> Markup:
    """One escaped SVG element; `class_` and `stroke_width` become class and stroke-width."""
    written = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), f"{v:.1f}" if isinstance(v, float) else v
        )
        for key, v in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(children))


def whisker(
    accuracy: float, bounds: Sequence[float], extent: tuple[float, float], best: float | None
) -> Markup:
    """A dot with its interval on a scale that all rows share; a tick shows the best accuracy."""
    width, middle = 104, 7
    x = Scale(*extent, 3, width - 3)
    low, high = x(bounds[0]), x(bounds[1])
    marks = [element("line", class_="track", x1=0, x2=width, y1=middle, y2=middle)]
    if best is not None:
        marks.append(element("line", class_="best-line", x1=x(best), x2=x(best), y1=0, y2=14))
    marks += [
        element("line", class_="whisker", x1=low, x2=high, y1=middle, y2=middle),
        element("circle", class_="dot", cx=x(accuracy), cy=middle, r=3.5),
    ]
    return element(
        "svg", *marks, class_="inline-bar", viewBox=f"0 0 {width} 14", aria_hidden="true"
    )


def cost_panel(points: Sequence[Point], *, x_label: str) -> Markup:
    """Accuracy against one cost on a log axis, with the frontier of the runs nothing beats."""
    xs = [p.x for p in points]
    margin = max(1.25, (max(xs) / min(xs)) ** 0.08)
    x = Scale(min(xs) / margin, max(xs) * margin, _LEFT, _RIGHT, log=True)
    lows, highs = [p.low for p in points], [p.high for p in points]
    pad = max(0.5, 0.06 * (max(highs) - min(lows)))
    y = Scale(max(0.0, min(lows) - pad), min(100.0, max(highs) + pad), _BOTTOM, _TOP)
    frontier = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in _frontier(points))
    marks = [element("polyline", class_="frontier", points=frontier)]
    for p in points:
        marks.append(
            element(
                "g",
                element("title", p.tip),
                element("line", x1=x(p.x), x2=x(p.x), y1=y(p.low), y2=y(p.high)),
                element("circle", cx=x(p.x), cy=y(p.y), r=4.5),
                class_=f"point {p.kind}",
            )
        )
    marks += _labels(points, x, y)
    frame = _frame(x, y, x_label=x_label, y_format=_in_percent)
    return _panel([*frame, *marks], f"Test accuracy in percent against {x_label}")


def curve_panel(
    series: Sequence[Series], spans: Sequence[Span], *, name: str, percent: bool
) -> Markup:
    """A measure over epochs, train and validation, with the phases as named stretches."""
    ends = [edge for span in spans for edge in (span.start, span.end)]
    x = Scale(min(ends), max(ends), _LEFT, _RIGHT)
    y = _value_scale(series)
    marks: list[Markup] = []
    for span in spans:
        left, right = x(span.start), x(span.end)
        if span is not spans[0]:
            marks.append(
                element("line", class_="boundary", x1=left, x2=left, y1=_TOP - 14, y2=_BOTTOM)
            )
        text = f"{span.number} {span.label}"
        if len(text) * _LETTER > right - left - 6:
            text = str(span.number)
        tip = element("title", f"Phase {span.number}: {span.label}")
        marks.append(
            element("text", tip, text, class_="phase", x=left + 4, y=_TOP - 6, text_anchor="start")
        )
    marks += [mark for line in series for mark in _line(line, x, y)]
    kept = [span.kept for span in spans if span.kept is not None]
    marks += [
        element("circle", class_="kept", cx=x(px), cy=y(py), r=5.5, pointer_events="none")
        for px, py in kept
    ]
    shown = _in_percent if percent else general
    frame = _frame(x, y, x_label="epoch, all phases", y_format=shown, whole=True)
    return _panel([*frame, *marks], f"{name} by epoch, train and validation")


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
              positive[-1] * 1.6, _LEFT, _RIGHT, log=True)  # fmt: skip
    y = _value_scale(series)

    def place(value: float) -> float:
        return value if value > 0 else zero_at

    marks: list[Markup] = []
    if chosen is not None:
        at = x(place(chosen))
        end = at > (_LEFT + _RIGHT) / 2
        marks = [
            element("line", class_="chosen", x1=at, x2=at, y1=_TOP - 14, y2=_BOTTOM),
            element(
                "text", f"chosen: {general(chosen)}", class_="phase",
                x=at - 5 if end else at + 5, y=_TOP - 6, text_anchor="end" if end else "start",
            ),
        ]  # fmt: skip
    for line in series:
        placed = [(place(px), py) for px, py in line.points]
        marks += _line(Series(line.kind, placed, line.tips), x, y)
    shown = _in_percent if percent else general
    frame = _frame(x, y, x_label="L2 penalty", y_format=shown)
    return _panel([*frame, *marks], f"{name} against the L2 penalty, train and validation")


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values inside [low, high], in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values inside [low, high]: decades where there are many, else 1-2-5, else all."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = max(1, math.ceil(len(decades) / 7))
    choices = [
        [10.0**k for k in decades if k % stride == 0],
        [m * 10.0**k for k in decades for m in (1, 2, 5)],
        [m * 10.0**k for k in decades for m in (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)],
    ]
    for choice in choices:
        inside = [v for v in choice if low <= v <= high]
        if len(inside) >= 3:
            return inside if len(inside) <= 8 else inside[::2]
    return inside


def _in_percent(value: float) -> str:
    return f"{value:g}\u202f%"


def _panel(children: Sequence[Markup], label: str) -> Markup:
    view = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", *children, class_="plot", viewBox=view, role="img", aria_label=label)


def _frame(
    x: Scale, y: Scale, *, x_label: str, y_format: Callable[[float], str], whole: bool = False
) -> list[Markup]:
    """Horizontal rules with their values, ticks below, and the name of the x axis."""
    marks = []
    for value in linear_ticks(y.low, y.high):
        at = y(value)
        marks.append(element("line", class_="rule", x1=_LEFT, x2=_RIGHT, y1=at, y2=at))
        text = y_format(value)
        marks.append(element("text", text, x=_LEFT - 7, y=at + 3.8, text_anchor="end"))
    ticks = log_ticks(x.low, x.high) if x.log else linear_ticks(x.low, x.high)
    for value in ticks:
        if whole and (value < 0 or value != int(value)):
            continue
        at = x(value)
        marks.append(element("line", class_="axis", x1=at, x2=at, y1=_BOTTOM, y2=_BOTTOM + 4))
        marks.append(element("text", general(value), x=at, y=_BOTTOM + 16, text_anchor="middle"))
    marks.append(element("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM))
    middle = (_LEFT + _RIGHT) / 2
    marks.append(
        element("text", x_label, class_="axis-name", x=middle, y=HEIGHT - 5, text_anchor="middle")
    )
    return marks


def _value_scale(series: Sequence[Series]) -> Scale:
    values = [py for line in series for _, py in line.points]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-6)
    return Scale(max(0.0, low - pad) if low >= 0 else low - pad, high + pad, _BOTTOM, _TOP)


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


def _frontier(points: Sequence[Point]) -> list[Point]:
    """The runs that no other run beats at the same cost or less, from cheap to dear."""
    frontier: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, -p.y)):
        if not frontier or p.y > frontier[-1].y:
            frontier.append(p)
    return frontier


def _labels(points: Sequence[Point], x: Scale, y: Scale) -> list[Markup]:
    """Names beside their points where there is room; without room the point keeps its tip.

    Greedy, the most accurate first. At best a label stands clear of everything and nearer to its
    own point than to any other; else a thin leader ties it to its point; at worst it crosses a
    whisker.
    """
    centres = [(x(p.x), y(p.y)) for p in points]
    dots = [(px - 5.5, py - 5.5, px + 5.5, py + 5.5) for px, py in centres]
    stems = [(x(p.x) - 1, y(p.high), x(p.x) + 1, y(p.low)) for p in points]
    taken: list[Box] = []
    marks: list[Markup] = []
    for p in sorted(points, key=lambda p: -p.y):
        text = shorten(p.label, 24)
        own = (x(p.x), y(p.y))
        places = _places(*own, len(text) * _LETTER)
        others = [centre for centre in centres if centre != own]
        near = [b for b in places if _gap(b, own) < 12 and all(_gap(b, c) > 16 for c in others)]
        for choice, blocked in ((near, [*taken, *dots, *stems]), (places, [*taken, *dots, *stems]),
                                (places, [*taken, *dots])):  # fmt: skip
            free = [b for b in choice if not any(_meet(b, other) for other in blocked)]
            if not free:
                continue
            box = free[0]
            taken.append(box)
            if choice is places:
                marks.append(_leader(own, box))
            style = f"label {p.kind}"
            marks.append(element("text", text, class_=style, x=box[0], y=box[3] - 3.0))
            break
    return marks


def _places(px: float, py: float, width: float) -> list[Box]:
    """Boxes for a label around a point, inside the plot, nearest first."""
    places = []
    for lift in (0, -12, 12, -18, 18, -30, 30, -44, 44, -58, 58, -74, 74, -92, 92):
        shifts = (9, -9 - width) if abs(lift) < 14 else (-width / 2, 6, -6 - width, 24, -24 - width)
        for shift in shifts:
            box = (px + shift, py + lift - 7, px + shift + width, py + lift + 7)
            if box[0] >= _LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= _BOTTOM:
                places.append(box)
    return places


def _leader(own: tuple[float, float], box: Box) -> Markup:
    end_x = min(max(own[0], box[0] + 4), box[2] - 4)
    end_y = box[3] - 1 if box[3] < own[1] else box[1] + 2
    return element("line", class_="leader", x1=own[0], y1=own[1], x2=end_x, y2=end_y)


def _gap(box: Box, point: tuple[float, float]) -> float:
    """Distance from a point to the nearest edge of a box; 0 inside it."""
    px, py = point
    return math.hypot(max(box[0] - px, 0, px - box[2]), max(box[1] - py, 0, py - box[3]))


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
