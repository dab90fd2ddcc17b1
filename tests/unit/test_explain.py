"""Explaining: which settings differ, what each step bought, what a single run gets wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.cli.tables.explanation import format_explanation
from headstart.comparison.explain import explain_runs
from headstart.comparison.mistakes import find_departures, siblings
from headstart.comparison.settings import changes, differing, group_of, settings_of
from headstart.errors import RunError
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import paired_change
from headstart.files import write_arrays, write_json
from headstart.recipe import Recipe, load_recipe
from headstart.rundir.records import Counts, Data, LatencyMs, Preprocess, WeightsIdentity
from headstart.rundir.run import Run, create_run, list_runs, open_runs
from tests.fabricating import FINGERPRINT, cost_of, measured, metrics, provenance, remake

N = 400
EXPECTS = Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
WEIGHTS = WeightsIdentity("registry", "mobilenetv2_100", "packaged-1.0", "ab" * 32, "MIT", "a==1")
DATA = Data("cifar10-mini", "f" * 16, "t" * 16, tuple("abcd"), Counts(9000, 1000, N), 32, ())
HEAD = {"train": "head", "optimizer": "adam", "epochs": 10, "lr": 1e-3, "views": 1}
TUNE = {"train": "last_stage", "optimizer": "adam", "epochs": 5, "lr": 1e-4, "norm": "frozen"}


def answers(right: np.ndarray, classes: int = 4) -> Predictions:
    """Predictions that are right just where `right` says so."""
    labels = np.arange(len(right)) % classes
    logits = np.zeros((len(right), classes), np.float32)
    logits[np.arange(len(right)), np.where(right, labels, (labels + 1) % classes)] = 2.0
    return Predictions(np.array([f"test/{k}" for k in range(len(right))]), labels, logits)


def plant(
    folder: Path,
    name: str,
    hits: int | np.ndarray = 200,
    *,
    data: dict[str, Any] | None = None,
    phases: list[dict[str, Any]] | None = None,
    made_of: dict[str, Any] | None = None,
    provider: str = "registry",
    **recipe: Any,
) -> Run:
    """A finished run; `hits`: how many of the 400 test images, the first ones, or which. made_of:
    other values of its provenance."""
    made = Recipe.model_validate(
        {"name": name, "phases": phases or [HEAD],
         "data": {"source": "cifar10-mini", "size": 224, **(data or {})},
         "backbone": {"name": "mobilenetv2_100", "weights": provider}, **recipe}
    )  # fmt: skip
    run = create_run(folder / name, made, FINGERPRINT)
    weights = replace(WEIGHTS, provider=provider)
    run.update_manifest(
        status="finished", created=f"2025-01-01T00:00:{len(list(folder.iterdir())):02d}",
        provenance=provenance(DATA, weights, preprocess=EXPECTS, expects=EXPECTS),
    )  # fmt: skip
    remake(run, **(made_of or {}))
    test = answers(np.arange(N) < hits if isinstance(hits, int) else hits)
    arrays = {key: getattr(test, key) for key in ("ids", "labels", "logits")}
    for split in ("val", "test"):
        write_arrays(run.path / "predictions" / f"{split}.npz", arrays)
    write_json(run.path / "metrics.json", metrics(test, test))
    latency = LatencyMs(5.0, None, None, 6.0, 30)
    cost = cost_of(alone_s=9.5, parameters=2_236_682, latency_ms=latency, measured=measured(None))
    write_json(run.path / "cost.json", cost)
    return run


@pytest.fixture
def ladder(tmp_path: Path) -> list[Run]:
    """Four rungs; each changes one group of settings of the one before it."""
    flips = {"flip": True, "shift": 0.1}
    return [
        plant(tmp_path, "as-claimed", 90, data={"size": 32, "normalize": "unit"}),
        plant(tmp_path, "right-scaling", 150, data={"size": 32}),
        plant(tmp_path, "right-size", 300, data={"size": 96}),
        plant(tmp_path, "fine-tuned", 304, data={"size": 96, "augment": flips},
              phases=[HEAD, TUNE]),
    ]  # fmt: skip


def test_differences_are_dotted_and_only_what_differs(ladder: list[Run]) -> None:
    settings = [settings_of(run) for run in ladder]
    assert settings[0]["weights.tag"] == "packaged-1.0"
    assert settings[0]["head.hidden"] == []
    assert differing(settings[:2]) == {"data.normalize": ["unit", "weights"]}
    assert differing(settings) == {
        "data.size": ["32", "32", "96", "96"],
        "data.normalize": ["unit", "weights", "weights", "weights"],
        "data.augment.flip": ["false", "false", "false", "true"],
        "data.augment.shift": ["0", "0", "0", "0.1"],
        "phases.1": ["–", "–", "–", "last_stage adam 5 epochs lr 0.0001"],
    }


def test_phases_that_both_have_differ_field_by_field(tmp_path: Path) -> None:
    first = plant(tmp_path, "first", phases=[HEAD, TUNE])
    second = plant(tmp_path, "second", phases=[HEAD, {**TUNE, "lr": 3e-5}])
    (change,) = changes(settings_of(first), settings_of(second))
    assert (change.key, change.before, change.after) == ("phases.1.lr", "0.0001", "3e-05")
    assert change.group == "training"


def test_weights_of_another_tag_are_another_backbone(tmp_path: Path) -> None:
    other = replace(WEIGHTS, tag="packaged-2.0")
    pair = [plant(tmp_path, "old"), plant(tmp_path, "new", made_of={"weights": other})]
    (step,) = explain_runs(pair).steps
    assert step.cause == "weights.tag packaged-1.0 -> packaged-2.0"
    assert step.groups == ("backbone",)


@pytest.mark.parametrize(
    ("key", "group"),
    [("data.size", "size"), ("data.normalize", "scaling"), ("data.resize_via", "resize chain"),
     ("data.train_limit", "images"), ("data.augment.flip", "training"), ("seed", "seed"),
     ("phases.0.lr", "training"), ("head.hidden", "head"), ("backbone.name", "backbone")],
)  # fmt: skip
def test_groups(key: str, group: str) -> None:
    assert group_of(key) == group


def test_a_ladder_attributes_each_step(ladder: list[Run]) -> None:
    explained = explain_runs(ladder)
    assert explained.ladder
    assert [step.groups for step in explained.steps] == [("scaling",), ("size",), ("training",)]
    assert [round(400 * step.change) for step in explained.steps] == [60, 150, 4]
    text = format_explanation(explained)
    assert "as-claimed -> right-scaling: +15.0 points [+11.4, +18.5], p < 0.001" in text
    assert "(data.normalize unit -> weights)" in text
    assert "p = 0.12, not told from chance (training as a whole: data.augment.flip false" in text
    assert "phases.1 added: last_stage adam 5 epochs lr 0.0001" in text
    assert "12,810" in text
    assert "9.5" in text


def test_several_settings_at_once_are_not_attributed(ladder: list[Run]) -> None:
    explained = explain_runs([ladder[0], ladder[2]])
    (step,) = explained.steps
    assert not step.attributed
    assert not explained.ladder
    assert "size and scaling changed at once, so the change cannot be assigned" in step.cause
    assert "right-size: +52.5 points" in format_explanation(explained)


def test_a_run_is_set_beside_the_nearest_before_it(tmp_path: Path) -> None:
    base = plant(tmp_path, "base", data={"size": 96})
    sides = [plant(tmp_path, "deep", head={"hidden": [64]}, data={"size": 96}),
             plant(tmp_path, "small", data={"size": 32}),
             plant(tmp_path, "seeded", data={"size": 32}, seed=1)]  # fmt: skip
    explained = explain_runs([base, *sides])
    assert [(s.first, s.second) for s in explained.steps] == [
        ("base", "deep"), ("base", "small"), ("small", "seeded"),
    ]  # fmt: skip
    assert not explained.ladder
    assert [step.second for step in explained.telling] == ["deep", "small"]


def test_the_ladder_of_each_seed_stays_whole(tmp_path: Path) -> None:
    runs = [
        plant(tmp_path, f"{size}-{seed}", data={"size": size}, seed=seed)
        for size in (32, 96)
        for seed in (0, 1)
    ]
    steps = explain_runs(runs).steps
    assert [(s.first, s.second) for s in steps][1:] == [("32-0", "96-0"), ("32-1", "96-1")]


def test_of_runs_as_near_the_latest_counts(tmp_path: Path) -> None:
    runs = [plant(tmp_path, f"at-{size}", data={"size": size}) for size in (32, 64, 96)]
    explained = explain_runs(runs)
    assert [step.first for step in explained.steps] == ["at-32", "at-64"]
    assert explained.ladder


def test_equal_recipes_differ_by_chance_alone(tmp_path: Path) -> None:
    (step,) = explain_runs([plant(tmp_path, "one", 200), plant(tmp_path, "two", 210)]).steps
    assert "only chance and the machine differ" in step.cause
    assert not step.attributed


def test_other_test_images_are_refused(tmp_path: Path) -> None:
    other = {"data": replace(DATA, test_fingerprint="u" * 16)}
    pair = [plant(tmp_path, "one"), plant(tmp_path, "two", made_of=other)]
    with pytest.raises(RunError, match="two and one were tested on different images"):
        explain_runs(pair)
    pair[1].update_manifest(status="interrupted")
    with pytest.raises(RunError, match="interrupted: explain takes finished runs"):
        explain_runs(pair)


def random_pair(seed: int, n: int, both: float, one: float, two: float) -> tuple[Any, Any]:
    """Two models' hits: both right, only the first, only the second, with these chances."""
    kinds = np.random.default_rng(seed).choice(4, n, p=[both, one, two, 1 - both - one - two])
    return answers((kinds == 0) | (kinds == 1)), answers((kinds == 0) | (kinds == 2))


