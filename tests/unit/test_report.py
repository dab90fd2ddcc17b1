"""The report page: complete, self-contained, escaped, and the same bytes for the same runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from headstart.evaluation.metrics import score
from headstart.evaluation.notable import confident_mistakes
from headstart.evaluation.predictions import Predictions
from headstart.recipe import Recipe
from headstart.report import formats, plots, write_report
from headstart.rundir import Run, create_run, write_arrays, write_json

NASTY = "<script>alert('x')</script> & \"quotes\""


@dataclass
class Page(HTMLParser):
    """What a reader's browser would see of a page."""

    ids: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    images: list[dict[str, str | None]] = field(default_factory=list)
    text: str = ""
    scripts: int = 0
    labels: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.references += [value or "" for key, value in attrs if key in ("src", "href")]
        self.images += [given] if tag == "img" else []
        self.scripts += tag == "script"
        self.labels += [given.get("aria-label")] if given.get("role") == "img" else []

    def handle_data(self, data: str) -> None:
        self.text += data


def fabricate(
    path: Path,
    *,
    name: str,
    skill: float = 2.0,
    classes: int = 10,
    n: int = 200,
    class_names: list[str] | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    cost: float = 1.0,
    solved: bool = True,
    tuned: bool = True,
    marks: tuple[str, ...] = (),
    backbone: str | None = None,
) -> Run:
    """A finished run with everything a real one leaves, its logits drawn around the truth."""
    rng = np.random.default_rng(sum(name.encode()))
    wide, shown = (
        images is not None,
        np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), "u1"),
    )
    names = class_names or [f"class {k}" for k in range(classes)]
    labels = np.arange(n) % classes if labels is None else labels[:n]
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) if images is None else images[:n]
    phases = [{"train": "head"}, {"train": "last_stage", "epochs": 8, "lr": 1e-4}][: 1 + tuned]
    recipe = Recipe.model_validate(
        {"name": name, "data": {"source": "cifar10-mini"}, "phases": phases,
         "backbone": {"name": backbone or name.replace("<", "")}}
    )  # fmt: skip
    run = create_run(path, recipe)
    run.update_manifest(
        status="finished", error=None, created="2025-11-20T10:00:00+00:00", commit="0" * 40,
        versions={"headstart": "0.1.0", "torch": "2.9.1", "timm": "1.0.22"},
        machine={"device": "cpu", "cpu": "AMD EPYC", "cores": 2},
        data={"source": "cifar10-mini", "fingerprint": "f" * 16, "class_names": names,
              "counts": {"train": 1800, "val": 200, "test": n},
              "quarantined": [{"path": "bird/7.jpg", "reason": "cut short"}]},
        weights={"provider": "registry", "name": name, "tag": "in1k", "sha256": "ab" * 32,
                 "licence": "apache-2.0", "source": "a package index"},
        preprocess={"size": 128, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
                    "interpolation": "bicubic", "side": 144},
        marks=list(marks), notes=[],
    )  # fmt: skip
    _log(run, rng, skill, solved=solved, tuned=tuned)
    noise = rng.normal(size=(n, classes)).astype(np.float32) * 1.4
    noise[np.arange(n), labels] += skill
    noise[np.arange(n), (labels + labels % 3) % classes] += 0.6
    ids = np.array([f"test-{k:05d}" for k in range(n)])
    test = Predictions(ids, labels.astype(np.int64), noise)
    write_arrays(path / "predictions" / "test.npz", vars_of(test))
    write_json(path / "metrics.json", {"val": score(test).to_dict(), "test": score(test).to_dict()})
    wrong = confident_mistakes(test, 16)
    write_arrays(
        path / "pictures.npz",
        {
            "sample_images": images[: 3 * classes],
            "sample_labels": labels[: 3 * classes],
            "prediction_images": images[:24] if wide else shown,  # the same for every run
            "prediction_ids": ids[:24],
            "prediction_labels": labels[:24],
            "prediction_predicted": test.predicted[:24],
            "prediction_confidence": test.probabilities[:24].max(axis=1).astype("f4"),
            "mistake_images": images[wrong],
            "mistake_ids": ids[wrong],
            "mistake_labels": labels[wrong],
            "mistake_predicted": test.predicted[wrong],
            "mistake_confidence": test.probabilities[wrong, test.predicted[wrong]].astype("f4"),
        },
    )
    write_json(
        path / "cost.json",
        {"wall_s": 80 * cost, "extract_s": 40 * cost, "train_s": 21.5 * cost,
         "images_per_s": 210 / cost, "peak_rss_mb": 700 + 300 * cost,
         "parameters": int(3.2e6 * cost), "trainable_parameters": 12810, "macs": int(2.1e8 * cost),
         "size_mb": 13.2 * cost, "latency_ms": {"median": 9.1 * cost, "p95": 11.3 * cost, "n": 50},
         "device": "cpu", "threads": 2},
    )  # fmt: skip
    return run


