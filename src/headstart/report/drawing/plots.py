"""The leaderboard's bars, and accuracy against cost with names that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from headstart.report.drawing.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Box,
    Scale,
    element,
    frame,
    gap,
    in_percent,
    meet,
    panel,
    text_width,
)
from headstart.text.captions import captions


@dataclass(frozen=True)
class Point:
    """A configuration in a plot of accuracy against cost; accuracies are in percent."""

    label: str
    x: float
    y: float
    low: float
    high: float
    kind: Literal["best", "near", "other"]
    tip: str
    spread: tuple[float, float] | None = None  # of x, where it is known


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


def cost_panel(
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str = "accuracy",
    more_is_better: bool = False,
) -> Markup:
    """Accuracy, or what y_label names, against one cost on a log axis, with the frontier of what
    nothing beats.

    `more_is_better` is for costs such as images a second, of which one wants much.
    """
    xs = [x for p in points for x in (p.x, *(p.spread or ()))]
    margin = max(1.25, (max(xs) / min(xs)) ** 0.08)
    x = Scale(min(xs) / margin, max(xs) * margin, LEFT, RIGHT, log=True)
    lows, highs = [p.low for p in points], [p.high for p in points]
    pad = max(0.5, 0.06 * (max(highs) - min(lows)))
    y = Scale(max(0.0, min(lows) - pad), min(100.0, max(highs) + pad), BOTTOM, TOP)
    frontier = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in _frontier(points, more_is_better))
    marks = [element("polyline", class_="frontier", points=frontier)]
    for p in points:
        marks.append(
            element(
                "g",
                element("title", p.tip),
                *_spread(p, x, y),
                element("line", x1=x(p.x), x2=x(p.x), y1=y(p.low), y2=y(p.high)),
                element("circle", cx=x(p.x), cy=y(p.y), r=4.5),
                class_=f"point {p.kind}",
            )
        )
    marks += _labels(points, x, y)
    around = frame(x, y, x_label=x_label, y_format=in_percent)
    return panel([*around, *marks], f"Test {y_label} in percent against {x_label}")


def _spread(p: Point, x: Scale, y: Scale) -> list[Markup]:
    """How exactly the cost is known, as a line through the point."""
    if p.spread is None:
        return []
    return [element("line", x1=x(p.spread[0]), x2=x(p.spread[1]), y1=y(p.y), y2=y(p.y))]


def _frontier(points: Sequence[Point], more_is_better: bool) -> list[Point]:
    """The points that no other beats at the same cost or less, from cheap to dear."""
    frontier: list[Point] = []
    for p in sorted(points, key=lambda p: (-p.x if more_is_better else p.x, -p.y)):
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
    spreads = [(*p.spread, y(p.y)) for p in points if p.spread]
    stems += [(x(low), middle - 1, x(high), middle + 1) for low, high, middle in spreads]
    taken: list[Box] = []
    marks: list[Markup] = []
    short = dict(zip(points, captions([p.label for p in points], 34), strict=True))
    for p in sorted(points, key=lambda p: -p.y):
        text = short[p]
        own = (x(p.x), y(p.y))
        places = _places(*own, text_width(text))
        others = [centre for centre in centres if centre != own]
        near = [b for b in places if gap(b, own) < 12 and all(gap(b, c) > 16 for c in others)]
        for choice, blocked in ((near, [*taken, *dots, *stems]), (places, [*taken, *dots, *stems]),
                                (places, [*taken, *dots])):  # fmt: skip
            free = [b for b in choice if not any(meet(b, other) for other in blocked)]
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
            if box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM:
                places.append(box)
    return places


def _leader(own: tuple[float, float], box: Box) -> Markup:
    end_x = min(max(own[0], box[0] + 4), box[2] - 4)
    end_y = box[3] - 1 if box[3] < own[1] else box[1] + 2
    return element("line", class_="leader", x1=own[0], y1=own[1], x2=end_x, y2=end_y)
