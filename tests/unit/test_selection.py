"""Successive halving: who leaves, who stays for lack of evidence, and what a budget holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headstart.errors import HeadstartError, RunError
from headstart.selection.candidates import Candidate, Evidence, Selection
from headstart.selection.halving import OVERHEAD_S, clearly_worse, estimate, select
from headstart.specs import BackboneSpec
from headstart.text.durations import format_seconds, parse_seconds

LEVELS = (25, 50, 100, 180)


def candidate(name: str, macs: int = 1000, **changes: object) -> Candidate:
    backbone = BackboneSpec(name=name)
    known = {
        "fingerprint": "f",
        "backbone": backbone,
        "evidence": name,
        "top1": 70.0,
        "passes": 2500.0,
    }
    return Candidate(name=name, macs=macs, **{**known, **changes})  # type: ignore[arg-type]


def evidence_from(
    accuracies: dict[str, float], seen: list[tuple[str, int]] | None = None
) -> Callable[[Candidate, int], Evidence]:
    """Evidence of ten classes, one second a look and 100,000 multiply-accumulates a second. What is
    hard for one is mostly hard for all, as with real images."""
    rng = np.random.default_rng(0)
    shared = rng.random(1800)
    hardness = {
        name: np.where(rng.random(1800) < 0.7, shared, rng.random(1800)) for name in accuracies
    }

    def evidence(of: Candidate, per_class: int) -> Evidence:
        if seen is not None:
            seen.append((of.name, per_class))
        hits = hardness[of.name][: 10 * per_class] < accuracies[of.name]
        return Evidence(hits, 0.0, of.macs, 1.0, 0.5, 0.0, 1e5 / of.macs)

    return evidence


def test_a_clearly_worse_candidate_leaves_and_a_close_one_stays() -> None:
    seen: list[tuple[str, int]] = []
    four = [candidate(name) for name in ("best", "close", "bad", "worst")]
    accuracies = {"best": 0.9, "close": 0.89, "bad": 0.6, "worst": 0.3}
    one_run = OVERHEAD_S + 0.5 + 25  # 2,500 passes at 100 images/s
    done = select(four, 4 + 2 * one_run + 1, LEVELS, evidence_from(accuracies, seen))
    assert [dropped.name for dropped in done.dropped] == ["worst", "bad"]
    assert all("one-sided" in dropped.why for dropped in done.dropped)
    assert {c.name for c in done.finalists} == {"best", "close"}
    assert len(seen) == 4  # one round was enough
    assert done.spent_s == 4.0


def test_nothing_leaves_where_everything_fits() -> None:
    three = [candidate(name) for name in ("a", "b", "c")]
    done = select(three, 1e4, LEVELS, evidence_from({"a": 0.9, "b": 0.5, "c": 0.1}))
    assert not done.dropped
    assert [c.name for c in done.finalists] == ["a", "b", "c"]
    assert len(done.rounds) == 2  # the published order, and one look


def test_what_noise_could_have_put_below_gets_more_images() -> None:
    """Two candidates that differ by a point are not told apart by 250 images, and look again."""
    seen: list[tuple[str, int]] = []
    two = [candidate("a"), candidate("b")]
    done = select(two, 57, LEVELS, evidence_from({"a": 0.80, "b": 0.79}, seen))
    assert [level for name, level in seen if name == "a"] == [25, 50]
    assert not done.dropped


def test_a_look_that_could_cost_the_leader_its_full_run_is_not_taken() -> None:
    seen: list[tuple[str, int]] = []
    two = [candidate("a"), candidate("b")]
    done = select(two, 45, LEVELS, evidence_from({"a": 0.80, "b": 0.79}, seen))
    assert {level for _, level in seen} == {25}
    assert done.fits(done.finalists[0])


def test_a_round_drops_no_more_than_half() -> None:
    hits = {f"c{i}": np.arange(400) < 40 * i for i in range(1, 10)}
    assert set(clearly_worse(hits)) == {"c1", "c2", "c3", "c4"}


def test_the_test_is_exact_one_sided_and_shared_out() -> None:
    leader = np.ones(400, bool)
    behind = np.arange(400) >= 5  # loses five images and wins none: p = 1/32
    assert clearly_worse({"leader": leader, "behind": behind}) == pytest.approx({"behind": 1 / 32})
    # With three candidates the level is a fortieth, which 1/32 does not reach.
    assert clearly_worse({"leader": leader, "behind": behind, "third": leader.copy()}) == {}


def test_a_round_drops_the_best_candidate_no_more_often_than_it_says() -> None:
    """Four equally good candidates that err independently, which is the hardest case for one of
    them: the leader is the luckiest, and one test at the level would drop it too often."""
    rng = np.random.default_rng(0)
    rounds = [{str(i): rng.random(250) < 0.7 for i in range(4)} for _ in range(1000)]
    dropped = np.mean(["0" in clearly_worse(hits) for hits in rounds])
    careless = np.mean(["0" in clearly_worse(hits, level=3 * 0.05) for hits in rounds])
    assert dropped <= 0.05 < careless


def test_a_budget_too_small_says_what_would_be_enough() -> None:
    two = [candidate("a"), candidate("b", macs=4000)]
    seen: list[tuple[str, int]] = []
    with pytest.raises(RunError, match=r"--budget 10s is too small .* about 50s would be enough"):
        select(two, 10, LEVELS, evidence_from({"a": 0.9, "b": 0.8}, seen))
    assert seen == [("a", 25)]  # no more was spent than it took to know
    assert select(two, 50, LEVELS, evidence_from({"a": 0.9, "b": 0.8})).finalists


def test_candidates_with_the_same_features_are_judged_once() -> None:
    seen: list[tuple[str, int]] = []
    two = [candidate("probe"), candidate("tuned", evidence="probe", steps=1000)]
    done = select(two, 1e4, LEVELS, evidence_from({"probe": 0.9, "tuned": 0.9}, seen))
    assert len(seen) == 1
    assert done.spent_s == 1.0
    assert done.costs["tuned"] == pytest.approx(done.costs["probe"] + 2.0)


def test_random_weights_are_not_judged_and_come_last() -> None:
    two = [candidate("scratch", evidence=None, top1=None), candidate("probe")]
    done = select(two, 1e4, LEVELS, evidence_from({"probe": 0.2}))
    assert [c.name for c in done.finalists] == ["probe", "scratch"]
    assert done.order == ["probe", "scratch"]
    with pytest.raises(RunError, match="random weights have no features"):
        select(two[:1], 1e4, LEVELS, evidence_from({}))


def test_a_candidate_that_cannot_be_judged_is_a_failure() -> None:
    def failing(of: Candidate, per_class: int) -> Evidence:
        if of.name == "a":
            raise HeadstartError("no room")
        return evidence_from({"b": 0.5})(of, per_class)

    done = select([candidate("a"), candidate("b")], 1e4, LEVELS, failing)
    assert done.failures == {"a": "no room"}
    assert [c.name for c in done.finalists] == ["b"]


def carry_out(done: Selection, speed: float) -> list[str]:
    """Full runs that take `speed` times their estimates; the names in order."""
    names = []
    for chosen in done.to_run():
        done.finished(chosen.name, speed * done.costs[chosen.name])
        names.append(chosen.name)
    return names


def test_full_runs_that_take_longer_than_estimated_leave_the_rest_out() -> None:
    two = [candidate("a"), candidate("b")]
    done = select(two, 70, LEVELS, evidence_from({"a": 0.9, "b": 0.9}))
    assert carry_out(done, speed=2) == [done.finalists[0].name]
    assert "no time: its full run takes about 59 s" in done.dropped[-1].why


def test_runs_that_are_quicker_than_estimated_make_room_for_all() -> None:
    """Estimates leave room for two of four. At half of them everything fits, and
    those that left for being worse are run too."""
    accuracies = {"best": 0.9, "close": 0.89, "bad": 0.6, "worst": 0.3}
    four = [candidate(name) for name in accuracies]
    one_run = OVERHEAD_S + 0.5 + 25
    done = select(four, 4 + 2.1 * one_run, LEVELS, evidence_from(accuracies))
    assert [dropped.name for dropped in done.dropped] == ["worst", "bad"]
    assert carry_out(done, speed=0.5) == ["close", "best", "bad", "worst"]
    assert done.dropped == []
    assert done.spent_s <= done.budget_s
    # As long as estimated: the finalists alone, and the reasons stand.
    done = select(four, 4 + 2.1 * one_run, LEVELS, evidence_from(accuracies))
    assert carry_out(done, speed=1) == ["close", "best"]
    assert [dropped.name for dropped in done.dropped] == ["worst", "bad"]


def test_who_does_not_fit_at_first_is_asked_again() -> None:
    """The large one does not fit by its estimate; the small ones after it take half of theirs."""
    three = [candidate("large", macs=3000), candidate("small"), candidate("other")]
    accuracies = {"large": 0.92, "small": 0.9, "other": 0.9}
    large, small = (OVERHEAD_S + 0.5 + 2500 * macs / 1e5 for macs in (3000, 1000))
    done = select(three, 100, [25], evidence_from(accuracies))
    done.budget_s = done.spent_s + large - 1
    order = carry_out(done, speed=0.5)
    assert order[0] != "large"
    assert set(order) == {"large", "small", "other"}
    assert done.spent_s <= done.budget_s
    assert small < large


def test_what_has_no_measurement_is_estimated_by_its_operations() -> None:
    gathered = {"a": evidence_from({"a": 0.5})(candidate("a"), 25)}
    assert estimate(candidate("b", macs=2000, evidence=None), gathered) == pytest.approx(
        OVERHEAD_S + 0.5 + 2500 * 2000 / 1e5
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("1.5m", 90)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds
    assert parse_seconds(format_seconds(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5s", "0s", "1d", "5s3m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(HeadstartError, match="write a time such as 90s, 10m or 1h30m"):
        parse_seconds(text)