@pytest.mark.parametrize(
    ("n", "both", "one", "two"), [(500, 0.7, 0.05, 0.12), (2000, 0.5, 0.02, 0.3)]
)
def test_the_paired_interval_agrees_with_a_bootstrap(
    n: int, both: float, one: float, two: float
) -> None:
    first, second = random_pair(3, n, both, one, two)
    found = paired_change(first, second)
    difference = second.correct.astype(int) - first.correct.astype(int)
    rows = np.random.default_rng(0).integers(0, n, (4000, n))
    expected = np.quantile(difference[rows].mean(axis=1), [0.025, 0.975])
    assert found.change == pytest.approx(difference.mean())
    assert found.interval == pytest.approx(tuple(expected), abs=0.1 * np.ptp(expected))
    assert found.gained - found.lost == difference.sum()


def test_the_paired_interval_covers_and_knows_its_pairs() -> None:
    inside = 0
    for seed in range(400):
        low, high = paired_change(*random_pair(seed, 60, 0.6, 0.1, 0.15)).interval
        inside += low <= 0.05 <= high
    assert 0.93 <= inside / 400 <= 0.985
    # Shared errors cancel: the same accuracies, drawn apart, would be five times less certain.
    twins = paired_change(answers(np.arange(N) < 200), answers(np.arange(N) < 202)).interval
    strangers = paired_change(answers(np.arange(N) < 200), answers(np.arange(N) >= 198)).interval
    assert 5 * np.ptp(twins) < np.ptp(strangers)


