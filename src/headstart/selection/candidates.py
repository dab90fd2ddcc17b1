"""Candidates of a budget, what is known of them, and how the choice went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart.comparison.records import Baseline, Dropped, Regret, Round, Selected


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
    regrets: dict[str, Regret] = field(default_factory=dict)  # of "choice" and "baseline"

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

    def record(self) -> Selected:
        """As the comparison tells it."""
        return Selected(
            budget_s=self.budget_s,
            balanced=self.balanced,
            spent_s=self.spent_s,
            full_cost_s=sum(self.costs.values()),
            rounds=tuple(self.rounds),
            dropped=tuple(self.dropped),
            failed=self.failures,
            carried_out=self.carried_out,
            estimates=self.costs,
            baseline=Baseline(tuple(self.order), self.order[0], self.regrets.get("baseline")),
            regret=self.regrets.get("choice"),
        )
