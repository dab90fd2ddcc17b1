"""Successive halving: chooses the candidates of a study that get a full run within a budget.

Successive halving (Jamieson & Talwalkar 2016) on cheap evidence. Each round uses about twice as
many images and drops up to half of the candidates, the worst first. It drops only candidates whose
probe is significantly worse than the leader's on the same images, by a one-sided exact McNemar
test. A round drops the best candidate with a probability of at most LEVEL. The remaining candidates
get full runs, the best first, as long as they fit the budget. Each finished run corrects the
estimates: candidates that did not fit are tried again, and if all remaining runs fit, the dropped
candidates are run too. Numbers in, decisions out: evidence is computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import stats

from headstart.comparison.records import CandidateScore, Dropped, Round
from headstart.errors import BudgetError, HeadstartError, RunError
from headstart.evaluation.values import swap_p_value
from headstart.selection.candidates import Candidate, Evidence, Selection
from headstart.text import formats
from headstart.text.durations import format_seconds

LEVEL = 0.05
# Seconds of a full run besides passes and training (set-up, scores, pictures, report), and of a
# training step besides its arithmetic.
OVERHEAD_S, STEP_S = 4.0, 2e-3
MARGIN = 1.5  # factor on the time of the next round and of the leader's full run


def select(
    candidates: Sequence[Candidate],
    budget_s: float,
    levels: Iterable[int],
    evidence_of: Callable[[Candidate, int], Evidence],
) -> Selection:
    """Carry out the rounds; the selection then holds the finalists in the order of their full runs.

    levels: images a class in each round, rising. evidence_of: gives a candidate's evidence on that
    many images; if it raises HeadstartError, the candidate has failed. Raises RunError where the
    budget is too small for any full run, and says what would be enough.
    """
    selection = _begin(candidates, budget_s)
    alive = [c for c in candidates if c.evidence is not None]
    blind = [c for c in candidates if c.evidence is None]
    if not alive:
        raise RunError("--budget: random weights have no features to compare: leave out --budget")
    gathered: dict[str, Evidence] = {}
    for number, per_class in enumerate(levels, start=1):
        took = _gather_evidence(selection, alive, per_class, evidence_of, gathered)
        alive = [c for c in alive if c.name in took]
        if not alive:
            reasons = "; ".join(f"{n}: {why}" for n, why in selection.failures.items())
            raise RunError(f"--budget: no candidate could be evaluated: {reasons}")
        selection.costs |= {c.name: estimate(c, gathered) for c in (*alive, *blind)}
        left = budget_s - selection.spent_s
        everyone = sum(selection.costs[c.name] for c in (*alive, *blind)) <= left
        worse = (
            {}
            if everyone
            else clearly_worse({c.name: gathered[c.name].values(selection.balanced) for c in alive})
        )
        _record(selection, number, alive, gathered, took, worse)
        gone = sorted(worse, key=lambda name: -_score(selection, gathered[name]))
        by_name = {c.name: c for c in alive}
        selection.worse[:0] = [by_name[name] for name in gone]  # later rounds hold better ones
        alive = [c for c in alive if c.name not in worse]
        alive.sort(key=lambda c: (-_score(selection, gathered[c.name]), selection.costs[c.name]))
        costs = [selection.costs[c.name] for c in alive]
        to_come = sum({c.evidence: gathered[c.name].next_s for c in alive}.values())
        # Another round must leave time for the leader's full run, even if both take longer than
        # estimated.
        if len(alive) == 1 or sum(costs) <= left or MARGIN * (to_come + costs[0]) > left:
            break
    selection.finalists = [*alive, *blind]
    if not any(selection.fits(c) for c in selection.finalists):
        raise _too_small(selection, min(selection.costs[c.name] for c in selection.finalists))
    return selection


def _begin(candidates: Sequence[Candidate], budget_s: float) -> Selection:
    """Round 0: the published order. It drops no candidate."""
    order = sorted(candidates, key=lambda c: -(c.top1 or 0.0))
    judged = tuple(CandidateScore(c.name, c.top1, 0.0, kept=True, logme=None) for c in order)
    first = Round("0: published", "ImageNet top-1 accuracy of the weights, percent", judged)
    names, balanced = [c.name for c in order], {"balanced_accuracy", "macro_f1"}
    return Selection(
        budget_s, [first], names, balanced=any(c.chooses_by in balanced for c in candidates)
    )


def _score(selection: Selection, evidence: Evidence) -> float:
    return float(evidence.values(selection.balanced).mean())


def _gather_evidence(
    selection: Selection,
    alive: Sequence[Candidate],
    per_class: int,
    evidence_of: Callable[[Candidate, int], Evidence],
    gathered: dict[str, Evidence],
) -> dict[str, float]:
    """Compute each candidate's evidence, the cheapest first; returns the seconds of each.

    Raises RunError as soon as it is clear that the budget is too small for a full run.
    """
    took: dict[str, float] = {}
    shared: dict[str | None, Evidence] = {}
    queue = sorted(alive, key=lambda c: c.macs)
    for place, candidate in enumerate(queue, start=1):
        paid = candidate.evidence in shared
        try:
            evidence = shared.get(candidate.evidence) or evidence_of(candidate, per_class)
        except HeadstartError as error:
            selection.failures[candidate.name] = str(error)
            gathered.pop(candidate.name, None)
            continue
        gathered[candidate.name] = shared[candidate.evidence] = evidence
        took[candidate.name] = 0.0 if paid else evidence.seconds
        selection.spent_s += took[candidate.name]
        if len(selection.rounds) == 1:
            rest = {c.evidence: c for c in queue[place:] if c.evidence not in shared}
            _refuse_too_small(selection, [*queue[:place], *rest.values()], gathered)
    return took


def _refuse_too_small(
    selection: Selection, known_or_to_come: Sequence[Candidate], gathered: dict[str, Evidence]
) -> None:
    """In the first round, raise RunError if no full run would fit after it.

    The remaining candidates are assumed to be as fast as the fastest so far, so that no possible
    run is refused.
    """
    quickest = max(gathered.values(), key=lambda e: e.macs_per_s)
    to_come = [c for c in known_or_to_come if c.name not in gathered]
    needed = sum(
        quickest.setup_s + quickest.solve_s + quickest.images * c.macs / quickest.macs_per_s
        for c in to_come
    )
    needed += min(estimate(c, gathered) for c in known_or_to_come)
    if selection.spent_s + needed > selection.budget_s:
        raise _too_small(selection, needed)


def _too_small(selection: Selection, needed_s: float) -> BudgetError:
    needed = 1.2 * (selection.spent_s + needed_s)
    unit = 10 if needed < 300 else 60
    enough = format_seconds(unit * np.ceil(needed / unit))
    return BudgetError(
        f"--budget {format_seconds(selection.budget_s)} is too small for one full run: about "
        f"{enough} would be enough (the measurements so far are kept)",
        enough,
    )


def estimate(candidate: Candidate, gathered: dict[str, Evidence]) -> float:
    """Seconds of a candidate's full run, from the rates in its own evidence.

    A candidate without evidence is assumed to compute as many multiply-accumulates per second as
    the median of the others.
    """
    known = [gathered[candidate.name]] if candidate.name in gathered else list(gathered.values())
    rate = float(np.median([e.macs_per_s for e in known]))
    setup = float(np.median([e.setup_s for e in known]))
    solving = candidate.solved * float(np.median([e.solve_s / e.images for e in known]))
    passes = candidate.passes * candidate.macs / rate
    return OVERHEAD_S + setup + passes + candidate.steps * STEP_S + solving


def clearly_worse(hits: dict[str, np.ndarray], level: float = LEVEL) -> dict[str, float]:
    """Up to half of the candidates, the worst first, that are significantly worse than the leader.

    hits: by name, bool (images,) on the same images, or float if weighted by class. Returns
    one-sided p-values: of the exact McNemar test, or of the permutation test for weighted hits. The
    level is divided by the number of comparisons (Bonferroni), because the leader may be the
    luckiest of several. So the best candidate is dropped with a probability of at most the level.
    """
    ordered = sorted(hits, key=lambda name: hits[name].mean())
    leader = hits[ordered[-1]]
    worse: dict[str, float] = {}
    for name in ordered[: len(ordered) // 2]:
        p_value = chance(leader, hits[name])
        if p_value < level / (len(ordered) - 1):
            worse[name] = p_value
    return worse


def chance(leader: np.ndarray, other: np.ndarray) -> float:
    """The probability that equally good candidates differ so much in the leader's favour."""
    if leader.dtype != bool:
        return swap_p_value(leader - other, larger=True)
    only_leader, only_other = int((leader & ~other).sum()), int((other & ~leader).sum())
    return float(stats.binom.cdf(only_other, only_leader + only_other, 0.5))


def _record(
    selection: Selection,
    number: int,
    alive: Sequence[Candidate],
    gathered: dict[str, Evidence],
    took: dict[str, float],
    worse: dict[str, float],
) -> None:
    images = gathered[alive[0].name].images
    ordered = sorted(alive, key=lambda c: -_score(selection, gathered[c.name]))
    kind = "balanced accuracy" if selection.balanced else "accuracy"
    leader = ordered[0].name
    if gathered[leader].hits.dtype != bool:
        kind = "mAP"
    judged = tuple(
        CandidateScore(c.name, _score(selection, e), took[c.name], c.name not in worse, e.logme)
        for c in ordered
        for e in (gathered[c.name],)
    )
    name = f"{number}: {images:,} images"
    what = (
        f"linear probe of the frozen backbone at its size, held-out {kind} on {images:,} "
        "training images; LogME of the same features"
    )
    selection.rounds.append(Round(name, what, judged))
    for candidate, p_value in worse.items():
        why = (
            f"{_score(selection, gathered[candidate]):.1%} against "
            f"{_score(selection, gathered[leader]):.1%} of {leader} on the same "
            f"{images:,} images ({formats.p_value(p_value)}, one-sided)"
        )
        selection.dropped.append(Dropped(candidate, name, why))
