"""The verdict: which configurations differ significantly, in which groups, and whether one wins.

Every pair is tested and all of these tests are one family (Holm 1979). So whatever is read off
them after looking (which one is on top, what stands level with it, who leads the rest) is in error
with 5 % at most: a family of "the best against the others" would forget that the best was picked
by the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from headstart.comparison.cheapest import find_cheapest
from headstart.comparison.choice import Metric
from headstart.comparison.configurations import Configuration, name_some
from headstart.comparison.records import Cheapest, Pair
from headstart.evaluation.statistics import (
    LEVEL,
    MCNEMAR,
    Difference,
    SeedEffect,
    bootstrap_interval,
    detectable_change,
    difference,
    holm,
    pool_seed_effects,
)
from headstart.evaluation.values import value_difference

POWER = 0.8
# Of two tables and the study's seed effect, the second minus the first.
Compare = Callable[[np.ndarray, np.ndarray, SeedEffect | None], Difference]


@dataclass(frozen=True)
class Decision:
    """What test can tell. pairs: row numbers, with their difference and its corrected p-value."""

    pairs: tuple[tuple[int, int], ...]
    differences: tuple[Difference, ...]
    adjusted: tuple[float, ...]
    apart: np.ndarray  # bool (k, k), symmetric
    groups: tuple[int, ...]  # of each configuration, from 1

    @property
    def winner(self) -> int | None:
        """0 where the first differs significantly from every other one."""
        return 0 if len(self.groups) > 1 and self.groups.count(1) == 1 else None


@dataclass(frozen=True)
class Verdict:
    """groups: of each configuration, from 1. winner: a name, or None where nothing stands out."""

    pairs: tuple[Pair, ...]
    groups: tuple[int, ...]
    winner: str | None
    detectable: float | None
    sentence: str
    cheapest: Cheapest | None = None  # of validation's choice and what is level with it


def judge(configurations: Sequence[Configuration], chosen: str, metric: Metric) -> Verdict:
    """Judge configurations by a metric, best first; `chosen` is the label of the run that
    validation chose."""
    strata, plain = configurations[0].strata, metric.name == "accuracy"

    def by_metric(first: np.ndarray, second: np.ndarray, pooled: SeedEffect | None) -> Difference:
        return value_difference(first, second, strata, pooled=pooled)

    decision = decide([c.values for c in configurations], _by_accuracy if plain else by_metric)
    pairs = tuple(
        Pair(
            first=configurations[a].name,
            second=configurations[b].name,
            change=found.change,
            interval=found.interval,
            bootstrap=bootstrap_interval(configurations[a].correct, configurations[b].correct)
            if plain
            else None,
            p_value=found.p_value,
            p_adjusted=p,
            told_apart=p < LEVEL,
            test=found.test,
        )
        for (a, b), found, p in zip(
            decision.pairs, decision.differences, decision.adjusted, strict=True
        )
    )
    level = [configurations[k] for k in _level(decision, _place(configurations, chosen))]
    cheapest = find_cheapest([(c.name, [run.cost for run in c.runs]) for c in level])
    return Verdict(
        pairs=pairs,
        groups=decision.groups,
        winner=None if decision.winner is None else configurations[decision.winner].name,
        detectable=_detectable(decision, configurations[0].correct.shape[1], metric),
        sentence=_sentence(configurations, decision, pairs, chosen, cheapest, metric),
        cheapest=cheapest,
    )


def _by_accuracy(first: np.ndarray, second: np.ndarray, pooled: SeedEffect | None) -> Difference:
    return difference(first, second, pooled=pooled)


def decide(tables: Sequence[np.ndarray], compare: Compare = _by_accuracy) -> Decision:
    """Test every pair of (seeds, images) tables, the best first; of answers, bool, by default."""
    pairs = tuple(combinations(range(len(tables)), 2))
    pooled = pool_seed_effects(tables)
    found = tuple(compare(tables[a], tables[b], pooled) for a, b in pairs)
    adjusted = tuple(holm([each.p_value for each in found]))
    apart = np.zeros((len(tables), len(tables)), bool)
    for (a, b), p in zip(pairs, adjusted, strict=True):
        apart[a, b] = apart[b, a] = p < LEVEL
    return Decision(pairs, found, adjusted, apart, group(apart))


def group(apart: np.ndarray) -> tuple[int, ...]:
    """Groups from 1 of rows ordered best first. apart: bool (k, k), symmetric.

    Group k is the best of what the groups above leave and all not significantly lower.
    Members of a group may differ from one another; none of them is known to be below its best.
    """
    groups = np.zeros(len(apart), np.int64)
    number = 0
    while not groups.all():
        number += 1
        best = int(np.argmin(groups != 0))
        groups[(groups == 0) & ~apart[best]] = number
    return tuple(int(g) for g in groups)


def _detectable(decision: Decision, n: int, metric: Metric) -> float | None:
    """The smallest difference shown with 80 % power, at the level that Holm left to be passed; None
    where there is none, as beyond 1 of a share.

    The median over the pairs that do not differ significantly, for these are where one may hide;
    over all where all differ.
    """
    unresolved = [p >= LEVEL for p in decision.adjusted]
    left = [
        found
        for found, open_ in zip(decision.differences, unresolved, strict=True)
        if open_ or not any(unresolved)
    ]
    if not left:
        return None
    level = LEVEL / len(left)
    shown = []
    for found in left:
        if found.test == MCNEMAR:
            least = detectable_change(n, found.disagreeing, level, POWER)
        else:
            quantiles = stats.t.ppf([1 - level / 2, POWER], found.df)
            least = float(quantiles.sum()) * found.error or None  # equal answers show nothing
        shown.append(np.inf if least is None else least)
    middle = float(np.median(shown))
    most = np.inf if metric.name == "loss" else 1.0
    return middle if middle <= most and np.isfinite(middle) else None


def _sentence(
    configurations: Sequence[Configuration],
    decision: Decision,
    pairs: Sequence[Pair],
    chosen: str,
    cheapest: Cheapest | None,
    metric: Metric,
) -> str:
    """Which one to take and why, first; then what is level with it, and the cheapest of those."""
    if len(configurations) == 1:
        return "One configuration: there is nothing to compare it with."
    at = _place(configurations, chosen)
    own = configurations[at]
    level = [configurations[k].name for k in _level(decision, at) if k != at]
    parts = [_advice(configurations, decision, pairs, chosen, metric)]
    if level:
        said = f"{name_some(level)} cannot be told from it"
        said += f"; {cheapest.text}" if cheapest else ""
        parts.append(f"{said}.")
    if cheapest and cheapest.name not in (None, own.name):
        parts.append(f"Take {cheapest.name} where cost counts more.")
    return " ".join(parts)


def _advice(
    configurations: Sequence[Configuration],
    decision: Decision,
    pairs: Sequence[Pair],
    chosen: str,
    metric: Metric,
) -> str:
    """To take what validation chose, which is what is handed over, and how test sees it."""
    best, n = configurations[0], configurations[0].correct.shape[1]
    by = "" if metric.name == "accuracy" else f" by {metric.title}"
    at = _place(configurations, chosen)
    own = configurations[at]
    run = "" if chosen == own.name else f" (run {chosen})"
    take = f"Take {own.name}{run}, validation's choice"
    if decision.winner == at:
        others, nearest = len(configurations) - 1, pairs[0]
        if others == 1:
            below = f"{metric.below(nearest.change)} it on {n:,} test images"
            return f"{take}, which wins{by}: {nearest.second} is {below}, beyond chance."
        return (
            f"{take}, which wins{by}: {n:,} test images tell it from each of the other {others}; "
            f"{nearest.second}, the nearest, is {metric.below(nearest.change)} it."
        )
    if at == 0:
        return (
            f"{take} and the {metric.highest} on {n:,} test images{by}, though not beyond chance."
        )
    found = next(p for p in pairs if (p.first, p.second) == (best.name, own.name))
    below = f"{metric.below(found.change)} {best.name} on {n:,} test images{by}"
    if decision.apart[0, at]:
        return (
            f"{take}, with care: it is {below}, more than chance explains. "
            "Test chooses nothing: compare again with more validation images."
        )
    return f"{take}: it is {below}, which may be chance."


def _place(configurations: Sequence[Configuration], chosen: str) -> int:
    return next(k for k, c in enumerate(configurations) if chosen in c.labels)


def _level(decision: Decision, at: int) -> list[int]:
    """The positions of a configuration and of all not significantly different."""
    return [k for k in range(len(decision.groups)) if not decision.apart[at, k]]
