"""The candidates of a budgeted study, their evidence, and the state of the selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart.comparison.records import Baseline, Dropped, Regret, Round, Selected
from headstart.specs import BackboneSpec


@dataclass(frozen=True)
class Evidence:
    """The result of a linear probe on a candidate's frozen features, and its time.

    hits: bool (images,), whether the probe was right on each held-out image; float where an image
    may have several labels, values whose mean is mAP. macs: of one image.
    seconds: the whole time, without images of earlier rounds; of it, setup_s before the frozen pass
    and solve_s after it.
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
        """Values whose mean is accuracy or balanced accuracy: the hits, weighted by class if
        `balanced`."""
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
        """Expected seconds for twice as many images, half of which are computed already."""
        return self.setup_s + self.images / self.images_per_s + 2 * self.solve_s


@dataclass(frozen=True)
class Candidate:
    """A run of a study, before it is carried out.

    evidence: the key of its features; candidates with the same key share their evidence. None
    without pretrained features. top1: published accuracy, percent. macs: of one image. passes: the
    work of a full run, in forward passes of one image at the speed of a frozen pass. steps: its
    training steps. solved: rows on which heads are solved.
    """

    name: str
    fingerprint: str  # of the resolved recipe
    backbone: BackboneSpec  # of the resolved recipe
    evidence: str | None
    top1: float | None
    macs: int
    passes: float
    steps: int = 0
    solved: int = 0
    chooses_by: str = "accuracy"


@dataclass
class Selection:
    """The state of a budgeted comparison.

    finalists: remaining candidates, in the order of their full runs. worse: candidates that were
    dropped as clearly worse, the best first; `dropped` has the reasons. costs: estimated seconds of
    each candidate's full run. spent_s: seconds of evidence and full runs, measured when each was
    computed, also by an earlier command; so the same command decides the same again.
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
    spared: dict[str, float] = field(default_factory=dict)  # seconds that a warm cache saved
    balanced: bool = False  # whether evidence goes by balanced accuracy
    regrets: dict[str, Regret] = field(default_factory=dict)  # of "choice" and "baseline"

    def fits(self, candidate: Candidate) -> bool:
        """Whether its full run fits the remaining budget; the estimate is corrected by `drift`."""
        return self.fit([candidate])

    def fit(self, candidates: Sequence[Candidate]) -> bool:
        """Whether their full runs, one after the other, fit the remaining budget."""
        needed = sum(self.costs[candidate.name] for candidate in candidates)
        return self.spent_s + self.drift * needed <= self.budget_s

    def to_run(self) -> Iterator[Candidate]:
        """The candidates to run in full. The next one is decided after each run.

        The caller reports each run by `finished` or `failed` before it takes the next. A finalist
        that does not fit waits: a run that is faster than estimated leaves more time. If all
        remaining candidates fit, the worse ones are run too. A candidate that does not fit in the
        end is dropped.
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
        """The time of full runs, with an empty cache, divided by its estimate."""
        expected = sum(self.costs[name] for name in self.carried_out)
        took = sum(self.carried_out.values()) + sum(self.spared.values())
        return took / expected if expected else 1.0

    def failed(self, name: str, why: str, seconds: float) -> None:
        """Record a full run that failed, and its seconds."""
        self.spent_s += seconds
        self.failures[name] = why

    def finished(self, name: str, seconds: float, spared: float = 0.0) -> None:
        self.carried_out[name], self.spared[name] = seconds, spared
        self.spent_s += seconds

    def _leave_out(self, candidate: Candidate) -> None:
        """Drop a candidate for lack of time."""
        cost = self.drift * self.costs[candidate.name]
        left = max(self.budget_s - self.spent_s, 0.0)
        why = f"no time: its full run takes about {cost:.0f} s, and {left:.0f} s are left"
        self.dropped.append(Dropped(candidate.name, "full runs", why))

    def record(self) -> Selected:
        """The selection as a record of the comparison."""
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
