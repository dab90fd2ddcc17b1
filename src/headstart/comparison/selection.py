"""Which candidates of a study are worth their full runs, when there is time for some of them only.

Successive halving (Jamieson & Talwalkar 2016) on cheap evidence: each round looks at about twice as
many images, and up to half of the candidates leave, the worst first. Nothing leaves for what may be
chance: only a candidate whose probe errs more than the leader's on the same images, by a one-sided
exact McNemar test. A round drops the best candidate with a chance of at most LEVEL. What is left
then goes into full runs, best first, as long as they fit the budget. Each finished run corrects the
estimates: who had no time is asked again, and where all that is not run would fit, those that left
are run too. Numbers in, decisions out: evidence is gathered elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from headstart.errors import HeadstartError, RunError
from headstart.evaluation.values import swap_p_value

LEVEL = 0.05
# Seconds that a full run takes beside passes and training (set-up, scores, pictures, report), and
# that a fitted step takes beside its arithmetic.
OVERHEAD_S, STEP_S = 4.0, 2e-3
MARGIN = 1.5  # on what is still to come, before another round is begun


@dataclass(frozen=True)
class Evidence:
    """What a candidate's frozen head showed on some training images, and what that took.

    hits: bool (images,), whether the probe was right about each while it was held out. macs: of
    one image. seconds: all that was spent, on the images that earlier rounds had not seen; of
    these, setup_s before the pass and solve_s after it.
    """

    hits: np.ndarray
    logme: float
    macs: int
    seconds: float
    setup_s: float
    solve_s: float
    images_per_s: float
    labels: np.ndarray | None = None  # int64 (images,), the true classes

    def values(self, balanced: bool) -> np.ndarray:
        """Whose mean is accuracy: the hits; or balanced accuracy: the hits, weighted by class."""
        if not balanced or self.labels is None:
            return self.hits
        counts = np.bincount(self.labels)
        weights = len(self.labels) / ((counts > 0).sum() * counts[self.labels])
        return np.asarray(self.hits * weights)

    @property
    def images(self) -> int:
        return len(self.hits)

    @property
    def accuracy(self) -> float:
        return float(self.hits.mean())

    @property
    def macs_per_s(self) -> float:
        return self.macs * self.images_per_s

    @property
    def next_s(self) -> float:
        """Seconds that twice as many images should take; half of them are computed already."""
        return self.setup_s + self.images / self.images_per_s + 2 * self.solve_s


@dataclass(frozen=True)
class Candidate:
    """A run of a study, before it is carried out.

    evidence: what names its features; candidates that share it share their evidence. None where
    there are no pretrained features to judge. top1: published, percent. macs: of one image. passes:
    what a full run computes, in forward passes of one image at the speed of a frozen pass; steps:
    the fitted steps; solved: rows that are solved on.
    """

    name: str
    fingerprint: str  # of the resolved recipe
    evidence: str | None
    top1: float | None
    macs: int
    passes: float
    steps: int = 0
    solved: int = 0
    chooses_by: str = "accuracy"


@dataclass(frozen=True)
class Judged:
    """A candidate in a round. score: held-out accuracy of its probe, or published accuracy."""

    name: str
    score: float | None
    seconds: float
    kept: bool
    logme: float | None = None


@dataclass(frozen=True)
class Round:
    name: str
    evidence: str
    candidates: tuple[Judged, ...]


@dataclass(frozen=True)
class Dropped:
    name: str
    round: str
    why: str


@dataclass
class Selection:
    """Where a budgeted comparison stands.

    finalists: still in the race, in the order in which they are carried out. worse: those that left
    for being clearly worse, the best first; dropped says why. costs: estimated seconds of each
    candidate's full run. spent_s: of evidence and full runs, as measured when each was computed, by
    this command or by one before it: so the same command decides alike again.
    """

    budget_s: float
    rounds: list[Round]
    order: list[str]  # by published accuracy
    spent_s: float = 0.0
    finalists: list[Candidate] = field(default_factory=list)
    worse: list[Candidate] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    carried_out: dict[str, float] = field(default_factory=dict)  # seconds of each full run
    spared: dict[str, float] = field(default_factory=dict)  # seconds that a warm cache spared it
    balanced: bool = False  # whether evidence goes by balanced accuracy
    regrets: dict[str, dict[str, Any]] = field(default_factory=dict)  # of "choice" and "baseline"

    def fits(self, candidate: Candidate) -> bool:
        """Whether its full run fits what is left, by its estimate and how the estimates did."""
        return self.fit([candidate])

    def fit(self, candidates: Sequence[Candidate]) -> bool:
        """Whether their full runs fit what is left, one after the other."""
        needed = sum(self.costs[candidate.name] for candidate in candidates)
        return self.spent_s + self.drift * needed <= self.budget_s

    def to_run(self) -> Iterator[Candidate]:
        """The candidates to carry out in full, decided anew after each.

        The caller notes how each ended, by `finished` or `failed`, before it asks for the next. A
        finalist waits where it does not fit, for a run that is quicker than estimated makes room.
        Where everything that is left would fit, nobody has to stay out for being worse. Who did not
        fit in the end is dropped for want of time.
        """
        waiting = list(self.finalists)
        while waiting or self.worse:
            if self.worse and self.fit([*waiting, *self.worse]):
                taken = {candidate.name for candidate in self.worse}
                self.dropped = [gone for gone in self.dropped if gone.name not in taken]
                waiting, self.worse = [*waiting, *self.worse], []
            chosen = next((candidate for candidate in waiting if self.fits(candidate)), None)
            if chosen is None:
                break
            waiting.remove(chosen)
            yield chosen
        for candidate in waiting:
            self._leave_out(candidate)

    @property
    def drift(self) -> float:
        """How much longer full runs took than was estimated, or would have with a cold cache."""
        expected = sum(self.costs[name] for name in self.carried_out)
        took = sum(self.carried_out.values()) + sum(self.spared.values())
        return took / expected if expected else 1.0

    def failed(self, name: str, why: str, seconds: float) -> None:
        """Count what a full run took that left nothing."""
        self.spent_s += seconds
        self.failures[name] = why

    def finished(self, name: str, seconds: float, spared: float = 0.0) -> None:
        self.carried_out[name], self.spared[name] = seconds, spared
        self.spent_s += seconds

    def _leave_out(self, candidate: Candidate) -> None:
        """It is not worse; there is no time for it."""
        cost = self.drift * self.costs[candidate.name]
        left = max(self.budget_s - self.spent_s, 0.0)
        why = f"no time: its full run takes about {cost:.0f} s, and {left:.0f} s are left"
        self.dropped.append(Dropped(candidate.name, "full runs", why))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "budget_s": self.budget_s,
            "balanced": self.balanced,
            "spent_s": self.spent_s,
            "full_cost_s": sum(self.costs.values()),
            "rounds": [
                {**vars(each), "candidates": [vars(judged) for judged in each.candidates]}
                for each in self.rounds
            ],
            "dropped": [vars(dropped) for dropped in self.dropped],
            "failed": self.failures,
            "carried_out": self.carried_out,
            "estimates": self.costs,
            "baseline": {
                "order": self.order,
                "pick": self.order[0],
                "regret": self.regrets.get("baseline"),
            },
            "regret": self.regrets.get("choice"),
        }


def select(
    candidates: Sequence[Candidate],
    budget_s: float,
    levels: Iterable[int],
    judge: Callable[[Candidate, int], Evidence],
) -> Selection:
    """Carry out the rounds, and leave the finalists in the order of their full runs.

    levels: images a class of each round, rising. judge: the evidence of a candidate on that many;
    a HeadstartError from it is a failure of that candidate. Raises RunError where the budget is too
    small for any full run, with what would be enough.
    """
    selection = _begin(candidates, budget_s)
    alive = [c for c in candidates if c.evidence is not None]
    blind = [c for c in candidates if c.evidence is None]
    if not alive:
        raise RunError("--budget: random weights have no features to judge: compare without it")
    found: dict[str, Evidence] = {}
    for number, per_class in enumerate(levels, start=1):
        took = _judge_all(selection, alive, per_class, judge, found)
        alive = [c for c in alive if c.name in took]
        if not alive:
            reasons = "; ".join(f"{n}: {why}" for n, why in selection.failures.items())
            raise RunError(f"--budget: no candidate could be judged: {reasons}")
        selection.costs |= {c.name: estimate(c, found) for c in (*alive, *blind)}
        left = budget_s - selection.spent_s
        everyone = sum(selection.costs[c.name] for c in (*alive, *blind)) <= left
        worse = (
            {}
            if everyone
            else clearly_worse({c.name: found[c.name].values(selection.balanced) for c in alive})
        )
        _record(selection, number, alive, found, took, worse)
        gone = sorted(worse, key=lambda name: -_score(selection, found[name]))
        by_name = {c.name: c for c in alive}
        selection.worse[:0] = [by_name[name] for name in gone]  # later rounds hold better ones
        alive = [c for c in alive if c.name not in worse]
        alive.sort(key=lambda c: (-_score(selection, found[c.name]), selection.costs[c.name]))
        costs = [selection.costs[c.name] for c in alive]
        to_come = sum({c.evidence: found[c.name].next_s for c in alive}.values())
        # Another look must leave the leader its full run, also where both take longer than they
        # should.
        if len(alive) == 1 or sum(costs) <= left or MARGIN * (to_come + costs[0]) > left:
            break
    selection.finalists = [*alive, *blind]
    if not any(selection.fits(c) for c in selection.finalists):
        raise _too_small(selection, min(selection.costs[c.name] for c in selection.finalists))
    return selection


def _begin(candidates: Sequence[Candidate], budget_s: float) -> Selection:
    """Round 0: the published order, which keeps everyone."""
    order = sorted(candidates, key=lambda c: -(c.top1 or 0.0))
    judged = tuple(Judged(c.name, c.top1, 0.0, kept=True) for c in order)
    first = Round("0: published", "ImageNet top-1 accuracy of the weights, percent", judged)
    names, balanced = [c.name for c in order], {"balanced_accuracy", "macro_f1"}
    return Selection(
        budget_s, [first], names, balanced=any(c.chooses_by in balanced for c in candidates)
    )


def _score(selection: Selection, evidence: Evidence) -> float:
    return float(evidence.values(selection.balanced).mean())


def _judge_all(
    selection: Selection,
    alive: Sequence[Candidate],
    per_class: int,
    judge: Callable[[Candidate, int], Evidence],
    found: dict[str, Evidence],
) -> dict[str, float]:
    """Evidence of each candidate, the cheapest first; returns the seconds that each took.

    Raises RunError as soon as it shows that the budget does not last for a full run.
    """
    took: dict[str, float] = {}
    shared: dict[str | None, Evidence] = {}
    queue = sorted(alive, key=lambda c: c.macs)
    for place, candidate in enumerate(queue, start=1):
        paid = candidate.evidence in shared
        try:
            evidence = shared.get(candidate.evidence) or judge(candidate, per_class)
        except HeadstartError as error:
            selection.failures[candidate.name] = str(error)
            found.pop(candidate.name, None)
            continue
        found[candidate.name] = shared[candidate.evidence] = evidence
        took[candidate.name] = 0.0 if paid else evidence.seconds
        selection.spent_s += took[candidate.name]
        if len(selection.rounds) == 1:
            rest = {c.evidence: c for c in queue[place:] if c.evidence not in shared}
            _refuse_too_small(selection, [*queue[:place], *rest.values()], found)
    return took


def _refuse_too_small(
    selection: Selection, known_or_to_come: Sequence[Candidate], found: dict[str, Evidence]
) -> None:
    """In the first round, where not even one full run would fit behind it.

    The rest is taken to be as quick as the quickest so far: this must not refuse what can be done.
    """
    quickest = max(found.values(), key=lambda e: e.macs_per_s)
    to_come = [c for c in known_or_to_come if c.name not in found]
    needed = sum(
        quickest.setup_s + quickest.solve_s + quickest.images * c.macs / quickest.macs_per_s
        for c in to_come
    )
    needed += min(estimate(c, found) for c in known_or_to_come)
    if selection.spent_s + needed > selection.budget_s:
        raise _too_small(selection, needed)


def _too_small(selection: Selection, needed_s: float) -> RunError:
    enough = 1.2 * (selection.spent_s + needed_s)
    unit = 10 if enough < 300 else 60
    return RunError(
        f"--budget {format_seconds(selection.budget_s)} is too small for one full run: about "
        f"{format_seconds(unit * np.ceil(enough / unit))} would be enough "
        "(what was measured until now is kept)"
    )


def estimate(candidate: Candidate, found: dict[str, Evidence]) -> float:
    """Seconds of a candidate's full run, from the rates that its own evidence measured.

    Without evidence of its own it is taken to compute as many multiply-accumulates a second as the
    median of those that have some.
    """
    known = [found[candidate.name]] if candidate.name in found else list(found.values())
    rate = float(np.median([e.macs_per_s for e in known]))
    setup = float(np.median([e.setup_s for e in known]))
    solving = candidate.solved * float(np.median([e.solve_s / e.images for e in known]))
    passes = candidate.passes * candidate.macs / rate
    return OVERHEAD_S + setup + passes + candidate.steps * STEP_S + solving


def clearly_worse(hits: dict[str, np.ndarray], level: float = LEVEL) -> dict[str, float]:
    """Up to half of the candidates, the worst first, that err more than the leader beyond chance.

    hits: bool (images,) by name, about the same images, or float where these are weighted by class.
    Returns one-sided p-values: exact McNemar's, or of the permutation test where hits are weighted.
    The level is divided by the number of comparisons (Bonferroni), because the leader is the
    luckiest of several: with the chance of the level, at most, it leads the best candidate out.
    """
    ordered = sorted(hits, key=lambda name: hits[name].mean())
    leader = hits[ordered[-1]]
    worse: dict[str, float] = {}
    for name in ordered[: len(ordered) // 2]:
        p_value = _chance(leader, hits[name])
        if p_value < level / (len(ordered) - 1):
            worse[name] = p_value
    return worse


def _chance(leader: np.ndarray, other: np.ndarray) -> float:
    """That equally good candidates would differ in the leader's favour that much."""
    if leader.dtype != bool:
        return swap_p_value(leader - other, larger=True)
    only_leader, only_other = int((leader & ~other).sum()), int((other & ~leader).sum())
    return float(stats.binom.cdf(only_other, only_leader + only_other, 0.5))


