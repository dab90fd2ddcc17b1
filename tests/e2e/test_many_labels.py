"""Several labels an image, from the table to the bundle: run, predict, export, compare."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import headstart as library
from headstart.deployment.export import export
from headstart.errors import HeadstartError
from headstart.evaluation.many_labels import ManyPredictions
from headstart.files import read_arrays, write_arrays
from headstart.report.markdown import render_markdown
from headstart.rundir.run import Run, open_run
from headstart.specs import BackboneSpec
from headstart_predict.answers import ManyAnswer
from headstart_predict.bundle import open_bundle
from headstart_predict.predictor import load, verify
from tests.conftest import Outcome
from tests.e2e.test_damaged_files import records, texts
from tests.many import CLASSES, write_many
from tests.recipes import log_of, recipe_text, write_recipe

QUIET = library.Reporter()
TUNED = ({"train": "head"}, {"train": "last_stage", "epochs": 2, "lr": 1e-3})
Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def text(table: Path, small_backbone: BackboneSpec) -> Callable[..., str]:
    def make(
        name: str, *phases: dict[str, object], more: str = "", **tables: dict[str, object]
    ) -> str:
        data = {"source": f"manifest:{table}", "labels": "many", **tables.pop("data", {})}
        return recipe_text(
            name, *phases, backbone=small_backbone, train=None, test=None, data=data, more=more,
            **tables,
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def runs(
    text: Callable[..., str], shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Run]:
    """A solved head, and the same fine-tuned; read only."""
    folder = tmp_path_factory.mktemp("many")
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        for name, phases in (("probe", TUNED[:1]), ("tuned", TUNED)):
            recipe = library.load_recipe(write_recipe(folder, text(name, *phases)))
            made.append(library.run(recipe, out=folder / name, reporter=QUIET))
    return made


@pytest.fixture(scope="module")
def bundle(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    assert export(runs[0], out=out, reporter=QUIET).parity.images == 60
    return out


def test_a_run_leaves_scores_of_sets_of_labels(runs: list[Run]) -> None:
    for run in runs:
        made = run.predictions("test")
        assert isinstance(made, ManyPredictions)
        assert made.labels.shape == (60, CLASSES) and not made.labels.all(axis=1).any()
        metrics = run.many_metrics
        served = made.tempered(run.temperature)
        assert metrics.test.mean_ap == pytest.approx(made.headline)
        assert metrics.test.mean_ap > made.labels.mean() + 0.2  # far above a guess
        assert metrics.test.loss == pytest.approx(served.losses.mean())
        assert metrics.test.all_right == made.correct.mean()
        assert metrics.thresholds == tuple(row.threshold for row in metrics.val.per_label)
        with pytest.raises(HeadstartError, match="may have several labels"):
            _ = run.metrics
    assert "mAP" in repr(runs[0])
    done = [line for line in log_of(runs[1]) if line["event"] == "phase_done"]
    assert len(done) == 2 and all(0 < line["val_accuracy"] <= 1 for line in done)
    assert len(runs[0].predictions("val")) == 180  # by folds


def test_training_lowers_the_sum_of_binary_cross_entropies(runs: list[Run]) -> None:
    epochs = runs[1].history.epochs
    assert len(epochs) == 2
    assert epochs[1].train_loss < epochs[0].train_loss < CLASSES * np.log(2)


def test_predict_names_all_labels(runs: list[Run], table: Path, headstart: Command) -> None:
    run, photos = runs[0], [table.parent / f"{k:04}.png" for k in (3, 7, 11)]
    saved = run.predictions("test")
    told = headstart("predict", run.path, *photos, "--json")
    assert told.code == 0, told.err
    for answer in json.loads(told.out):
        row = saved.ids.tolist().index(Path(answer["image"]).name)
        names = {n for n, has in zip(run.class_names, saved.predicted[row], strict=True) if has}
        assert set(answer["labels"]) == names
        own = 1 / (1 + np.exp(-saved.logits[row] / run.temperature))
        assert [answer["probabilities"][n] for n in run.class_names] == pytest.approx(own, abs=1e-3)
    rows = list(csv.DictReader(io.StringIO(headstart("predict", run.path, *photos, "--csv").out)))
    assert list(rows[0]) == ["image", "labels", *run.class_names]
    assert [set(filter(None, row["labels"].split("|"))) for row in rows] == [
        set(answer["labels"]) for answer in json.loads(told.out)
    ]
    assert "labels" in headstart("predict", run.path, *photos).out


def test_the_bundle_answers_as_the_run(runs: list[Run], bundle: Path, table: Path) -> None:
    opened = open_bundle(bundle)
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["format"] == 2 and "threshold" not in record
    assert opened.thresholds == runs[0].many_metrics.thresholds
    assert opened.scores and opened.scores.kind == "mAP"
    assert verify(bundle).changed == ()
    answers = load(bundle).predict([table.parent])
    saved = runs[0].predictions("test")
    expected = {
        name: tuple(np.array(runs[0].class_names)[held])
        for name, held in zip(saved.ids.tolist(), saved.predicted, strict=True)
    }
    seen = 0
    for answer in answers:
        assert isinstance(answer, ManyAnswer)
        if (name := Path(answer.image).name) in expected:
            assert sorted(answer.labels) == sorted(expected[name])
            seen += 1
    assert seen == 60
    outputs = load(bundle)._start("one").run(np.zeros((1, 32, 32, 3), np.uint8), "probabilities")
    logits = load(bundle).logits(np.zeros((1, 32, 32, 3), np.uint8))
    assert outputs == pytest.approx(1 / (1 + np.exp(-logits / opened.temperature)), abs=1e-5)
    card = (bundle / "README.md").read_text()
    assert "find any of 4 labels" in card and "mAP" in card and "accuracy" not in card.lower()


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    record = json.loads((copy / "bundle.json").read_text())
    for thresholds in ([0.5], [0.5, 0.5, 0.5, 2], "x"):
        (copy / "bundle.json").write_text(json.dumps({**record, "thresholds": thresholds}))
        with pytest.raises(HeadstartError, match="thresholds"):
            open_bundle(copy)


def test_a_damaged_run_is_refused(runs: list[Run], tmp_path: Path) -> None:
    copy = shutil.copytree(runs[0].path, tmp_path / "copy")
    path = copy / "predictions" / "test.npz"
    arrays = dict(np.load(path))
    for name, wrong in (
        ("labels", arrays["labels"][:, :2]),
        ("labels", arrays["labels"].astype(np.int64)),
        ("thresholds", arrays["thresholds"][:2]),
        ("thresholds", np.full(CLASSES, np.nan)),
    ):
        np.savez(path, **{**arrays, name: wrong})
        with pytest.raises(HeadstartError, match="damaged"):
            open_run(copy).predictions("test")
    np.savez(path, **{k: v for k, v in arrays.items() if k != "thresholds"})
    with pytest.raises(HeadstartError, match="damaged"):
        open_run(copy).predictions("test")


def test_the_report_has_a_table_of_labels(runs: list[Run]) -> None:
    page = (runs[1].path / "report" / "report.html").read_text()
    assert "Test mAP" in page and "By label on test" in page and "Threshold" in page
    assert "Test accuracy" not in page and "Confusion on test" not in page


def test_runs_are_compared_by_map(runs: list[Run], tmp_path: Path) -> None:
    compared = library.compare(runs, out=tmp_path / "compared", measure=False, reporter=QUIET)
    assert compared.select_by == "mean_ap" and compared.classes is None
    by_name = {c.name: c for c in compared.configurations}
    for run in runs:
        scores = run.many_metrics.test
        assert by_name[run.name].accuracy == pytest.approx(scores.mean_ap)
        assert by_name[run.name].interval == pytest.approx(scores.interval)
    (pair,) = compared.pairs
    change = [run.many_metrics.test.mean_ap for run in runs]
    assert abs(pair.change) == pytest.approx(abs(change[0] - change[1]))
    assert compared.report is not None
    page = compared.report.read_text()
    assert "Test mAP" in page and "Val mAP" in page
    assert "test mAP" in render_markdown(runs)


def test_the_command_shows_map(runs: list[Run], headstart: Command) -> None:
    told = headstart("compare", *(run.path for run in runs))
    assert told.code == 0, told.err
    assert "test mAP" in told.out and "val mAP" in told.out
    made = json.loads(headstart("run", runs[0].path, "--out", runs[0].path, "--json").out)
    assert made["test"]["mean_ap"] == runs[0].many_metrics.test.mean_ap
    assert "test mAP" in headstart("run", runs[0].path, "--out", runs[0].path).out


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("balance=auto", "balance"),
        ("select_by=accuracy", "select_by"),
        ("data.augment.mixup=0.5", "data.augment.mixup"),
        ("data.augment.cutmix=0.5", "data.augment.cutmix"),
        ("evaluation.folds=5", "evaluation.folds"),
        ("evaluation.corruptions=[1]", "evaluation.corruptions"),
        ("evaluation.label_efficiency=true", "evaluation.label_efficiency"),
        ("evaluation.positive=cat", "evaluation.positive"),
        ("phases.1.label_smoothing=0.1", "phases.label_smoothing"),
    ],
)
def test_settings_for_one_label_are_refused_at_check(
    text: Callable[..., str],
    tmp_path: Path,
    cache: Path,
    headstart: Command,
    setting: str,
    named: str,
) -> None:
    recipe = write_recipe(tmp_path, text("refused", *TUNED))
    told = headstart("check", recipe, "--set", setting)
    assert told.code == 2 and f"{named} is for images with one label" in told.err
    assert "Traceback" not in told.err


def test_check_counts_photos(
    text: Callable[..., str], tmp_path: Path, cache: Path, headstart: Command
) -> None:
    told = headstart("check", write_recipe(tmp_path, text("checked", *TUNED[:1])))
    assert told.code == 0, told.err
    assert 'select_by = "mean_ap"' in told.out


def test_verbs_for_one_label_refuse_such_runs(
    runs: list[Run], table: Path, tmp_path: Path, headstart: Command
) -> None:
    for arguments in (
        ("export", runs[0].path, "--precision", "int8"),
        ("export", runs[0].path, "--precision", "bfloat16"),
        ("explain", *(run.path for run in runs)),
    ):
        told = headstart(*arguments)
        assert told.code == 2 and "Traceback" not in told.err
        assert "one label" in told.err


def test_damaged_files_of_such_a_run_are_one_line(
    runs: list[Run], tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    out = tmp_path / "report.md"
    damaged = shutil.copytree(runs[0].path, tmp_path / "run")
    whole = (damaged / "metrics.json").read_bytes()
    test = json.loads(whole)
    deeper = [json.dumps({**test, "test": json.loads(each)}).encode()
              for each in records(json.dumps(test["test"]).encode())]  # fmt: skip
    refused = 0
    for content in (*texts(whole), *records(whole), *deeper[::3]):
        (damaged / "metrics.json").write_bytes(content)
        outcome = headstart("report", damaged, "--format", "md", "--out", out)
        assert outcome.code in (0, 2)
        if outcome.code:
            refused += 1
            assert "metrics.json" in outcome.err and outcome.err.count("\n") <= 2, outcome.err
    assert refused > 50
    (damaged / "metrics.json").write_bytes(whole)
    predictions = damaged / "predictions" / "test.npz"
    good = read_arrays(predictions)
    for name, value in (
        ("labels", good["labels"][:, 0]),
        ("labels", good["labels"].astype(np.float32)),
        ("logits", good["logits"][:, :-1]),
        ("logits", np.full_like(good["logits"], np.nan)),
        ("thresholds", np.zeros(1)),
    ):
        write_arrays(predictions, {**good, name: value})
        outcome = headstart("report", damaged, "--format", "md", "--out", out)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), (name, outcome.err)
        assert "test.npz" in outcome.err
