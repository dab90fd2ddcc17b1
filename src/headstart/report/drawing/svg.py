"""SVG by hand: elements, scales, ticks and the frame that every panel stands in.

Drawn here and not by a plotting library so that one drawing serves light, dark and print, stays
sharp at every size, keeps its text selectable and weighs a few kilobytes. Coordinates are computed
here, colours come from the page's style sheet. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.text.formats import general

WIDTH, HEIGHT = 380, 280  # of a panel, in units that are about one pixel
LEFT, RIGHT, TOP, BOTTOM = 46, 368, 22, 242  # the plotting area inside it
SMALL_RIGHT = 266  # where a small panel's area ends: a square
SMALL_VIEW = f"0 0 {HEIGHT} {HEIGHT}"
_WIDTHS = {**dict.fromkeys("fijltrI.,:;-1 ", 3.7), **dict.fromkeys("mwMW%", 9.2)}

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its title. term: its entry in the definitions. under: a line below it."""

    title: str
    svg: Markup
    term: str = ""
    under: str = ""


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


def text_width(text: str) -> float:
    """About how wide a text is at the panels' size of 11; fonts differ by a tenth."""
    return sum(_WIDTHS.get(letter, 6.3) for letter in text)


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
        [m * 10.0**k for k in decades for m in (1, 1.5, 2, 3, 5, 7)],
        [m * 10.0**k for k in decades for m in (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)],
    ]
    for choice in choices:
        inside = [v for v in choice if low <= v <= high]
        if len(inside) >= 3:
            return inside if len(inside) <= 8 else inside[::2]
    return inside


def in_percent(value: float) -> str:
    return f"{value:g}\u202f%"


def panel(
    children: Sequence[Markup],
    label: str,
    view: str = f"0 0 {WIDTH} {HEIGHT}",
    class_: str = "plot",
) -> Markup:
    return element("svg", *children, class_=class_, viewBox=view, role="img", aria_label=label)


def frame(
    x: Scale,
    y: Scale,
    *,
    x_label: str,
    y_format: Callable[[float], str],
    x_format: Callable[[float], str] = general,
    x_ticks: Sequence[float] | None = None,
    right: float = RIGHT,
) -> list[Markup]:
    """Horizontal rules with their values, ticks below, and the name of the x axis."""
    marks = []
    for value in linear_ticks(y.low, y.high):
        at = y(value)
        marks.append(element("line", class_="rule", x1=LEFT, x2=right, y1=at, y2=at))
        text = y_format(value)
        marks.append(element("text", text, x=LEFT - 7, y=at + 3.8, text_anchor="end"))
    if x_ticks is None:
        x_ticks = log_ticks(x.low, x.high) if x.log else linear_ticks(x.low, x.high)
    for value in x_ticks:
        at = x(value)
        marks.append(element("line", class_="axis", x1=at, x2=at, y1=BOTTOM, y2=BOTTOM + 4))
        marks.append(element("text", x_format(value), x=at, y=BOTTOM + 16, text_anchor="middle"))
    marks.append(element("line", class_="axis", x1=LEFT, x2=right, y1=BOTTOM, y2=BOTTOM))
    middle = (LEFT + right) / 2
    marks.append(
        element("text", x_label, class_="axis-name", x=middle, y=HEIGHT - 5, text_anchor="middle")
    )
    return marks


def gap(box: Box, point: tuple[float, float]) -> float:
    """Distance from a point to the nearest edge of a box; 0 inside it."""
    px, py = point
    return math.hypot(max(box[0] - px, 0, px - box[2]), max(box[1] - py, 0, py - box[3]))


def meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
