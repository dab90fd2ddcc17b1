"""The feature map: test images where the network's last features put them, coloured by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from headstart.report.drawing.series import STYLES
from headstart.report.drawing.svg import Box, element, meet, panel, text_width
from headstart.report.sections.confusion import families
from headstart.text.captions import captions

MOST = 1500  # points; more only thicken the clouds
LETTERED = 30  # classes whose names find room among the points
NAMED = 100  # wrong answers that say their file when pointed at
SIDE, _EDGE = 380, 14


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A colour of the legend: `n` of the points shown have it."""

    label: int
    name: str
    n: int


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """`n` of `of` test images, `wrong` of them answered wrong. families: whether colours stand for
    families of classes."""

    svg: Markup
    legend: list[LegendEntry]
    families: bool
    method: str
    n: int
    of: int
    wrong: int


def describe_map(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> FeatureMap | None:
    """The drawing and its legend; None for a run without features.

    Coloured by class, or, where there are more classes than colours, by the families that the
    first words of their names make.
    """
    if "xy" not in arrays or len(arrays["xy"]) < 3:
        return None
    n = len(arrays["xy"])
    rows = np.linspace(0, n - 1, min(n, MOST)).round().astype(int)
    xy, labels = _placed(arrays["xy"])[rows], arrays["labels"][rows]
    wrong = arrays["predicted"][rows] != labels
    tips = _tips(arrays, rows[wrong], names)
    kin = families(names) if len(np.unique(labels)) > STYLES else []
    if 0 < len(kin) <= STYLES:
        labels = np.searchsorted([end for _, end, _ in kin], labels, side="right")
        names = [word for _, _, word in kin]
    present = [int(label) for label in np.unique(labels)]
    coloured = len(present) <= STYLES
    legend = [LegendEntry(k, names[k], int((labels == k).sum())) for k in present]
    return FeatureMap(
        svg=map_panel(xy, labels, wrong, names, coloured, tips),
        legend=legend if coloured else [],
        families=bool(kin) and coloured,
        method=str(arrays["method"]) if "method" in arrays else "",
        n=len(rows),
        of=n,
        wrong=int(wrong.sum()),
    )


def _placed(xy: np.ndarray) -> np.ndarray:
    """Into the square, up to the 0.5th and 99.5th percentile: strays do not shrink the rest."""
    low, high = np.percentile(xy, (0.5, 99.5), axis=0)
    scale = np.maximum(high - low, 1e-9)
    unit = np.clip((xy - low) / scale, -0.02, 1.02)
    placed: np.ndarray = _EDGE + unit * (SIDE - 2 * _EDGE)
    placed[:, 1] = SIDE - placed[:, 1]
    return placed


def map_panel(
    xy: np.ndarray,
    labels: np.ndarray,
    wrong: np.ndarray,
    names: Sequence[str],
    coloured: bool,
    tips: Sequence[str] = (),
) -> Markup:
    """One path a class: dots are line segments of no length with round ends, a few bytes each.

    tips: of the first wrong ones, which file it is.
    """
    marks = []
    for label in np.unique(labels):
        kind = f"s{label % STYLES}" if coloured else "plain"
        dots = _dots(xy[labels == label])
        marks.append(element("path", class_=f"dots {kind}", data_class=int(label), d=dots))
    rings = "".join(f"M{x - 4:.0f} {y:.0f}a4 4 0 1 0 8 0a4 4 0 1 0-8 0" for x, y in xy[wrong])
    if rings:
        marks.append(element("path", class_="missed", d=rings))
    marks += _names(xy, labels, names)
    marks += [
        element("circle", element("title", tip), class_="hint", cx=float(x), cy=float(y), r=5)
        for tip, (x, y) in zip(tips, xy[wrong], strict=False)
    ]
    shown = ", ".join(names[int(label)] for label in np.unique(labels)[:20])
    label = f"Feature map of {len(xy)} test images in the classes {shown}"
    view = f"0 0 {SIDE} {SIDE}"
    return panel(marks, label, view=view, class_="plot map")


def _tips(arrays: Mapping[str, np.ndarray], rows: np.ndarray, names: Sequence[str]) -> list[str]:
    if "ids" not in arrays:
        return []
    return [
        f"{arrays['ids'][k]}: {names[arrays['labels'][k]]} taken for "
        f"{names[arrays['predicted'][k]]}"
        for k in rows[:NAMED]
    ]


def _dots(points: np.ndarray) -> str:
    return "".join(f"M{x:.0f} {y:.0f}h0" for x, y in points)


def _names(xy: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[Markup]:
    """Each class's name at the median of its points, the largest classes first, none on another."""
    present, counts = np.unique(labels, return_counts=True)
    short = captions(names, 18)
    taken: list[Box] = []
    marks = []
    for label in present[np.argsort(-counts, kind="stable")]:
        x, y = np.median(xy[labels == label], axis=0)
        text = short[int(label)]
        half = text_width(text) * 0.57 + 2
        x = float(np.clip(x, half, SIDE - half))
        for lift in (0, -13, 13, -26, 26):
            box = (x - half, float(y) + lift - 8, x + half, float(y) + lift + 5)
            if not any(meet(box, other) for other in taken):
                taken.append(box)
                kind, at = f"name s{int(label) % STYLES}", float(y) + lift + 2
                marks.append(element("text", text, class_=kind, x=x, y=at, text_anchor="middle"))
                break
    return marks