def test_the_paired_interval_at_the_ends() -> None:
    same = paired_change(answers(np.ones(N, bool)), answers(np.ones(N, bool)))
    assert same.change == 0
    assert same.p_value == 1
    assert same.interval[0] < 0 < same.interval[1]
    total = paired_change(answers(np.zeros(N, bool)), answers(np.ones(N, bool)))
    assert total.change == 1
    assert 0.98 < total.interval[0] < total.interval[1] <= 1
    # The closed form by hand: 6 gained, none lost, of 20; one is added to either count.
    few = paired_change(answers(np.arange(20) < 10), answers(np.arange(20) < 16))
    up, down = 7 / 22, 1 / 22
    half = 1.959964 * ((up + down - (up - down) ** 2) / 22) ** 0.5
    assert few.interval == pytest.approx((up - down - half, up - down + half), abs=1e-6)
    assert few.p_value == pytest.approx(2 * 0.5**6)


def test_a_single_run_is_reported_its_departures(tmp_path: Path) -> None:
    run = plant(tmp_path, "claimed", data={"size": 32, "normalize": "unit"})
    scaling, size = find_departures(run)
    assert (scaling.key, scaling.has) == ("data.normalize", "unit")
    assert "mean and std-scaled ones, -2.0..2.4: frozen batch norm sees shifted" in scaling.why
    assert (size.has, size.wants, size.mistake) == ("32", "224", True)
    assert "the last feature map is 1x1 instead of 7x7" in size.why
    first, second = siblings(run)
    text = format_explanation(explain_runs([run]))
    words = f"run {run.path} --set data.normalize=weights --set data.size=224 --set name="
    assert words in text
    assert f"explain {run.path} {first.path} {second.path}" in text


@pytest.mark.parametrize(
    ("side", "via", "says"),
    [(32, [64], "resized 32 -> 64 -> 224: each further interpolation blurs"),
     (500, [64], "resized 500 -> 64 -> 224: detail finer than 64 pixels a side is gone"),
     (32, [32], "resized 32 -> 32 -> 224: each further interpolation blurs"),
     (32, [16, 64], "detail finer than 16 pixels a side is gone")],
)  # fmt: skip
def test_a_chain_of_resizes_is_reported(
    tmp_path: Path, side: int, via: list[int], says: str
) -> None:
    stored = {"data": replace(DATA, side=side)}
    run = plant(tmp_path, "chained", data={"resize_via": via}, made_of=stored)
    (finding,) = find_departures(run)
    assert says in finding.why
    (sibling,) = siblings(run)
    assert "'data.resize_via=[]'" in sibling.command
    (step,) = explain_runs([run, plant(tmp_path, "straight")]).steps
    assert step.cause == f"data.resize_via {via} -> []"
    assert step.groups == ("resize chain",)


