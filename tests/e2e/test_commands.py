"""The commands, from a recipe to an answer, on real weights and real images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as library
from headstart.evaluation.calibration import calibration, fit_temperature
from headstart.files import to_json
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.plan.plan import make_plan
from headstart.recipe import load_recipe
from headstart.rundir.run import open_run
from tests.conftest import Outcome
from tests.recipes import log_of

Command = Callable[..., Outcome]

RECIPE = """\
name = "probe"
[data]
source = "cifar10-mini"
train_limit = 500
test_limit = 100
size = 96
[backbone]
name = "EfficientNet-Lite0"
weights = "registry"
[[phases]]
train = "head"
"""
TINY = """\
name = "tiny"
[data]
source = "cifar10-mini"
train_limit = 100
test_limit = 40
size = 32
[backbone]
name = "small_cnn"
weights = "random"
[[phases]]
train = "from_scratch"
epochs = 1
[[phases]]
train = "head"
epochs = 1
"""
STUDY = (
    RECIPE.replace('"probe"', '"small-study"')
    + """
[grid]
"backbone.name" = ["tf_efficientnet_lite0"]
[[variants]]
name = "tuned"
"data.augment" = { flip = true }
phases = [
    { train = "head", views = 1 },
    { train = "last_stage", epochs = 2, lr = 3e-4, views = 1, patience = 1 },
]
[[variants]]
name = "scratch"
"backbone.name" = "small_cnn"
"backbone.weights" = "random"
"data.size" = 32
phases = [{ train = "from_scratch", epochs = 1 }]
[[variants]]
name = "fails"
"backbone.weights" = "file:nowhere.safetensors"
"""
)


@pytest.fixture(scope="session")
def probe(real_weights: str, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made once through the library."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        recipe = library.load_recipe(folder / "probe.toml")
        return library.run(recipe, out=folder / "run").path


@pytest.fixture
def in_shared_cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(shared_cache))


@pytest.mark.usefixtures("in_shared_cache")
def test_run_json_has_the_promised_shape(probe: Path, headstart: Command) -> None:
    outcome = headstart("run", probe / "recipe.toml", "--out", probe, "--json")
    assert outcome.code == 0, outcome.err
    assert "nothing to repeat" in outcome.err
    result = json.loads(outcome.out)
    assert result["run"] == str(probe)
    # By folds: validation is of all that the head was fitted to.
    for split, n in (("test", 100), ("val", 500)):
        scores = result[split]
        assert scores["n"] == n
        assert scores["interval"][0] < scores["accuracy"] < scores["interval"][1]
        assert scores["loss"] > 0
        assert scores["top5"] >= scores["accuracy"]
    promised = {"wall_s", "extract_s", "train_s", "images_per_s", "peak_rss_mb"}
    assert promised <= result["cost"].keys()
    assert all(result["cost"][key] > 0 for key in promised)
    weights = result["backbone"]["weights"]
    assert result["backbone"]["name"] == "tf_efficientnet_lite0"
    assert weights["provider"] == "registry"
    assert len(weights["sha256"]) == 64


def test_golden_run(probe: Path) -> None:
    """Guards the numbers. A change here needs a reason in the log."""
    run = open_run(probe)
    assert run.metrics.test.accuracy == pytest.approx(GOLDEN_ACCURACY, abs=0.011)
    assert run.metrics.test.loss == pytest.approx(GOLDEN_LOSS, abs=2e-3)


GOLDEN_ACCURACY, GOLDEN_LOSS = 0.66, 0.9719


@pytest.mark.usefixtures("in_shared_cache")
def test_the_run_directory_is_complete_and_traceable(probe: Path) -> None:
    run = open_run(probe)
    assert run.finished
    names = {str(path.relative_to(probe)) for path in probe.rglob("*") if path.is_file()}
    assert names == {
        *("recipe.toml", "manifest.json", "log.jsonl", "metrics.json", "cost.json"),
        *("pictures.npz", "feature_map.npz", "golden.npz"),
        *("checkpoints/best.safetensors", "report/report.html"),
        *("predictions/val.npz", "predictions/test.npz"),
    }
    recipe = load_recipe(probe / "recipe.toml")
    assert recipe == library.resolve(recipe)[0]
    assert (recipe.data.size, recipe.phases[0].optimizer) == (96, "lbfgs")
    plan = make_plan(recipe, create_runtime("cpu"), Reporter())
    assert run.manifest.fingerprint == plan.fingerprint
    scores = library.score(run.predictions("test"))
    assert scores.accuracy == run.metrics.test.accuracy
    html = (probe / "report" / "report.html").read_text()
    assert f"{100 * scores.accuracy:.1f}" in html
    assert 'class="badge bad"' not in html  # not "running", which it was while it wrote the page


def test_the_same_recipe_twice_gives_identical_predictions(
    probe: Path, cache: Path, tmp_path: Path
) -> None:
    again = library.run(load_recipe(probe / "recipe.toml"), out=tmp_path / "again")
    for split in ("val", "test"):
        first, second = open_run(probe).predictions(split), again.predictions(split)
        assert np.array_equal(first.ids, second.ids)
        assert np.array_equal(first.logits, second.logits)
    assert any((cache / "boundary").iterdir())  # computed afresh, not read back


@pytest.mark.usefixtures("in_shared_cache")
def test_another_head_uses_the_cache(probe: Path, tmp_path: Path, headstart: Command) -> None:
    outcome = headstart(
        *("run", probe / "recipe.toml", "--out", tmp_path / "mlp", "--set", "head.hidden=[32]"),
        *("--set", "phases.0.optimizer=adamw", "--set", "phases.0.epochs=3"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("from the cache") == 3
    assert "images in" not in outcome.err
    assert open_run(tmp_path / "mlp").cost.extract_s == 0


def test_metrics_say_how_far_confidences_can_be_believed(probe: Path) -> None:
    run = open_run(probe)
    assert run.metrics.temperature == fit_temperature(run.predictions("val")).value
    for split in ("val", "test"):
        scores, predictions = to_json(run.metrics)[split], run.predictions(split)
        assert scores["calibration"] == to_json(calibration(predictions))
        served = to_json(calibration(predictions.tempered(run.metrics.temperature)))
        assert scores["calibrated"] == served
        for name in ("brier", "loss"):  # the printed scores are those of the served model
            assert scores[name] == served[name]
        assert sum(part["n"] for part in served["bins"]) == scores["n"]
    val = to_json(run.metrics.val)
    assert val["calibrated"]["loss"] <= val["calibration"]["loss"]
    confidence = run.predictions("test").tempered(run.metrics.temperature).confidence
    by_id = dict(zip(run.predictions("test").ids, confidence, strict=True))
    shown = [by_id[image] for image in run.pictures["mistake_ids"]]
    assert run.pictures["mistake_confidence"] == pytest.approx(np.array(shown))


def test_metrics_say_what_few_labels_give(probe: Path) -> None:
    """450 training images: 45 of a class, so 1, 5 and 25 are drawn; the run's own head was fitted
    to those of validation too."""
    run = open_run(probe)
    curve = to_json(run.metrics.label_efficiency)
    assert (curve["split"], curve["n"]) == ("test", 100)
    one, five, many, whole = curve["points"]
    assert [point["per_class"] for point in curve["points"]] == [1, 5, 25, None]
    assert [point["images"] for point in curve["points"]] == [10, 50, 250, 500]
    assert curve["l2_from"].endswith("chosen by folds for all images")
    assert [point["draws"] for point in curve["points"]] == [5, 5, 5, 1]
    assert all(p["low"] <= p["accuracy"] <= p["high"] for p in curve["points"])
    assert 0.1 < one["accuracy"] < five["accuracy"] < many["accuracy"]
    assert whole["accuracy"] == run.metrics.test.accuracy
    assert not any(event["event"] == "label_efficiency" for event in log_of(run))


@pytest.mark.usefixtures("in_shared_cache")
def test_few_labels_after_a_head_phase_are_judged_on_validation(
    probe: Path, tmp_path: Path, headstart: Command
) -> None:
    """Test never meets the features of a phase that is not the last; no pass is added for it."""
    text = RECIPE.replace(
        'train = "head"', 'train = "head"\n[[phases]]\ntrain = "head"\nepochs = 1'
    )
    (tmp_path / "two.toml").write_text(text)
    outcome = headstart("run", tmp_path / "two.toml", "--out", tmp_path / "two")
    assert outcome.code == 0, outcome.err
    run = open_run(tmp_path / "two")
    curve = to_json(run.metrics.label_efficiency)
    assert (curve["split"], curve["n"]) == ("val", 50)
    solved = next(event for event in log_of(run) if event["event"] == "phase_done")
    assert curve["points"][-1]["accuracy"] == pytest.approx(solved["val_accuracy"])
    assert curve["points"][-1]["images"] == 450  # the head that phase 2 goes on from
    off = ("--set", "evaluation.label_efficiency=false", "--out", tmp_path / "off")
    assert headstart("run", tmp_path / "two.toml", *off).code == 0
    assert open_run(tmp_path / "off").metrics.label_efficiency is None


@pytest.mark.usefixtures("real_weights", "in_shared_cache")
def test_a_study_goes_past_failures_and_ends_in_a_report(
    tmp_path: Path, headstart: Command
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    command = ("compare", tmp_path / "study.toml", "--out", tmp_path / "study", "--json")
    outcome = headstart(*command)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    by_name = {run["name"]: run for run in result["runs"]}
    assert set(by_name) == {"tf_efficientnet_lite0", "tuned", "scratch"}
    assert result["best"] in {"tf_efficientnet_lite0", "tuned"}
    assert by_name["scratch"]["within_noise"] is False
    assert [failure["name"] for failure in result["failed"]] == ["fails"]
    assert "nowhere" in result["failed"][0]["error"]
    assert not (tmp_path / "study" / "fails").exists()
    html = (tmp_path / "study" / "report.html").read_text()
    assert all(name in html for name in ("tuned", "scratch", "fails"))
    events = [e["event"] for e in log_of(open_run(tmp_path / "study" / "tuned"))]
    assert events.count("phase_done") == 2
    again = headstart(*command)
    assert again.err.count("nothing to repeat") == 3
    assert json.loads(again.out)["best"] == result["best"]
    table = headstart("compare", *(run["run"] for run in result["runs"]), "--out", tmp_path / "c")
    assert table.code == 0
    assert result["best"] in table.out


@pytest.mark.usefixtures("in_shared_cache")
def test_check_says_what_would_run(probe: Path, headstart: Command) -> None:
    outcome = headstart("check", probe / "recipe.toml")
    assert outcome.code == 0, outcome.err
    assert "10 classes" in outcome.out
    assert 'optimizer = "lbfgs"' in outcome.out


@pytest.mark.usefixtures("in_shared_cache")
def test_check_shows_each_phase(probe: Path, tmp_path: Path, headstart: Command) -> None:
    text = RECIPE.replace('train = "head"', 'train = "head"\n[[phases]]\ntrain = "last_layers:10"')
    (tmp_path / "two.toml").write_text(text)
    outcome = headstart("check", tmp_path / "two.toml", "--json")
    assert outcome.code == 0, outcome.err
    head, tuned = json.loads(outcome.out)["phases"]
    assert (head["boundary"], head["trainable_backbone"], head["first"]) == ("head", 0, None)
    assert head["trainable_head"] == 1280 * 10 + 10
    assert (tuned["boundary"], tuned["last"], tuned["moving_norms"]) == (
        "blocks.5.3",
        "conv_head",
        0,
    )
    total = head["frozen"]
    assert tuned["frozen"] + tuned["trainable_backbone"] == total
    # 450 + 50 rows at the input of blocks.5.3, 192 channels of 3 x 3 in float16; 100 in float32.
    assert tuned["cache_bytes"] == (500 * 2 + 100 * 4) * 192 * 3 * 3
    refused = headstart("check", tmp_path / "two.toml", "--cache-limit", "0.001")
    assert refused.code == 2
    assert "a head that is solved needs its features cached" in refused.err
    trained = ("--set", "phases.0.epochs=1")
    table = headstart("check", tmp_path / "two.toml", "--cache-limit", "0.001", *trained)
    assert "blocks.5.3 to conv_head" in table.out
    assert "caches    nothing: " in table.out


@pytest.mark.usefixtures("in_shared_cache")
def test_a_phase_that_does_not_fit_the_cache_recomputes(
    probe: Path, tmp_path: Path, headstart: Command
) -> None:
    """The same recipe with room for its cache and without: the same result, and it says so."""
    text = RECIPE.replace("train_limit = 500", "train_limit = 100").replace(
        'train = "head"',
        'train = "last_stage"\nepochs = 1\nlr = 1e-3\nviews = 2',
    )
    text = text.replace("size = 96", "size = 64\naugment = { flip = true }")
    (tmp_path / "r.toml").write_text(text)
    accuracies = []
    for number, limit in enumerate(("1", "0.0001")):
        out = tmp_path / str(number)
        outcome = headstart(
            "run", tmp_path / "r.toml", "--out", out, "--cache-limit", limit, "--json"
        )
        assert outcome.code == 0, outcome.err
        assert ("every epoch computes the frozen stages again" in outcome.err) == (
            limit == "0.0001"
        )
        accuracies.append(json.loads(outcome.out)["test"]["loss"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)


def test_a_profile_says_where_the_time_went(
    probe: Path, cache: Path, tmp_path: Path, headstart: Command
) -> None:
    """A network from scratch, then a head on cached activations: every section that can occur."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    outcome = headstart("run", recipe, "--out", tmp_path / "run", "--profile")
    assert outcome.code == 0, outcome.err
    run = open_run(tmp_path / "run")
    seconds = {part.name: part.seconds for part in run.profile.sections}
    met = {"set-up", "decode", "transform", "suffix forward", "backward", "optimiser"}
    met |= {"evaluation", "checkpoints", "compile", "prefix", "cache write", "cache read", "report"}
    assert met <= seconds.keys()
    assert run.profile.total_s == pytest.approx(sum(seconds.values()))
    assert run.profile.total_s >= run.cost.wall_s
    assert "where the time went" in outcome.out
    assert "backward" in outcome.out
    assert "Where the time went" in (run.path / "report" / "report.html").read_text()
    refused = headstart("run", probe / "recipe.toml", "--out", probe, "--profile")
    assert refused.code == 2
    assert "finished without a profile: choose another --out" in refused.err


def test_data_and_recipes_verbs(cache: Path, tmp_path: Path, headstart: Command) -> None:
    listed = json.loads(headstart("data", "--json").out)
    assert {row["name"] for row in listed} == {"cifar10-mini", "cifar10", "cifar100"}
    described = json.loads(headstart("data", "describe", "cifar10-mini", "--json").out)
    assert [sum(described["counts"][s]) for s in ("train", "val", "test")] == [1800, 200, 500]
    out = tmp_path / "samples.png"
    assert headstart("data", "samples", "cifar10-mini", "--out", out).out.strip() == str(out)
    with Image.open(out) as drawn:
        assert drawn.size[0] > 400
    assert "0 entries" in headstart("data", "cache").out
    assert "demo" in headstart("recipes").out
    assert headstart("recipes", "show", "demo").out.startswith("# ")
    copied = tmp_path / "mine.toml"
    assert headstart("recipes", "copy", "cifar10-probe", copied).code == 0
    assert load_recipe(copied).name == "cifar10-probe"
    assert "exists already" in headstart("recipes", "copy", "cifar10-probe", copied).err