def vars_of(predictions: Predictions) -> dict[str, np.ndarray]:
    return {key: getattr(predictions, key) for key in ("ids", "labels", "logits")}


def _log(run: Run, rng: np.random.Generator, skill: float, *, solved: bool, tuned: bool) -> None:
    start = {"event": "phase", "phase": 0, "train": "head", "boundary": "pool", "cached": True,
             "trainable_parameters": 12810}  # fmt: skip
    run.append_log({**start, "optimizer": "lbfgs" if solved else "adamw", "epochs": None})
    best = 1.9 / skill
    if solved:
        for k, l2 in enumerate([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]):
            loss = best + 0.05 * (k - 3) ** 2
            run.append_log(
                {"event": "solve", "phase": 0, "l2": l2, "iterations": 40,
                 "train_loss": 0.02 + 0.12 * k, "train_accuracy": 1 - 0.03 * k,
                 "val_loss": loss, "val_accuracy": 0.8 - 0.1 * (loss - best)}
            )  # fmt: skip
    else:
        _epochs(run, rng, 0, 10, best + 0.4)
    run.append_log(
        {"event": "phase_done", "phase": 0, "seconds": 41.2, "val_loss": best,
         "val_accuracy": 0.8, "best_epoch": None if solved else 9, "l2": 1e-2 if solved else None}
    )  # fmt: skip
    if tuned:
        run.append_log(
            {**start, "phase": 1, "train": "last_stage", "optimizer": "adamw",
             "boundary": "blocks.5", "epochs": 8, "trainable_parameters": 730000}
        )  # fmt: skip
        _epochs(run, rng, 1, 8, best)
        run.append_log(
            {"event": "phase_done", "phase": 1, "seconds": 61.0, "val_loss": best - 0.1,
             "val_accuracy": 0.84, "best_epoch": 7, "l2": None}
        )  # fmt: skip


def _epochs(run: Run, rng: np.random.Generator, phase: int, epochs: int, start: float) -> None:
    for epoch in range(epochs):
        loss = start * (0.55 + 0.45 * np.exp(-0.35 * epoch)) + 0.02 * float(rng.normal())
        run.append_log(
            {"event": "epoch", "phase": phase, "epoch": epoch, "train_loss": loss * 0.8,
             "train_accuracy": 0.97 - 0.2 * loss, "val_loss": loss,
             "val_accuracy": 0.93 - 0.2 * loss, "lr": 1e-4, "seconds": 4.0}
        )  # fmt: skip


def fail(path: Path, name: str, error: str) -> Run:
    """A run that got no further than its recipe."""
    recipe = Recipe.model_validate(
        {"name": name, "data": {"source": "cifar10-mini"}, "phases": [{"train": "head"}],
         "backbone": {"name": "vgg16"}}
    )  # fmt: skip
    run = create_run(path, recipe)
    run.update_manifest(status="failed", error=error)
    return run


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    names = [NASTY, *(f"class {k}" for k in range(1, 10))]
    return [
        fabricate(folder / "a", name="mobilenetv2_100", class_names=names, skill=2.0),
        fabricate(folder / "b", name="tf_efficientnet_lite0", class_names=names, skill=3.2,
                  cost=1.4, solved=False, marks=("unit normalisation",)),
        fail(folder / "c", "vgg16-hub", f"the hub cannot be reached {NASTY}"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(write_report(runs, tmp_path_factory.mktemp("out") / "study.html"))


def test_the_page_needs_nothing_else(page: Page) -> None:
    assert len(page.references) > 40
    assert all(ref.startswith(("#", "data:image/")) for ref in page.references)


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids)) > 20
    links = {ref[1:] for ref in page.references if ref.startswith("#")}
    assert links <= set(page.ids)