def _record(
    selection: Selection,
    number: int,
    alive: Sequence[Candidate],
    found: dict[str, Evidence],
    took: dict[str, float],
    worse: dict[str, float],
) -> None:
    images = found[alive[0].name].images
    ordered = sorted(alive, key=lambda c: -_score(selection, found[c.name]))
    kind = "balanced accuracy" if selection.balanced else "accuracy"
    leader = ordered[0].name
    judged = tuple(
        Judged(c.name, _score(selection, e), took[c.name], c.name not in worse, e.logme)
        for c in ordered
        for e in (found[c.name],)
    )
    name = f"{number}: {images:,} images"
    what = (
        f"linear probe of the frozen backbone at its size, held-out {kind} on {images:,} "
        "training images; LogME of the same features"
    )
    selection.rounds.append(Round(name, what, judged))
    for candidate, p_value in worse.items():
        why = (
            f"{_score(selection, found[candidate]):.1%} against "
            f"{_score(selection, found[leader]):.1%} of {leader} on the same "
            f"{images:,} images ({format_p(p_value)}, one-sided)"
        )
        selection.dropped.append(Dropped(candidate, name, why))


def format_p(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def parse_seconds(text: str) -> float:
    """Seconds of "90s", "10m", "1h" or "1h30m". Raises HeadstartError for anything else."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    parts = [float(part or 0) for part in found.groups()] if found else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise HeadstartError(f"--budget {text}: write a time such as 90s, 10m or 1h30m")
    return seconds


def format_seconds(seconds: float) -> str:
    """As `parse_seconds` reads it, whole seconds: 90s, 10m, 1h5m."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole}s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in parts if amount)
