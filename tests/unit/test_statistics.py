"""Statistics agree with the libraries that define them, and keep their promises on planted data.

Planted answers come from a threshold on what is latent: an image's difficulty, shared in part by
the configurations, a seed's effect on all images, and what is left.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from headstart.comparison.verdict import decide, group
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import (
    LEVEL,
    bootstrap_interval,
    detectable_change,
    difference,
    estimate,
    holm,
    mcnemar_p_value,
    mcnemar_power,
    paired_change,
    wilson_interval,
)

REPEATS = 200


def planted(
    rng: np.random.Generator, seeds: int, n: int, accuracies: list[float], seed_sd: float = 0.0
) -> list[np.ndarray]:
    """bool (seeds, n) for each accuracy, which is the mean over all images and all seeds."""
    shared, total = rng.normal(size=n), np.sqrt(1 + seed_sd**2 + 0.3**2)
    tables = []
    for accuracy in accuracies:
        image = np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.normal(size=n)
        seed = seed_sd * rng.normal(size=(seeds, 1))
        rest = 0.3 * rng.normal(size=(seeds, n))
        tables.append(total * stats.norm.ppf(accuracy) + image + seed + rest > 0)
    return tables


def ordered(tables: list[np.ndarray]) -> list[np.ndarray]:
    return sorted(tables, key=lambda table: -table.mean())


def of_counts(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models' answers, bool (1, n), with these paired counts."""
    counts = (both, gained, lost, neither)
    return (
        np.repeat([True, False, True, False], counts)[None],
        np.repeat([True, True, False, False], counts)[None],
    )


def test_wilson_agrees_with_statsmodels() -> None:
    reference = pytest.importorskip("statsmodels.stats.proportion")
    for hits, n in ((0, 10), (10, 10), (412, 500), (1, 3), (9_871, 10_000)):
        expected = reference.proportion_confint(hits, n, method="wilson")
        assert wilson_interval(hits, n) == pytest.approx(expected, abs=1e-9)


def test_mcnemar_agrees_with_statsmodels() -> None:
    reference = pytest.importorskip("statsmodels.stats.contingency_tables")
    for gained, lost in product((0, 1, 2, 7, 40), (0, 1, 5, 40, 63)):
        first, second = of_counts(300, gained, lost, 50)
        expected = reference.mcnemar([[300, lost], [gained, 50]], exact=True).pvalue
        assert difference(first, second).p_value == pytest.approx(expected, abs=1e-9)
        assert difference(first, second).test == "exact McNemar"