def test_every_picture_is_described(page: Page) -> None:
    assert len(page.images) == 30 + 12 + 12
    assert all(image.get("alt") for image in page.images)
    drawn = 3 + 4 + 2  # cost panels; path and curves; curves alone
    assert len(page.labels) == drawn + 2 * 24
    assert all(page.labels)


def test_right_and_wrong_answers_are_drawn(runs: list[Run], tmp_path: Path) -> None:
    page = read(write_report(runs[:1], tmp_path))
    shown = runs[0].pictures
    right = shown["prediction_predicted"] == shown["prediction_labels"]
    assert 0 < right.sum() < 24
    assert page.text.count("✓ ") == right.sum()
    assert page.text.count("✗ ") == 24 - right.sum() + 1  # and once in the caption
    assert f"{right.sum()} of 24 right" in page.text
    assert sum(" recognised" in str(label) for label in page.labels) == right.sum()


def test_pictures_that_runs_share_are_in_the_page_once(page: Page) -> None:
    stored = [name for name in page.ids if name.startswith("picture-")]
    assert len(stored) == 24
    assert all(page.references.count(f"#{name}") == 2 for name in stored)


def test_curves_mark_the_epoch_that_was_kept(runs: list[Run], tmp_path: Path) -> None:
    solved, fitted = (write_report([run], tmp_path / run.path.name) for run in runs[:2])
    assert solved.read_text(encoding="utf-8").count('class="kept"') == 2  # loss and accuracy
    text = fitted.read_text(encoding="utf-8")
    kept = re.findall(r'class="kept" (cx="[\d.]+" cy="[\d.]+")', text)
    tips = [
        re.findall(rf"{at}[^>]*><title>val, (.*?): [\d. %\u202f]+</title>", text) for at in kept
    ]
    assert tips == 2 * [["head, epoch 10"], ["last stage, epoch 8"]]  # of loss and of accuracy
    assert text.count('class="boundary"') == 2
    assert "2 last stage</text>" in text


def test_every_run_is_in_the_page(page: Page, runs: list[Run]) -> None:
    assert {"run-1", "run-2", "run-3"} <= set(page.ids)
    assert all(page.text.count(run.name) >= 2 for run in runs)
    assert "unit normalisation" in page.text
    assert "the hub cannot be reached" in page.text


def test_the_answer_names_the_best_run(page: Page) -> None:
    start = " ".join(page.text.split("Headstart report")[1].split())
    assert "tf_efficientnet_lite0 wins with" in start


def test_user_text_is_escaped(page: Page, runs: list[Run], tmp_path: Path) -> None:
    text = write_report(runs, tmp_path).read_text(encoding="utf-8")
    assert page.scripts == 1
    assert "<script>alert" not in text
    assert NASTY in page.text


def test_the_same_runs_give_the_same_small_file(runs: list[Run], tmp_path: Path) -> None:
    first, second = write_report(runs, tmp_path / "1"), write_report(runs, tmp_path / "2")
    assert first.name == "report.html"
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 500_000


def test_ten_runs_on_a_hundred_classes_stay_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 96, 96, 3), dtype=np.uint8)  # noise: the worst to compress
    run = fabricate(tmp_path / "run", name="wide", classes=100, n=400, images=images)
    path = write_report([run] * 10, tmp_path)
    assert "Most often confused" in read(path).text
    assert path.stat().st_size < 5_000_000


