"""Accuracy against each cost, and the best that fits under a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headstart.comparison.cheapest import find_quickest, latency_of
from headstart.comparison.choice import TITLES
from headstart.comparison.records import Comparison, Limits
from headstart.report.contenders import (
    Contender,
    file_mb,
    latency_ms,
    price,
    throughput,
    training_seconds,
)
from headstart.report.drawing import plots
from headstart.report.drawing.svg import Figure
from headstart.rundir.records import Cost
from headstart.text import formats


@dataclass(frozen=True)
class Axis:
    """One cost: how it is read, drawn and said."""

    title: str
    term: str
    axis: str
    value: Callable[[Cost], float | None]
    scale: float = 1
    more_is_better: bool = False


def _costs(contenders: Sequence[Contender]) -> tuple[Axis, ...]:
    spent = [s for c in contenders if (s := c.mean(training_seconds))]
    unit, per = ("min", 60) if spent and max(spent) >= 600 else ("s", 1)
    return (
        Axis("Latency", "latency", "one image, ms (median)", latency_ms),
        Axis("Throughput", "throughput", "images a second: more is better", throughput, 1, True),
        Axis(
            "Training time",
            "training",
            f"frozen passes and training, {unit}",
            training_seconds,
            per,
        ),
        Axis("Model file", "size", "file, MB", file_mb),
        Axis("Serving memory", "serving", "memory in use, MB", lambda cost: cost.serving_rss_mb),
        Axis("Operations", "macs", "MACs for one image, millions", lambda cost: cost.macs, 1e6),
    )


def drawn_title(compared: Comparison) -> str:
    """What `Contender.drawn` is."""
    name = compared.select_by
    return TITLES[name if name != "loss" else "accuracy"]


def cost_panels(compared: Comparison, contenders: Sequence[Contender]) -> list[Figure]:
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
            panels.append(Figure(cost.title, svg, cost.term))
    return panels


def _spread(contender: Contender) -> tuple[float, float] | None:
    """The interval of its latency."""
    latency = latency_of(price(contender)[1])
    return (latency.low, latency.high) if latency else None


@dataclass(frozen=True, slots=True)
class LimitStep:
    """From `limit` on, in the unit of its table, this configuration is the best that fits."""

    limit: float
    text: str  # of the limit
    contender: Contender


@dataclass(frozen=True, slots=True)
class LimitTable:
    """What to take under each limit of one cost."""

    title: str
    unit: str
    steps: list[LimitStep]


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """asked: the answer to the limits that the comparison was asked for; None without any."""

    tables: list[LimitTable]
    asked: str | None


def describe_limits(compared: Comparison, contenders: Sequence[Contender]) -> LimitsSection | None:
    """What to take under a limit of latency or size; None where two or more know neither."""
    tables = [
        LimitTable("Latency limit", "ms an image", _steps(contenders, latency_ms, timed=True)),
        LimitTable("Size limit", "MB on disk", _steps(contenders, file_mb, timed=False)),
    ]
    tables = [table for table in tables if len(table.steps) > 1]
    return LimitsSection(tables, _asked(compared.limits)) if tables else None


def _steps(
    contenders: Sequence[Contender], value: Callable[[Cost], float | None], *, timed: bool
) -> list[LimitStep]:
    """From which limit on which configuration is the best that fits: validation decides.

    A limit that noise does not tell from the one before is no step of its own.
    """
    priced = [(spent, c) for c in contenders if (spent := c.mean(value))]
    steps: list[LimitStep] = []
    best = (-math.inf, -math.inf)
    for spent, c in sorted(priced, key=lambda pair: (pair[0], [-part for part in pair[1].val_key])):
        if c.val_key > best:
            best = c.val_key
            if timed and steps and _level(steps[-1].contender, c):
                steps.pop()
            text = ("~" if timed and c.busy else "") + formats.three(spent)
            steps.append(LimitStep(spent, text, c))
    return steps


def _level(first: Contender, second: Contender) -> bool:
    """Whether their times do not differ significantly."""
    level, untimed = find_quickest([price(first), price(second)])
    return untimed is None and len(level) == 2


def _asked(limits: Limits | None) -> str | None:
    """The answer to the limits that the comparison was asked for, as a sentence."""
    if limits is None:
        return None
    parts = [
        f"{formats.general(limit)}\u202f{unit}"
        for limit, unit in ((limits.max_ms, "ms an image"), (limits.max_mb, "MB"))
        if limit is not None
    ]
    under = formats.join_words(parts)
    said = f"Asked for at most {under}: {f'take {limits.best}.' if limits.best else 'none fits.'}"
    if near := limits.uncertain:
        said += f" Noise does not tell {formats.join_words(near)} from the limit in milliseconds."
    return said
