"""Calibration: whether "90 % sure" is right nine times in ten, before and after the temperature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.evaluation.calibration import Bin, Calibration, Share, calibration, reliability
from headstart.report.contenders import Contender, optional
from headstart.report.drawing.svg import (
    BOTTOM,
    LEFT,
    SMALL_RIGHT,
    SMALL_VIEW,
    TOP,
    Figure,
    Scale,
    element,
    frame,
    in_percent,
    panel,
)
from headstart.rundir.run import Run
from headstart.text import formats

MOST = 8  # diagrams side by side; every configuration is in the table


@dataclass(frozen=True, slots=True)
class Measures:
    """Means over a configuration's runs."""

    ece: float
    loss: float
    brier: float


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """A configuration before and after its temperature, which is the mean over its runs, too."""

    name: str
    temperature: float
    before: Measures
    after: Measures


@dataclass(frozen=True, slots=True)
class CalibrationSection:
    """left_out: configurations in the table without a diagram. n: test images."""

    rows: list[CalibrationRow]
    figures: list[Figure]
    left_out: int
    notes: list[str]
    n: int


def describe_calibration(contenders: Sequence[Contender]) -> CalibrationSection | None:
    """A reliability diagram for each configuration's first run, and all numbers in a table."""
    known = [c for c in contenders if c.metrics]
    if not known:
        return None
    rows = [
        CalibrationRow(
            c.name,
            _mean([metrics.temperature for metrics in c.metrics]),
            before=_measures([metrics.test.calibration for metrics in c.metrics]),
            after=_measures([metrics.test.calibrated for metrics in c.metrics]),
        )
        for c in known
    ]
    drawn = [(c.name, reliability_panel(c.runs[0], c.name)) for c in known[:MOST]]
    figures = [Figure(name, svg) for name, svg in drawn if svg]
    n = known[0].metrics[0].test.n
    return CalibrationSection(rows, figures, len(known) - len(figures), _notes(known), n)


def _measures(blocks: Sequence[Calibration]) -> Measures:
    return Measures(
        ece=_mean([block.ece for block in blocks]),
        loss=_mean([block.loss for block in blocks]),
        brier=_mean([block.brier for block in blocks]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _notes(contenders: Sequence[Contender]) -> list[str]:
    """Why a temperature is 1, each reason once, with the configurations that it is true of."""
    found: dict[str, list[str]] = {}
    for c in contenders:
        reasons = Counter(metrics.temperature_note for metrics in c.metrics)
        for reason, count in reasons.items():
            if reason:
                some = "" if count == len(c.runs) else f" ({count} of {len(c.runs)} seeds)"
                found.setdefault(reason, []).append(c.name + some)
    return [f"{formats.join_words(names)}: {reason}" for reason, names in found.items()]


def reliability_panel(run: Run, name: str) -> Markup | None:
    """Accuracy against stated confidence on test; the diagonal is perfect. None without answers.

    Each dot stands for as many answers as any other, with the 95 % interval of their accuracy:
    where it meets the diagonal, the gap may be chance. The area shows where the answers lie.
    """
    test = optional(lambda: run.predictions("test"))
    if test is None or not len(test):
        return None
    temperature = optional(lambda: run.metrics.temperature) or 1.0
    served = test.tempered(temperature)
    x, y = Scale(0, 100, LEFT, SMALL_RIGHT), Scale(0, 100, BOTTOM, TOP)
    marks = frame(x, y, x_label="stated confidence", y_format=in_percent, x_format=in_percent,
                  x_ticks=[0, 50, 100], right=SMALL_RIGHT)  # fmt: skip
    found = calibration(served)
    marks += _histogram(found.bins, x)
    marks.append(element("line", class_="diagonal", x1=x(0), y1=y(0), x2=x(100), y2=y(100)))
    if temperature != 1:
        marks += _dots(reliability(test), x, y, "before", "without temperature")
    marks += _dots(reliability(served), x, y, "after", "as served")
    said = f"calibration error {formats.percent(found.ece)}"
    return panel(marks, f"Reliability of {name}: {said}", SMALL_VIEW)


def _histogram(bins: Sequence[Bin], x: Scale) -> list[Markup]:
    most = max((b.n for b in bins), default=0) or 1
    return [
        element(
            "rect", element("title", f"{b.n} images"), class_="mass", x=x(100 * b.low) + 0.5,
            y=BOTTOM - 42 * b.n / most, width=x(100 * b.high) - x(100 * b.low) - 1,
            height=42 * b.n / most,
        )
        for b in bins
        if b.n
    ]  # fmt: skip


def _dots(shares: Sequence[Share], x: Scale, y: Scale, kind: str, said: str) -> list[Markup]:
    marks = []
    for share in shares:
        at, (low, high) = x(100 * share.confidence), (y(100 * edge) for edge in share.interval)
        tip = (
            f"{said}: {formats.percent(share.confidence)} sure, "
            f"{formats.percent(share.accuracy)} {formats.interval(share.interval)} right, "
            f"{share.n} images"
        )
        dot = element("circle", class_="bin", cx=at, cy=y(100 * share.accuracy), r=3.2)
        line = element("line", class_="range-line", x1=at, x2=at, y1=low, y2=high)
        parts = (element("title", tip), line, dot) if kind == "after" else (
            element("title", tip), dot)  # fmt: skip
        marks.append(element("g", *parts, class_=f"share-of {kind}"))
    return marks
