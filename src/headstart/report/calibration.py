"""Calibration: whether "90 % sure" is right nine times in ten, before and after the temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from headstart.report import formats
from headstart.report.contenders import Contender, metrics_of
from headstart.report.svg import (
    BOTTOM,
    LEFT,
    SMALL_RIGHT,
    SMALL_VIEW,
    TOP,
    Scale,
    element,
    frame,
    in_percent,
    panel,
)

MOST = 8  # diagrams side by side; every configuration is in the table


def describe_calibration(contenders: Sequence[Contender]) -> dict[str, Any] | None:
    """A reliability diagram for each configuration's first run, and all numbers in a table."""
    known = [(c, test) for c in contenders if (test := c.metric("test")).get("calibration")]
    if not known:
        return None
    rows = [
        {
            "name": c.name,
            "temperature": _mean([metrics_of(run).get("temperature") for run in c.runs]),
            "seeds": len(c.runs),
            **{f"{key}_{when}": _mean_of(c, block, key)
               for key in ("ece", "loss", "brier")
               for when, block in (("before", "calibration"), ("after", "calibrated"))},
        }
        for c, _ in known
    ]  # fmt: skip
    figures = [
        {"title": c.name, "svg": reliability_panel(test, c.name)} for c, test in known[:MOST]
    ]
    return {"rows": rows, "figures": figures, "left_out": len(known) - len(figures),
            "n": known[0][1].get("n")}  # fmt: skip


def _mean_of(contender: Contender, block: str, key: str) -> float | None:
    tests = [metrics_of(run).get("test") or {} for run in contender.runs]
    return _mean([(test.get(block) or {}).get(key) for test in tests])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def reliability_panel(test: Mapping[str, Any], name: str) -> Markup:
    """Accuracy against stated confidence by bins; the diagonal is perfect, the area is the images.

    Bars show where the answers lie: the share of test images in each bin as served. Dots grow with
    their images, since a bin of few says little.
    """
    x, y = Scale(0, 100, LEFT, SMALL_RIGHT), Scale(0, 100, BOTTOM, TOP)
    marks = frame(x, y, x_label="stated confidence", y_format=in_percent, x_format=in_percent,
                  x_ticks=[0, 50, 100], right=SMALL_RIGHT)  # fmt: skip
    marks.append(element("line", class_="diagonal", x1=x(0), y1=y(0), x2=x(100), y2=y(100)))
    before, after = test["calibration"], test.get("calibrated")
    marks += _histogram((after or before)["bins"], x)
    if after:
        marks += _curve(before["bins"], x, y, "before", "without temperature")
    marks += _curve((after or before)["bins"], x, y, "after", "as served")
    said = f"calibration error {formats.percent((after or before)['ece'])}"
    return panel(marks, f"Reliability of {name}: {said}", SMALL_VIEW)


def _histogram(bins: Sequence[Mapping[str, Any]], x: Scale) -> list[Markup]:
    most = max((b["n"] for b in bins), default=0) or 1
    return [
        element(
            "rect", element("title", f"{b['n']} images"), class_="mass", x=x(100 * b["low"]) + 0.5,
            y=BOTTOM - 42 * b["n"] / most, width=x(100 * b["high"]) - x(100 * b["low"]) - 1,
            height=42 * b["n"] / most,
        )
        for b in bins
        if b["n"]
    ]  # fmt: skip


def _curve(
    bins: Sequence[Mapping[str, Any]], x: Scale, y: Scale, kind: str, said: str
) -> list[Markup]:
    filled = [b for b in bins if b["n"]]
    most = max((b["n"] for b in filled), default=1)
    placed = [(x(100 * b["confidence"]), y(100 * b["accuracy"])) for b in filled]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
    marks = [element("polyline", class_=f"reliability {kind}", points=path)]
    for b, (px, py) in zip(filled, placed, strict=True):
        tip = (
            f"{said}: {formats.percent(b['confidence'])} sure, "
            f"{formats.percent(b['accuracy'])} right, {b['n']} images"
        )
        title, size = element("title", tip), 1.4 + 3.4 * math.sqrt(b["n"] / most)
        marks.append(element("circle", title, class_=f"bin {kind}", cx=px, cy=py, r=size))
    return marks
