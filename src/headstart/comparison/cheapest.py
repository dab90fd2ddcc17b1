"""Which of some configurations costs least to serve, and whether that is known beyond noise.

Three criteria, one after the other: milliseconds, where all were timed in turns by one process on a
machine that was quiet enough; multiply-accumulates; parameters. Each keeps the least and all
not significantly above it, and the next one decides among those. A network and its copy with other
weights compute the same, so time never ranks one before the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.comparison.configurations import name_some
from headstart.comparison.records import Cheapest, Criterion
from headstart.rundir.records import Cost

Costs = Sequence[Cost]  # of each run of a configuration
Priced = tuple[str, Costs]  # a configuration's name, and its costs

# No latency is believed more exactly than that, either way: where another process places its
# threads and memory moves a network's latency by some percent, and rounds in one process cannot
# show it.
NOISE = 0.05

NOT_TIMED = "not all of them were timed"
APART = "they were not timed side by side"
BUSY = "the machine was too busy to time them"


@dataclass(frozen=True)
class Latency:
    """Milliseconds an image: a median with the 95 % interval of its estimate, no narrower than
    NOISE. session: the process that measured; None where it does not say. busy: why the times are
    not to be relied on, or None."""

    median: float
    low: float
    high: float
    session: str | None
    busy: str | None

    def quicker_than(self, other: Latency) -> bool:
        """Whether it is so beyond noise."""
        return self.high < other.low


def latency_of(costs: Costs) -> Latency | None:
    """A configuration's latency: the mean over its runs, None where one was not timed."""
    known = [
        (each.median, each.low, each.high)
        for cost in costs
        if (each := cost.latency_ms) and each.low is not None and each.high is not None
    ]
    if not known or len(known) < len(costs):
        return None
    sessions = {cost.measured.session if cost.measured else None for cost in costs}
    median, low, high = (sum(part) / len(known) for part in zip(*known, strict=True))
    return Latency(
        median=median,
        low=min(low, median * (1 - NOISE)),
        high=max(high, median * (1 + NOISE)),
        session=sessions.pop() if len(sessions) == 1 else None,
        busy=next((cost.busy for cost in costs if cost.busy), None),
    )


def find_quickest(priced: Sequence[Priced]) -> tuple[tuple[int, ...], str | None]:
    """The positions of the quickest and of all not significantly slower; of all of them, with
    the reason, where their times cannot be compared.

    What computes the same is one network, whose latency is the mean over its copies.
    """
    everyone = tuple(range(len(priced)))
    networks: dict[Any, list[int]] = {}
    for k, (_, costs) in enumerate(priced):
        networks.setdefault(network_of(costs) or k, []).append(k)
    timed = {
        tuple(members): latency_of([cost for k in members for cost in priced[k][1]])
        for members in networks.values()
    }
    known = {members: latency for members, latency in timed.items() if latency is not None}
    if len(known) < len(timed):
        return everyone, NOT_TIMED
    sessions = {latency.session for latency in known.values()}
    if len(sessions) > 1 or None in sessions:
        return everyone, APART
    if any(latency.busy for latency in known.values()):
        return everyone, BUSY
    quickest = min(known.values(), key=lambda latency: latency.median)
    level = [k for k, latency in known.items() if not quickest.quicker_than(latency)]
    return tuple(sorted(k for members in level for k in members)), None


def network_of(costs: Costs) -> tuple[int, int, str | None] | None:
    """What a configuration computes, equal for copies with other weights: operations, parameters,
    precision. None where its runs differ."""
    found = {
        (cost.macs, cost.parameters, cost.measured.precision if cost.measured else None)
        for cost in costs
    }
    return found.pop() if len(found) == 1 else None


def find_cheapest(priced: Sequence[Priced]) -> Cheapest | None:
    """Which of these configurations is the cheapest to serve; None for fewer than two, or where
    networks of different precision were not timed and else cost the same."""
    if len(priced) < 2:
        return None
    level, untimed = find_quickest(priced)
    left = level
    by: Criterion | None = "time" if len(left) < len(priced) else None
    criteria: tuple[tuple[Criterion, Callable[[Cost], int]], ...] = (
        ("operations", lambda cost: cost.macs),
        ("parameters", lambda cost: cost.parameters),
    )
    for criterion, read in criteria:
        if len(left) == 1:
            break
        spent = {k: _mean(priced[k][1], read) for k in left}
        kept = tuple(k for k in left if spent[k] == min(spent.values()))
        if len(kept) < len(left):
            left, by = kept, criterion
    names = tuple(priced[k][0] for k in left)
    if by is None:
        networks = {network_of(costs) for _, costs in priced}
        if len(networks) == 1 and None not in networks:
            return Cheapest(names, by, "they compute the same, so none of them is the cheapest")
        if untimed:
            return None
        return Cheapest(names, by, "none of them is the cheapest beyond noise")
    others = [priced[k][0] for k in level if k not in left]
    whole = len(level) == len(priced)
    text = f"{name_some(names)} ({_amount(priced[left[0]][1], by)}) "
    text += "is the cheapest of them" if len(names) == 1 else "are the cheapest of them"
    return Cheapest(names, by, text + _reason(by, untimed, [] if whole else others, len(names) > 1))


def _reason(by: Criterion, untimed: str | None, others: Sequence[str], several: bool) -> str:
    """Why time alone did not decide. others: those that time could not tell from the cheapest,
    where it told them from the rest."""
    if by == "time":
        return " and cost the same" if several else ""
    if untimed:
        why = untimed
    elif others:
        own = "their times" if several else "its time"
        why = f"{own} cannot be told from that of {name_some(others)}"
    else:
        why = "their times cannot be told apart"
    return f" by {by}: {why}"


def _amount(costs: Costs, by: Criterion) -> str:
    if by == "time":
        latency = latency_of(costs)
        return f"{latency.median:.1f} ms an image" if latency else "not timed"
    if by == "operations":
        return f"{_mean(costs, lambda cost: cost.macs) / 1e6:,.0f} million MACs an image"
    return f"{_mean(costs, lambda cost: cost.parameters) / 1e6:,.1f} million parameters"


def _mean(costs: Costs, read: Callable[[Cost], int]) -> float:
    return sum(map(read, costs)) / len(costs)
