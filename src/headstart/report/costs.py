"""Accuracy against each cost, and the best that fits under a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.comparison.cheapest import find_quickest, latency_of
from headstart.comparison.choice import TITLES
from headstart.report import formats, plots
from headstart.report.contenders import (
    Contender,
    Row,
    cost_of,
    latency_ms,
    price,
    throughput,
    timed_busy,
    training_seconds,
)


@dataclass(frozen=True)
class Cost:
    """One cost: how it is read, drawn and said."""

    title: str
    term: str
    axis: str
    value: Callable[[Row], float | None]
    scale: float = 1
    more_is_better: bool = False


def _costs(contenders: Sequence[Contender]) -> tuple[Cost, ...]:
    spent = [s for c in contenders if (s := c.mean(training_seconds))]
    unit, per = ("min", 60) if spent and max(spent) >= 600 else ("s", 1)
    return (
        Cost("Latency", "latency", "one image, ms (median)", latency_ms),
        Cost("Throughput", "throughput", "images a second: more is better", throughput, 1, True),
        Cost(
            "Training time",
            "training",
            f"frozen passes and training, {unit}",
            training_seconds,
            per,
        ),
        Cost("Model file", "size", "file, MB", cost_of("file_mb", "size_mb")),
        Cost("Serving memory", "serving", "memory in use, MB", cost_of("serving_rss_mb")),
        Cost("Operations", "macs", "MACs for one image, millions", cost_of("macs"), 1e6),
    )


def drawn_title(compared: Mapping[str, Any]) -> str:
    """What `Contender.drawn` is."""
    name = compared.get("select_by") or "accuracy"
    return TITLES[name if name != "loss" else "accuracy"]


def cost_panels(
    compared: Mapping[str, Any], contenders: Sequence[Contender]
) -> list[dict[str, Any]]:
    """A panel for each cost that two configurations or more know."""
    panels, title = [], drawn_title(compared)
    for cost in _costs(contenders):
        points = [
            plots.Point(
                label=c.name,
                x=spent / cost.scale,
                y=100 * c.drawn[0],
                low=100 * c.drawn[1][0],
                high=100 * c.drawn[1][1],
                kind=c.kind,
                tip=f"{c.name}: {formats.percent(c.drawn[0])} {formats.interval(c.drawn[1])}; "
                f"{cost.axis.split(':')[0]}: {spent / cost.scale:.4g}",
                spread=_spread(c) if cost.term == "latency" else None,
            )
            for c in contenders
            if (spent := c.mean(cost.value)) and spent > 0
        ]
        if len(points) > 1:
            svg = plots.cost_panel(
                points, y_label=title, x_label=cost.axis, more_is_better=cost.more_is_better
            )
            panels.append({"title": cost.title, "term": cost.term, "svg": svg})
    return panels


def _spread(contender: Contender) -> tuple[float, float] | None:
    """The interval of its latency."""
    latency = latency_of(price(contender)[1])
    return (latency.low, latency.high) if latency else None


_LIMITS: tuple[tuple[str, str, str, Callable[[Row], float | None]], ...] = (
    ("latency", "ms an image", "Latency limit", latency_ms),
    ("size", "MB on disk", "Size limit", cost_of("file_mb", "size_mb")),
)


def describe_limits(
    compared: Mapping[str, Any], contenders: Sequence[Contender]
) -> dict[str, Any] | None:
    """What to take under a limit of latency or size; None where two or more know neither."""
    tables = [
        {"term": term, "unit": unit, "title": title, "steps": steps}
        for term, unit, title, value in _LIMITS
        if len(steps := _steps(contenders, value, timed=term == "latency")) > 1
    ]
    return {"tables": tables, "asked": _asked(compared.get("limits"))} if tables else None


def _steps(
    contenders: Sequence[Contender], value: Callable[[Row], float | None], *, timed: bool
) -> list[dict[str, Any]]:
    """From which limit on which configuration is the best that fits: validation decides.

    A limit that noise does not tell from the one before is no step of its own.
    """
    priced = [(spent, c) for c in contenders if (spent := c.mean(value))]
    steps: list[dict[str, Any]] = []
    best = (-math.inf, -math.inf)
    for spent, c in sorted(priced, key=lambda pair: (pair[0], [-part for part in pair[1].val_key])):
        if c.val_key > best:
            best = c.val_key
            if timed and steps and _level(steps[-1]["contender"], c):
                steps.pop()
            text = ("~" if timed and any(map(timed_busy, c.rows)) else "") + formats.three(spent)
            steps.append({"limit": spent, "text": text, "contender": c})
    return steps


def _level(first: Contender, second: Contender) -> bool:
    """Whether time does not tell them apart."""
    level, untimed = find_quickest([price(first), price(second)])
    return untimed is None and len(level) == 2


def _asked(limits: Mapping[str, Any] | None) -> str | None:
    """The answer to the limits that the comparison was asked for, as a sentence."""
    if not limits:
        return None
    parts = [
        f"{formats.general(limits[key])}\u202f{unit}"
        for key, unit in (("max_ms", "ms an image"), ("max_mb", "MB"))
        if limits.get(key) is not None
    ]
    if not parts:
        return None
    best = limits.get("best")
    under = formats.join_words(parts)
    said = f"Asked for at most {under}: {f'take {best}.' if best else 'none fits.'}"
    if near := limits.get("uncertain"):
        said += f" Noise does not tell {formats.join_words(near)} from the limit in milliseconds."
    return said
