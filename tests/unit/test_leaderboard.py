"""The leaderboard: configurations out of runs, groups, the verdict, one protocol for all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.cli.tables.comparison import comparison_to_json, format_comparison
from headstart.comparison.leaderboard import Failure, build_comparison
from headstart.comparison.protocol import require_one_protocol
from headstart.comparison.records import Comparison
from headstart.errors import RecipeError, RunError
from headstart.files import write_arrays
from headstart.recipe import Recipe, Study
from headstart.rundir.history import Solve
from headstart.rundir.records import Counts, LatencyMs
from headstart.rundir.run import Run
from tests.fabricating import measured, recost, remake
from tests.unit.test_explain import DATA, HEAD, WEIGHTS, N, answers, plant

SOLVED = {"train": "head", "optimizer": "lbfgs", "views": 1}


def right(count: int, shift: int = 0) -> np.ndarray:
    """bool (N,): this many images right, the first ones after a shift."""
    return np.roll(np.arange(N) < count, shift)


def compared(runs: list[Run], root: Path, failures: list[Failure] | None = None) -> Comparison:
    fresh = [Run(run.path) for run in runs]  # a run keeps what it has read
    return build_comparison("study", fresh, failures or [], root)


def set_val(run: Run, accuracy: float, prefix: str = "test", n: int = N) -> None:
    """Predictions of n validation images, this share of them right."""
    made = answers(np.arange(n) < round(accuracy * n))
    ids = np.array([f"{prefix}/{k}" for k in range(n)])
    arrays = {"ids": ids, "labels": made.labels, "logits": made.logits}
    write_arrays(run.path / "predictions" / "val.npz", arrays)


def set_cost(run: Run, ms: float, session: str = "one", macs: int | None = None) -> None:
    others = {} if macs is None else {"macs": macs}
    recost(run, latency_ms=LatencyMs(ms, ms, ms, ms, 50), measured=measured(session), **others)


@pytest.fixture
def seeded(tmp_path: Path) -> list[Run]:
    """Two backbones, three seeds each, that are far apart."""
    return [
        plant(tmp_path, f"{name}-{seed}", right(count + 3 * seed, seed), seed=seed,
              backbone={"name": backbone, "weights": "registry"})
        for name, backbone, count in (
            ("lite", "tf_efficientnet_lite0", 340), ("mobile", "mobilenetv2_100", 200)
        )
        for seed in range(3)
    ]  # fmt: skip


def test_runs_that_differ_by_seed_alone_are_one_configuration(
    seeded: list[Run], tmp_path: Path
) -> None:
    result = compared(seeded, tmp_path)
    first, second = result.configurations
    assert (first.name, second.name) == ("lite", "mobile")
    assert first.runs == ("lite-0", "lite-1", "lite-2")
    assert first.seeds == (0, 1, 2)
    accuracies = np.array([340, 343, 346]) / N
    assert first.accuracy == pytest.approx(accuracies.mean())
    assert first.sd == pytest.approx(accuracies.std(ddof=1))
    assert first.interval[0] < first.accuracy < first.interval[1]
    assert (first.group, second.group) == (1, 2)
    assert result.winner == "lite"
    (pair,) = result.pairs
    assert pair.change == pytest.approx(-140 / N)
    assert pair.interval[0] < pair.change < pair.interval[1]
    assert pair.bootstrap == pytest.approx(pair.interval, abs=0.04)
    assert pair.test == "paired t over images and seeds"
    assert result.best == "lite-2"  # of one recipe's seeds, too, validation hands over its choice
    assert "Take lite (run lite-2), validation's choice" in result.verdict
    assert all(row.within_noise == row.run.startswith("lite") for row in result.rows)


def test_a_seed_twice_is_no_second_sample(tmp_path: Path) -> None:
    runs = [plant(tmp_path / folder, "same", 300) for folder in ("a", "b")]
    result = compared(runs, tmp_path)
    assert [c.seeds for c in result.configurations] == [(0,), (0,)]
    assert len({c.name for c in result.configurations}) == 2
    assert result.pairs[0].p_value == 1.0
    assert [c.group for c in result.configurations] == [1, 1]


def test_names_of_configurations(tmp_path: Path) -> None:
    def name(*named: tuple[str, int], **others: Any) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        runs = [plant(folder / str(k), n, seed=s, **others) for k, (n, s) in enumerate(named)]
        return [c.name for c in compared(runs, folder).configurations]

    assert name(("7-net", 7), ("8-net", 8)) == ["net"]
    assert name(("net", 0), ("net", 1)) == ["net"]
    assert name(("0", 0), ("1", 1)) == ["mobilenetv2_100, 2 seeds"]
    assert name(("alone-0", 0)) == ["alone-0"]


def test_other_weights_or_images_are_another_configuration(tmp_path: Path) -> None:
    weights = replace(WEIGHTS, sha256="cd" * 32)
    runs = [
        plant(tmp_path, "a", seed=0),
        plant(tmp_path, "b", seed=1, made_of={"weights": weights}),
    ]
    assert len(compared(runs, tmp_path).configurations) == 2


def test_chance_crowns_no_winner_and_the_cheapest_is_named(tmp_path: Path) -> None:
    runs = [
        plant(tmp_path, "a", right(330)),
        plant(tmp_path, "b", right(326, 5)),
        plant(tmp_path, "c", right(325, 9)),
        plant(tmp_path, "low", right(150)),
    ]
    for number, (run, ms) in enumerate(zip(runs, (9.0, 4.0, 6.0, 1.0), strict=True)):
        set_cost(run, ms, macs=100_000_000 * (number + 1))
    set_val(runs[2], 0.99)
    result = compared(runs, tmp_path)
    assert result.winner is None
    assert [c.group for c in result.configurations] == [1, 1, 1, 2]
    assert result.verdict == (
        "Take c, validation's choice: it is 1.2 points below a on 400 test images, which may be "
        "chance. a and b cannot be told from it; b (4.0 ms an image) is the cheapest of them. "
        "Take b where cost counts more."
    )
    assert result.best == "c"
    assert result.best_row.accuracy == 325 / N
    by_run = {row.run: row for row in result.rows}
    assert by_run["a"].within_noise
    assert not by_run["low"].within_noise
    assert by_run["low"].p_value == next(
        p.p_adjusted for p in result.pairs if (p.first, p.second) == ("c", "low")
    )
    assert result.cheapest is not None
    assert result.cheapest.beyond_noise
    set_cost(runs[0], 1.0, session="another")  # milliseconds of two measurements are not compared
    unknown = compared(runs, tmp_path)
    assert "the cheapest of them by operations: they were not timed side by" in unknown.verdict
    assert unknown.cheapest is not None and not unknown.cheapest.beyond_noise


def test_a_network_and_its_copy_tie_and_noise_names_no_cheapest(tmp_path: Path) -> None:
    """Twice as quick by the clock, and the same network: the clock was disturbed."""
    runs = [plant(tmp_path, "net", right(330)), plant(tmp_path, "tuned", right(328, 3))]
    for run, ms in zip(runs, (10.6, 5.3), strict=True):
        set_cost(run, ms, macs=300_000_000)
    result = compared(runs, tmp_path)
    assert "they compute the same, so none of them is the cheapest." in result.verdict
    assert result.cheapest is not None
    assert result.cheapest.names == ("net", "tuned")
    runs.append(plant(tmp_path, "small", right(326, 5)))
    set_cost(runs[2], 7.8, macs=200_000_000)
    verdict = compared(runs, tmp_path).verdict
    assert "small (200 million MACs an image) is the cheapest of them by operations" in verdict


def test_a_winner_that_validation_did_not_choose(tmp_path: Path) -> None:
    runs = [plant(tmp_path, "high", 360), plant(tmp_path, "low", 280)]
    set_val(runs[1], 0.99)
    result = compared(runs, tmp_path)
    assert result.winner == "high"
    assert result.best == "low"
    assert result.verdict == (
        "Take low, validation's choice, with care: it is 20.0 points below high on 400 test "
        "images, more than chance explains. Test chooses nothing: compare again with more "
        "validation images."
    )


def test_a_group_whose_members_differ_is_not_said_to_be_alike(tmp_path: Path) -> None:
    best, nearly = right(300), right(300)
    nearly[np.r_[0:24, 300:318]] ^= True  # 6 fewer right, 42 disagreements: not told from the best
    below = right(284)  # 16 fewer, all one way: told from the best
    third = best.copy()
    third[np.r_[0:60, 300:345]] ^= True
    masks = {"best": best, "nearly": nearly, "below": below, "third": third}
    runs = [plant(tmp_path, name, mask) for name, mask in masks.items()]
    result = compared(runs, tmp_path)
    groups = {c.name: c.group for c in result.configurations}
    assert groups == {"best": 1, "nearly": 1, "third": 1, "below": 2}
    again = compared([runs[0], runs[3]], tmp_path)
    assert "third cannot be told from it" in again.verdict


def test_one_configuration_and_failures(tmp_path: Path) -> None:
    failed = [Failure("torn", "vgg16", "no weights")]
    result = compared([plant(tmp_path, "alone")], tmp_path, failed)
    assert result.winner is None
    assert result.pairs == ()
    assert result.detectable is None
    assert result.verdict == "One configuration: there is nothing to compare it with."
    text = format_comparison(result)
    assert "failed: torn: no weights" in text
    assert "x failed" in text


def test_more_images_show_smaller_differences(tmp_path: Path) -> None:
    few = [plant(tmp_path, "a", right(330)), plant(tmp_path, "b", right(328, 4))]
    found = compared(few, tmp_path).detectable
    assert found is not None
    assert 0.01 < found < 0.04
    many = [plant(tmp_path, f"net{k}", right(330, k)) for k in range(6)]
    corrected = compared(many, tmp_path).detectable
    assert corrected is not None
    assert corrected > found  # fifteen pairs must share the five percent


def test_the_comparison_is_plain_json_and_printed(seeded: list[Run], tmp_path: Path) -> None:
    result = replace(compared(seeded, tmp_path), path=tmp_path, report=tmp_path / "report.html")
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["configurations"][0]["budget"] == {"penalties": 0, "epochs": 10}
    assert set(plain["pairs"][0]) == {
        "first", "second", "change", "interval", "bootstrap", "p_value", "p_adjusted",
        "told_apart", "test",
    }  # fmt: skip
    shown = comparison_to_json(result)
    assert {"winner", "verdict", "configurations", "runs", "best", "best_run"} <= set(shown)
    lines = format_comparison(result).splitlines()
    assert lines[0].split() == [
        "group", "configuration", "test", "accuracy", "95", "%", "interval", "sd", "seeds", "val",
        "train", "s", "ms/image",
    ]  # fmt: skip
    assert lines[1].startswith("*      1  lite")
    assert lines[1].split()[-5:] == ["3", "85.8", "%", "9.5", "5.0"]
    assert " ".join(lines).count("choice, which wins") == 1
    single = format_comparison(compared(seeded[::3], tmp_path)).splitlines()
    assert "seeds" not in single[0]


def test_the_protocol_states_images_budget_and_seeds(tmp_path: Path) -> None:
    solved = plant(tmp_path, "solved", 300, phases=[SOLVED])
    for l2 in (1.0, 0.1, 0.01, 0.1):  # the best comes once more, refined
        solved.append_log(Solve(0, 0.5, 0.8, 0.6, 0.7, l2, 40))
    fitted = plant(tmp_path, "fitted", 310, phases=[HEAD])
    protocol = compared([solved, fitted], tmp_path).protocol
    assert protocol["images"].startswith("the same 400 test images of cifar10-mini, 9,000 training")
    assert protocol["budget"] == (
        "validation chose among 10 epochs (fitted); 3 penalties (solved): not the same for all, "
        "and who has more to choose from has more chances"
    )
    assert "not other seeds" in protocol["seeds"]
    same = compared([fitted, plant(tmp_path, "other", 300, batch_size=32)], tmp_path).protocol
    assert same["budget"] == "validation chose among 10 epochs in each"
    repeated = [plant(tmp_path, f"net-{s}", 300 + s, seed=s) for s in range(3)]
    said = compared([*repeated, fitted], tmp_path).protocol["seeds"]
    assert said.startswith("1 to 3 each")
    assert "about that trained model" in said
    assert "so few say little about seeds" in said


def test_validation_on_different_images_is_said(tmp_path: Path) -> None:
    runs = []
    for name, fingerprint, count in (("small", "f1", 100), ("large", "f2", 1000)):
        data = replace(DATA, fingerprint=fingerprint, counts=Counts(9 * count, count, N))
        run = plant(tmp_path, name, 300, made_of={"data": data}, data={"train_limit": 10 * count})
        set_val(run, 1.0, n=count)
        runs.append(run)
    protocol = compared(runs, tmp_path).protocol
    assert "the best run on the 100 validation images that all runs hold" in protocol["choice"]
    assert "(900 to 9,000), and so do the validation images (100 to 1,000)" in protocol["images"]
    set_val(runs[0], 1.0, prefix="other", n=100)
    assert "not a fair one" in compared(runs, tmp_path).protocol["choice"]


def test_answers_in_another_order_are_refused(tmp_path: Path) -> None:
    runs = [plant(tmp_path, "a"), plant(tmp_path, "b")]
    test = runs[1].predictions("test")
    arrays = {key: getattr(test, key)[::-1] for key in ("ids", "labels", "logits")}
    write_arrays(runs[1].path / "predictions" / "test.npz", arrays)
    with pytest.raises(RunError, match="not in one order"):
        compared([runs[0], Run(runs[1].path)], tmp_path)
    remake(runs[1], data=replace(DATA, test_fingerprint="u" * 16))
    with pytest.raises(RunError, match="tested on different images"):
        compared(runs, tmp_path)


def study(**grid: list[Any]) -> list[Recipe]:
    recipe = {
        "data": {"source": "cifar10-mini"},
        "backbone": {"name": "mobilenetv2_100"},
        "phases": [{"train": "head"}],
    }
    return Study(name="s", recipe=recipe, grid={f"data.{k}": v for k, v in grid.items()}).recipes()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("source", ["cifar10", "cifar10-mini"]),
        ("test_limit", [100, 200]),
        ("test_fraction", [0.1, 0.2]),
        ("split_seed", [0, 1]),
        ("val_fraction", [0.1, 0.2]),
    ],
)
def test_a_study_of_two_protocols_is_refused(key: str, values: list[Any]) -> None:
    with pytest.raises(RecipeError, match=rf"data\.{key} differs .* make a study of each"):
        require_one_protocol(study(**{key: values}))


def test_a_study_of_the_number_of_images_is_warned_about() -> None:
    (note,) = require_one_protocol(study(train_limit=[100, 1000]))
    assert "the choice between such runs is not a fair one" in note
    assert require_one_protocol(study(size=[96, 128])) == []


def test_what_else_is_measured_makes_no_other_configuration(tmp_path: Path) -> None:
    runs = [plant(tmp_path, "net-0", seed=0), plant(tmp_path, "net-1", seed=1)]
    recipe = runs[1].recipe
    measured = recipe.evaluation.model_copy(update={"corruptions": (1, 3)})
    more = recipe.model_copy(update={"evaluation": measured})
    (runs[1].path / "recipe.toml").write_text(more.to_toml(), encoding="utf-8")
    (only,) = compared(runs, tmp_path).configurations
    assert only.seeds == (0, 1)