def test_the_siblings_are_the_runs_they_promise(tmp_path: Path) -> None:
    run = plant(tmp_path, "claimed", data={"size": 32, "normalize": "unit"})
    for sibling, size, scaling in zip(
        siblings(run), (32, 224), ("weights", "weights"), strict=True
    ):
        words = sibling.command.split()
        sets = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
        recipe = load_recipe(words[2], sets)
        assert (recipe.data.size, recipe.data.normalize) == (size, scaling)
        promised = recipe.fingerprint(
            images=DATA.fingerprint, weights=str(WEIGHTS.sha256), precision="float32"
        )
        assert sibling.path == f"runs/{recipe.name}-{promised}"


def test_a_run_without_departures_is_reported_so(tmp_path: Path) -> None:
    text = format_explanation(explain_runs([plant(tmp_path, "right")]))
    assert "preprocesses its images as its weights expect" in text


@pytest.mark.parametrize(("size", "mistake"), [(32, True), (111, True), (112, False), (192, False)])
def test_a_smaller_size_is_a_mistake_only_far_below(
    tmp_path: Path, size: int, mistake: bool
) -> None:
    (finding,) = find_departures(plant(tmp_path, "small", data={"size": size}))
    assert finding.mistake is mistake
    assert ("Known to cost" in format_explanation(
        explain_runs([plant(tmp_path, "full"), open_runs([tmp_path / "small"])[0]])
    )) is mistake  # fmt: skip


def test_patches_and_weights_without_a_wish(tmp_path: Path) -> None:
    vit = {"name": "vit_small_patch16_224", "weights": "hub"}
    run = plant(tmp_path, "vit", data={"size": 32, "normalize": "unit"}, backbone=vit)
    scaling, size = find_departures(run)
    assert "grid of patches is 2x2 instead of 14x14" in size.why
    assert "batch norm" not in scaling.why
    plain = {"expects": replace(EXPECTS, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))}
    run = plant(tmp_path, "unit", data={"normalize": "unit"}, made_of=plain)
    assert find_departures(run) == ()
    scratch = [{"train": "from_scratch", "epochs": 1, "lr": 1e-3, "norm": "train"}]
    run = plant(tmp_path, "scratch", data={"size": 32, "normalize": "unit"}, phases=scratch,
                provider="random", batch_size=8)  # fmt: skip
    assert find_departures(run) == ()


def test_training_mistakes(tmp_path: Path) -> None:
    slow = plant(tmp_path, "slow", phases=[{**HEAD, "lr": 1e-5}])
    (finding,) = find_departures(slow)
    assert "1e-05 over 710 steps is 0.0071 at most" in finding.why
    assert finding.override == "phases.0.lr=0.0001"
    assert find_departures(plant(tmp_path, "quick", phases=[{**HEAD, "lr": 5e-5}])) == ()
    tuned = [HEAD, {**TUNE, "norm": "train"}]
    (finding,) = find_departures(plant(tmp_path, "noisy", phases=tuned, batch_size=8))
    assert finding.override == "phases.1.norm=frozen"
    assert find_departures(plant(tmp_path, "calm", phases=tuned, batch_size=64)) == ()


def test_a_study_directory_gives_its_runs_in_its_order(ladder: list[Run], tmp_path: Path) -> None:
    names = [run.path.name for run in ladder]
    assert [path.name for path in list_runs(tmp_path)] == names  # by the time they were made
    order = [names[2], names[0], names[1]]
    write_json(tmp_path / "comparison.json", {"rows": [], "order": order})
    ladder[3].update_manifest(status="failed")
    assert [run.path.name for run in open_runs([tmp_path])] == [*order, names[3]]
    assert list_runs(ladder[0].path) == list_runs(tmp_path / "nowhere") == []
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(RunError, match=r"comparison\.json: damaged"):
        list_runs(tmp_path)


def test_json_holds_plain_values(ladder: list[Run]) -> None:
    content = json.loads(json.dumps(explain_runs(ladder).to_json()))
    assert content["ladder"] is True
    assert content["settings"]["data.size"] == ["32", "32", "96", "96"]
    assert content["steps"][1]["cause"] == "data.size 32 -> 96"
    assert content["entries"][0]["findings"][0]["override"] == "data.normalize=weights"
