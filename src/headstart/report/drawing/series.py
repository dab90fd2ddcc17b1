"""Several configurations over one axis: each has a shape as well as a colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.report.drawing.svg import Scale, element

STYLES = 10  # colours in the style sheet: .s0 to .s9
_SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross")

Place = tuple[float, float]


@dataclass(frozen=True)
class Band:
    """One configuration's line: points from left to right, with the range of each if it has one."""

    name: str
    style: int
    points: Sequence[Place]
    tips: Sequence[str]
    ranges: Sequence[Place] = ()


def marker(style: int, x: float, y: float, size: float = 3.4, tip: str = "") -> Markup:
    """A small shape: its form and its colour both tell the style."""
    shape = _SHAPES[style % len(_SHAPES)]
    kind = f"marker s{style % STYLES}"
    title = (element("title", tip),) if tip else ()
    if shape == "circle":
        return element("circle", *title, class_=kind, cx=x, cy=y, r=size)
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "down": [(0, 1.2), (1.15, -0.85), (-1.15, -0.85)],
        "cross": [(math.cos(a) * r, math.sin(a) * r) for a, r in _STAR],
    }[shape]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return element("polygon", *title, class_=kind, points=points)


_STAR = [(math.pi * k / 4, 1.35 if k % 2 else 0.5) for k in range(8)]


def key(style: int) -> Markup:
    """The line and shape of a style, for a legend in the text."""
    line = element("line", class_=f"stroke s{style % STYLES}", x1=0, x2=24, y1=6, y2=6)
    parts = (line, marker(style, 12.0, 6.0, 3.8))
    return element("svg", *parts, class_="sample", viewBox="0 0 24 12", aria_hidden="true")


def draw(band: Band, x: Scale, y: Scale) -> list[Markup]:
    """The range as a tint, the line, and a shape with its tip at each point."""
    style = band.style % STYLES
    placed = [(x(px), y(py)) for px, py in band.points]
    marks = []
    if band.ranges and len(placed) > 1:
        upper = [
            (x(px), y(high)) for (px, _), (_, high) in zip(band.points, band.ranges, strict=True)
        ]
        lower = [
            (x(px), y(low)) for (px, _), (low, _) in zip(band.points, band.ranges, strict=True)
        ]
        marks.append(
            element("polygon", class_=f"range s{style}", points=_path(upper + lower[::-1]))
        )
    if len(placed) > 1:
        marks.append(element("polyline", class_=f"stroke s{style}", points=_path(placed)))
    tips = band.tips or [""] * len(placed)
    marks += [
        marker(band.style, px, py, tip=tip) for (px, py), tip in zip(placed, tips, strict=True)
    ]
    return marks


def _path(points: Sequence[Place]) -> str:
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