def test_one_run_and_none_that_finished(runs: list[Run], tmp_path: Path) -> None:
    one = read(write_report(runs[:1], tmp_path / "one.html"))
    assert "mobilenetv2_100 reaches" in " ".join(one.text.split())
    assert "Accuracy against cost" not in one.text
    none = read(write_report(runs[2:], tmp_path / "none.html"))
    assert "No run has finished yet" in none.text


def test_files_may_be_missing(runs: list[Run], tmp_path: Path) -> None:
    run = fabricate(tmp_path / "torn", name="torn")
    for name in ("pictures.npz", "cost.json", "log.jsonl", "metrics.json", "recipe.toml"):
        (run.path / name).unlink()
        path = write_report([Run(run.path), runs[0]], tmp_path)
        assert "torn" in read(path).text


def test_a_run_that_diverged_still_has_a_page(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "diverged", name="diverged")
    lost = {"event": "epoch", "phase": 1, "epoch": 8, "lr": 1.0, "seconds": 1.0,
            "train_loss": float("nan"), "train_accuracy": None, "val_loss": float("inf"),
            "val_accuracy": 0.1}  # fmt: skip
    run.append_log(lost)
    write_json(run.path / "metrics.json", {"test": {**run.metrics["test"], "loss": float("nan")}})
    text = write_report([Run(run.path)], tmp_path).read_text(encoding="utf-8")
    assert "by epoch" in text
    assert '="nan' not in text
    assert "inf," not in text


def test_a_comparison_brings_its_p_values_and_protocol(runs: list[Run], tmp_path: Path) -> None:
    rows = [
        {"run": run.name, "path": run.path.name, "status": "finished", "error": None,
         "backbone": run.name, "weights": "hub", **run.metrics["test"],
         "val_accuracy": 0.8, "p_value": p, "within_noise": p > 0.05, "marks": [], "cost": run.cost}
        for run, p in ((runs[1], 1.0), (runs[0], 0.21))
    ]  # fmt: skip
    comparison = {"name": "lite", "best": runs[1].name, "rows": rows, "protocol": {"budget": "one"}}
    text = " ".join(read(write_report(runs, tmp_path, comparison)).text.split())
    assert "lite: results" in text
    assert "p = 0.21 against the best" in text
    assert "mobilenetv2_100 is within noise of it" in text
    assert "budget: one" in text


def test_labels_of_points_do_not_overlap() -> None:
    points = [
        plots.Point(f"tf_efficientnet_lite{k}", 10 + k / 5, 80 + k / 4, 77, 86, "other", "")
        for k in range(8)
    ]
    x, y = plots.Scale(5, 30, 46, 368, log=True), plots.Scale(75, 90, 242, 22)
    boxes: list[plots.Box] = []
    for mark in plots._labels(points, x, y):
        if mark.startswith("<text"):
            left, bottom = (float(mark.split(f' {key}="')[1].split('"')[0]) for key in "xy")
            width = 5.9 * len("tf_efficientnet_lite0")
            boxes.append((left, bottom - 11, left + width, bottom + 3))
    assert len(boxes) >= 6
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(plots._meet(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (77.1, 86.4, [78, 80, 82, 84, 86])],
)
def test_linear_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert plots.linear_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(("low", "high"), [(8.0, 14.0), (1e-6, 10.0), (3.0, 300.0), (9.0, 9.5)])
def test_log_ticks_stay_inside(low: float, high: float) -> None:
    ticks = plots.log_ticks(low, high)
    assert all(low <= tick <= high for tick in ticks)
    assert 1 <= len(ticks) <= 8


def test_numbers_read_well() -> None:
    shown = [formats.metric(4_653_210), formats.metric(3.87e8), formats.duration(3725),
             formats.duration(61.5), formats.megabytes(18.49), formats.percent(None),
             formats.general(1e-05)]  # fmt: skip
    assert [text.replace("\u202f", " ") for text in shown] == [
        "4.65 M", "387 M", "1 h 02 min", "1 min 02 s", "18.5 MB", "–", "1e−5",
    ]  # fmt: skip
