"""Which of some configurations costs least to serve, and whether that is known beyond noise.

Three criteria, one after the other: milliseconds, where all were timed in turns by one process on a
machine that was quiet enough; multiply-accumulates; parameters. Each keeps the least and what it
cannot tell from it, and the next one decides among those. A network and its copy with other
weights compute the same, so time never ranks one before the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headstart.comparison.configurations import name_some

Costs = Sequence[Mapping[str, Any]]  # cost.json of each run of a configuration
Priced = tuple[str, Costs]  # a configuration's name, and its costs
Criterion = Literal["time", "operations", "parameters"]

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


@dataclass(frozen=True)
class Cheapest:
    """names: the cheapest, several where nothing tells them apart. by: the criterion that decided
    last; None where all cost the same. text: a clause without a full stop."""

    names: tuple[str, ...]
    by: Criterion | None
    text: str

    @property
    def name(self) -> str | None:
        """The only one, if there is one."""
        return self.names[0] if len(self.names) == 1 else None

    @property
    def beyond_noise(self) -> bool:
        """Whether one was timed to be quicker than each other one."""
        return self.by == "time" and len(self.names) == 1

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "names": list(self.names),
            "by": self.by,
            "beyond_noise": self.beyond_noise,
            "text": self.text,
        }


def latency_of(costs: Costs) -> Latency | None:
    """A configuration's latency: the mean over its runs, None where one was not timed."""
    known = [cost.get("latency_ms") or {} for cost in costs]
    if not known or not all({"median", "low", "high"} <= each.keys() for each in known):
        return None
    measured = [cost.get("measured") or {} for cost in costs]
    sessions = {each.get("session") for each in measured}
    median, low, high = (
        sum(each[key] for each in known) / len(known) for key in ("median", "low", "high")
    )
    return Latency(
        median=median,
        low=min(low, median * (1 - NOISE)),
        high=max(high, median * (1 + NOISE)),
        session=sessions.pop() if len(sessions) == 1 else None,
        busy=next((each["busy"] for each in measured if each.get("busy")), None),
    )


def find_quickest(priced: Sequence[Priced]) -> tuple[tuple[int, ...], str | None]:
    """The positions of the quickest and of all that time cannot tell from it; of all of them, with
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
    precision. None where its runs do not say."""
    found = {
        (cost.get("macs"), cost.get("parameters"), (cost.get("measured") or {}).get("precision"))
        for cost in costs
    }
    ((macs, parameters, precision),) = found if len(found) == 1 else ((None, None, None),)
    return None if macs is None or parameters is None else (macs, parameters, precision)


def find_cheapest(priced: Sequence[Priced]) -> Cheapest | None:
    """Which of these configurations is the cheapest to serve; None for fewer than two, or where
    neither times nor operations tell."""
    if len(priced) < 2:
        return None
    level, untimed = find_quickest(priced)
    left = level
    by: Criterion | None = "time" if len(left) < len(priced) else None
    criteria: tuple[tuple[Criterion, str], ...] = (("operations", "macs"), ("parameters",) * 2)
    for criterion, key in criteria:
        spent = {k: mean_cost(priced[k][1], key) for k in left}
        known = [value for value in spent.values() if value is not None]
        if len(left) == 1 or len(known) < len(left):
            break
        kept = tuple(k for k in left if spent[k] == min(known))
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
        return f"{(mean_cost(costs, 'macs') or 0) / 1e6:,.0f} million MACs an image"
    return f"{(mean_cost(costs, 'parameters') or 0) / 1e6:,.1f} million parameters"


def mean_cost(costs: Costs, key: str) -> float | None:
    """The mean of a number over a configuration's runs; None where one does not know it."""
    values = [cost[key] for cost in costs if cost.get(key) is not None]
    return sum(values) / len(values) if values and len(values) == len(costs) else None