def test_holm_agrees_with_statsmodels() -> None:
    reference = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for k in (1, 2, 15, 40):
        p = rng.uniform(size=k) ** 3
        p[: k // 3] = p[0]  # ties
        expected = reference.multipletests(p, method="holm")[1]
        assert holm(p.tolist()) == pytest.approx(expected.tolist(), abs=1e-9)
    assert holm([]) == []


def test_mcnemar_is_about_the_same_images() -> None:
    labels = np.zeros(20, np.int64)
    ids = np.arange(20).astype(str)
    first = Predictions(ids, labels, np.tile([1.0, 0.0], (20, 1)).astype(np.float32))
    wrong = first.logits.copy()
    wrong[:6] = [0.0, 1.0]
    second = Predictions(ids, labels, wrong)
    assert paired_change(first, second).p_value == pytest.approx(2 * 0.5**6)
    assert paired_change(first, first).p_value == 1.0
    with pytest.raises(ValueError, match="different images"):
        paired_change(first, Predictions(ids[::-1], labels, wrong))
    with pytest.raises(ValueError, match="different images"):
        difference(np.ones((1, 5), bool), np.ones((1, 6), bool))
    with pytest.raises(ValueError, match="no answers"):
        estimate(np.ones((1, 0), bool))


@pytest.mark.parametrize(("disagreeing", "change"), [(0.3, 0.2), (0.5, 0.0), (0.25, 0.25)])
def test_power_is_the_sum_over_every_outcome(disagreeing: float, change: float) -> None:
    n, up, down = 40, (disagreeing + change) / 2, (disagreeing - change) / 2
    enumerated = sum(
        stats.multinomial.pmf((gained, lost, n - gained - lost), n, (up, down, 1 - up - down))
        for gained in range(n + 1)
        for lost in range(n + 1 - gained)
        if mcnemar_p_value(gained, lost) <= LEVEL
    )
    assert mcnemar_power(n, disagreeing, change) == pytest.approx(enumerated, abs=1e-9)


@pytest.mark.parametrize(("n", "change"), [(500, 0.03), (500, 0.05), (2000, 0.02)])
def test_as_many_are_reported_apart_as_the_power_says(n: int, change: float) -> None:
    rng, repeats, disagreeing = np.random.default_rng(3), 1500, 0.1
    up, down = (disagreeing + change) / 2, (disagreeing - change) / 2
    drawn = rng.multinomial(n, [0.7, up, down, 0.3 - disagreeing], repeats)
    share = np.mean([difference(*of_counts(*row)).p_value < LEVEL for row in drawn])
    power = mcnemar_power(n, disagreeing, change)
    assert abs(share - power) < 3 * np.sqrt(power * (1 - power) / repeats)


def test_the_detectable_change_has_the_power_and_no_smaller_one_has() -> None:
    for n, disagreeing in ((500, 0.1), (500, 0.0), (10_000, 0.05)):
        least = detectable_change(n, disagreeing)
        assert least is not None
        shares = max(disagreeing, least + 2e-4), max(disagreeing, least - 2e-4)
        assert mcnemar_power(n, shares[0], least + 2e-4) >= 0.8
        assert mcnemar_power(n, shares[1], least - 2e-4) < 0.8
    assert detectable_change(5, 0.2) is None  # no outcome of five images reaches 5 %
    with pytest.raises(ValueError, match="needs as large a share"):
        mcnemar_power(100, 0.1, 0.2)


@pytest.mark.parametrize(
    ("models", "seeds", "seed_sd"),
    [
        (2, 1, 0.0),
        (6, 1, 0.0),
        (2, 2, 0.15),
        (6, 2, 0.05),
        (6, 2, 0.15),
        (2, 3, 0.05),
        (4, 3, 0.05),
        (2, 3, 0.15),
        (6, 3, 0.15),
        (6, 5, 0.15),
    ],
)
def test_equal_models_have_no_winner(models: int, seeds: int, seed_sd: float) -> None:
    rng = np.random.default_rng(1)
    decisions = [
        decide(ordered(planted(rng, seeds, 500, [0.85] * models, seed_sd))) for _ in range(REPEATS)
    ]
    assert np.mean([d.winner is not None for d in decisions]) <= 0.05
    # More than that: no two of them are told apart, whichever turned out best.
    assert np.mean([d.apart.any() for d in decisions]) <= 0.05


def test_with_seeds_enough_the_test_has_its_level() -> None:
    rng, repeats = np.random.default_rng(1), 1500
    tables = [planted(rng, 5, 500, [0.85, 0.85], 0.15) for _ in range(repeats)]
    share = np.mean([difference(*pair).p_value < LEVEL for pair in tables])
    assert abs(share - LEVEL) < 3 * np.sqrt(LEVEL * (1 - LEVEL) / repeats)


def test_without_the_correction_chance_would_tell_equal_models_apart() -> None:
    rng = np.random.default_rng(1)
    decisions = [decide(planted(rng, 1, 500, [0.85] * 6)) for _ in range(REPEATS)]
    uncorrected = [min(d.p_value for d in each.differences) < LEVEL for each in decisions]
    assert np.mean(uncorrected) > 0.15


def test_a_model_that_is_better_wins() -> None:
    rng = np.random.default_rng(2)
    for seeds, seed_sd in ((1, 0.0), (3, 0.02)):
        tables = planted(rng, seeds, 4000, [0.92, 0.85, 0.85, 0.7], seed_sd)
        decision = decide(ordered(tables))
        assert decision.winner == 0
        assert decision.groups == (1, 2, 2, 3)


@pytest.mark.parametrize("accuracy", [0.6, 0.85, 0.97])
@pytest.mark.parametrize(
    ("seeds", "seed_sd", "least"),
    # What was measured with 1,000 repetitions, less three standard errors of 400.
    [(1, 0.0, 0.92), (2, 0.05, 0.90), (3, 0.05, 0.92), (3, 0.15, 0.89), (5, 0.15, 0.91)],
)
def test_intervals_hold_the_truth(
    seeds: int, seed_sd: float, least: float, accuracy: float
) -> None:
    rng = np.random.default_rng(4)
    held = []
    for _ in range(400):
        (table,) = planted(rng, seeds, 400, [accuracy], seed_sd)
        low, high = estimate(table).interval
        held.append(low <= accuracy <= high)
    assert np.mean(held) >= least


@pytest.mark.parametrize(("seeds", "seed_sd", "least"), [(1, 0.0, 0.92), (5, 0.1, 0.92)])
def test_intervals_of_a_difference_hold_the_truth(seeds: int, seed_sd: float, least: float) -> None:
    rng = np.random.default_rng(5)
    held, resampled = [], []
    for _ in range(300):
        first, second = planted(rng, seeds, 400, [0.8, 0.85], seed_sd)
        low, high = difference(first, second).interval
        held.append(low <= 0.05 <= high)
        low, high = bootstrap_interval(first, second, draws=400)
        resampled.append(low <= 0.05 <= high)
    assert np.mean(held) >= least
    assert np.mean(resampled) >= 0.89  # five seeds are few to draw from


def test_the_standard_error_is_that_of_repeated_studies() -> None:
    rng = np.random.default_rng(9)
    studies = [difference(*planted(rng, 5, 400, [0.8, 0.85], 0.15)) for _ in range(400)]
    expected = np.var([found.change for found in studies], ddof=1)
    # Of its own effect and the pooled one a configuration is given the larger: on the wide side.
    assert 0.95 < np.mean([found.error**2 for found in studies]) / expected < 1.35


def test_seeds_that_vary_widen_the_interval() -> None:
    rng = np.random.default_rng(6)
    (steady,), (varied,) = (planted(rng, 3, 2000, [0.85], sd) for sd in (0.0, 0.2))
    widths = [np.diff(estimate(table).interval)[0] for table in (steady, varied)]
    assert widths[1] > 1.5 * widths[0]
    one = estimate(steady[:1])
    assert one.sd is None
    assert one.interval == wilson_interval(int(steady[0].sum()), 2000)


def test_seeds_that_change_nothing_are_one_model() -> None:
    rng = np.random.default_rng(7)
    first, second = planted(rng, 1, 300, [0.8, 0.85])
    alike = estimate(np.repeat(first, 3, axis=0))
    assert alike.interval == estimate(first).interval
    assert alike.sd == 0.0
    assert difference(np.repeat(first, 3, axis=0), second) == difference(first, second)


def test_extremes_stay_inside() -> None:
    right = np.ones((3, 50), bool)
    nearly = right.copy()
    nearly[0, 0] = False
    for table in (right, ~right, nearly):
        low, high = estimate(table).interval
        assert 0 <= low < high <= 1
    found = difference(~right, nearly)
    assert -1 <= found.interval[0] < found.interval[1] <= 1
    assert found.p_value < 1e-2
    assert difference(right, right).p_value == 1.0


def test_few_disagreements_are_no_certainty() -> None:
    """With several seeds as with one: five images all one way are not below 5 %."""
    first = np.ones((3, 500), bool)
    first[:, 5:10] = False
    second = first.copy()
    second[:, 5:10] = True
    first[0, 0] = False  # so that the seeds are not one model
    found = difference(first, second)
    assert found.test != "exact McNemar"
    assert found.p_value > 0.04


def test_the_bootstrap_repeats_itself_and_meets_the_formula() -> None:
    rng = np.random.default_rng(8)
    first, second = planted(rng, 1, 2000, [0.8, 0.84])
    found = bootstrap_interval(first, second)
    assert found == bootstrap_interval(first, second)
    assert found != bootstrap_interval(first, second, seed=1)
    assert found == pytest.approx(difference(first, second).interval, abs=2e-3)
    assert bootstrap_interval(first, first) == (0.0, 0.0)


def test_groups_are_what_cannot_be_told_from_the_best_of_the_rest() -> None:
    def apart(k: int, *pairs: tuple[int, int]) -> np.ndarray:
        table = np.zeros((k, k), bool)
        for a, b in pairs:
            table[a, b] = table[b, a] = True
        return table

    assert group(apart(1)) == (1,)
    assert group(apart(3)) == (1, 1, 1)
    assert group(apart(4, (0, 2), (0, 3), (1, 3))) == (1, 1, 2, 2)
    # The third varies so much that nothing is known of it: it stands with the best all the same.
    assert group(apart(4, (0, 1), (0, 3), (1, 3))) == (1, 2, 1, 3)


def test_seeds_add_power_and_not_only_doubt() -> None:
    """Six points apart, three seeds of little effect: told apart in a study of four."""
    rng = np.random.default_rng(7)
    distinguished = 0
    for _ in range(60):
        decision = decide(planted(rng, 3, 500, [0.79, 0.85, 0.85, 0.85], 0.02))
        distinguished += bool(decision.apart[0, 1])
    assert distinguished > 45


def test_a_configuration_whose_seeds_matter_more_than_the_others_is_not_taken_for_sure() -> None:
    rng = np.random.default_rng(8)
    wild, calm = [], []
    for _ in range(REPEATS):
        quiet = planted(rng, 3, 500, [0.85] * 3)
        (noisy,) = planted(rng, 3, 500, [0.85], 0.15)
        decision = decide([noisy, *quiet])
        wild.append(decision.apart[0].any())
        calm.append(decision.apart[1:, 1:].any())
    assert np.mean(wild) <= 0.08
    assert np.mean(calm) <= 0.05


@pytest.mark.parametrize("rows", [[[1, 0], [0, 1]], [[1, 0, 1, 0], [0, 1, 0, 1]], [[1], [0]]])
def test_tiny_test_sets_show_nothing_and_break_nothing(rows: list[list[int]]) -> None:
    table = np.array(rows, bool)
    low, high = estimate(table).interval
    assert 0 <= low < 0.5 < high <= 1
    assert difference(table, ~table).p_value > 0.5
