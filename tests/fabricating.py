"""Run directories without training: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.assessment.assess import split_scores
from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import Comparison
from headstart.data.sources.mini import open_mini
from headstart.evaluation.calibration import Temperature
from headstart.evaluation.notable import confident_mistakes
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.two_classes import DEFAULT_POSITIVE
from headstart.files import write_arrays, write_json
from headstart.recipe import Recipe
from headstart.rundir.history import Epoch, PhaseBegun, PhaseDone, Solve
from headstart.rundir.records import (
    Cost,
    Counts,
    Data,
    LatencyMs,
    LeftOut,
    Machine,
    Measured,
    Metrics,
    PhaseCost,
    Preprocess,
    Provenance,
    Throughput,
    WeightsIdentity,
)
from headstart.rundir.run import Run, create_run
from tests.enriching import enrich

FINGERPRINT = "0" * 8  # of a run whose recipe nobody carries out


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
    warnings: tuple[str, ...] = (),
    backbone: str | None = None,
    seed: int = 0,
    given: tuple[Predictions, Predictions] | None = None,
    settings: dict[str, Any] | None = None,
) -> Run:
    """A finished run with everything a real one leaves.

    Its predictions are `given`, of val and test, or else logits drawn around the truth. `settings`
    are further ones of its recipe.
    """
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
        {"name": name, "seed": seed, "data": {"source": "cifar10-mini"}, "phases": phases,
         "backbone": {"name": backbone or name.replace("<", "")}, **(settings or {})}
    )  # fmt: skip
    run = create_run(path, recipe, FINGERPRINT)
    made = provenance(
        Data("cifar10-mini", "f" * 16, "e" * 16, tuple(names), Counts(1800, 200, n), 144,
             (LeftOut("bird/7.jpg", "cut short"),)),
        WeightsIdentity("registry", name, "in1k", "ab" * 32, "apache-2.0", "a package index"),
        marks=marks,
    )  # fmt: skip
    run.update_manifest(
        status="finished", created="2025-11-20T10:00:00+00:00", provenance=made,
        warnings=("left out bird/7.jpg: cut short", *warnings),
    )  # fmt: skip
    _log(run, rng, skill, solved=solved, tuned=tuned)
    noise = rng.normal(size=(n, classes)).astype(np.float32) * 1.4
    noise[np.arange(n), labels] += skill
    noise[np.arange(n), (labels + labels % 3) % classes] += 0.6
    ids = np.array([f"test-{k:05d}" for k in range(n)])
    drawn = Predictions(ids, labels.astype(np.int64), noise)
    val, test = given or (drawn, drawn)
    write_arrays(path / "predictions" / "val.npz", vars_of(val))
    write_arrays(path / "predictions" / "test.npz", vars_of(test))
    write_json(path / "metrics.json", metrics(val, test))
    wrong = confident_mistakes(test, 16)
    write_arrays(
        path / "pictures.npz",
        {
            "sample_images": images[: 3 * classes],
            "sample_ids": np.array([f"train-{k:05d}" for k in range(len(images[: 3 * classes]))]),
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
    write_json(path / "cost.json", cost_of(cost))
    return run


def vars_of(predictions: Predictions) -> dict[str, np.ndarray]:
    return {key: getattr(predictions, key) for key in ("ids", "labels", "logits")}


def _log(run: Run, rng: np.random.Generator, skill: float, *, solved: bool, tuned: bool) -> None:
    run.append_log(PhaseBegun(0, "head", "lbfgs" if solved else "adamw", "pool", True, None, 12810))
    best = 1.9 / skill
    if solved:
        for k, l2 in enumerate([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]):
            loss = best + 0.05 * (k - 3) ** 2
            right = 0.8 - 0.1 * (loss - best)
            run.append_log(Solve(0, 0.02 + 0.12 * k, 1 - 0.03 * k, loss, right, l2, 40))
    else:
        _epochs(run, rng, 0, 10, best + 0.4)
    chosen = 1e-2 if solved else None
    run.append_log(PhaseDone(0, True, best, 0.8, None if solved else 9, chosen, chosen, 41.2))
    if tuned:
        run.append_log(PhaseBegun(1, "last_stage", "adamw", "blocks.5", True, 8, 730000))
        _epochs(run, rng, 1, 8, best)
        run.append_log(PhaseDone(1, True, best - 0.1, 0.84, 7, None, None, 61.0))


def _epochs(run: Run, rng: np.random.Generator, phase: int, epochs: int, start: float) -> None:
    for epoch in range(epochs):
        loss = start * (0.55 + 0.45 * float(np.exp(-0.35 * epoch))) + 0.02 * float(rng.normal())
        right = 0.97 - 0.2 * loss, 0.93 - 0.2 * loss
        run.append_log(Epoch(phase, loss * 0.8, right[0], loss, right[1], epoch, 1e-4, 4.0))


MADE = Preprocess(128, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")


def provenance(
    data: Data,
    weights: WeightsIdentity,
    *,
    preprocess: Preprocess = MADE,
    expects: Preprocess = MADE,
    marks: tuple[str, ...] = (),
) -> Provenance:
    return Provenance(
        versions={"headstart": "0.1.0", "torch": "2.9.1", "timm": "1.0.22"},
        commit="0" * 40,
        machine=Machine("cpu", "float32", "AMD EPYC", 2, None, "Linux"),
        data=data,
        weights=weights,
        preprocess=preprocess,
        expects=expects,
        marks=marks,
    )


def remake(run: Run, **changes: Any) -> None:
    """Change what the run's manifest says it is made of."""
    run.update_manifest(provenance=replace(run.provenance, **changes))


def metrics(val: Predictions, test: Predictions, **others: Any) -> Metrics:
    """Scores as they are without a temperature; `others` are further fields."""
    plain = Metrics(
        val=split_scores(val, Temperature(), DEFAULT_POSITIVE),
        test=split_scores(test, Temperature(), DEFAULT_POSITIVE),
        temperature=1.0,
        temperature_note=None,
        corruptions=None,
        label_efficiency=None,
        further={},
    )
    return replace(plain, **others)


def cost_of(share: float = 1.0, **others: Any) -> Cost:
    """A cost that has been measured; `others` are fields with other values."""
    ms = 9.1 * share
    plain = Cost(
        wall_s=80 * share, extract_s=40 * share, train_s=21.5 * share, spared_s=0.0,
        alone_s=61.5 * share,
        phases=(PhaseCost(1, "head", 40 * share, 0.2),
                PhaseCost(2, "last_stage", 0.0, 21.5 * share)),
        images_per_s=210 / share, peak_rss_mb=700 + 300 * share, parameters=int(3.2e6 * share),
        macs=int(2.1e8 * share), size_mb=13.2 * share, file_mb=13.3 * share,
        trainable_parameters=12810, device="cpu", threads=2,
        latency_ms=LatencyMs(ms, 8.8 * share, 9.6 * share, 11.3 * share, 50),
        throughput=Throughput(1.7e3 / ms, None, None, 32, 10),
        serving_rss_mb=0.6 * (700 + 300 * share), measured=measured(), cuda=None,
        not_measured=None,
    )  # fmt: skip
    return replace(plain, **others)


def measured(session: str | None = "one", busy: str | None = None) -> Measured:
    return Measured("its own, after the runs", 5, "float32", 2, "AMD EPYC",
                    "2025-11-20T10:05:00+00:00", session, 6, 1.0, busy)  # fmt: skip


def recost(run: Run, **changes: Any) -> Run:
    """The run with other values of its cost, opened anew."""
    write_json(run.path / "cost.json", replace(Run(run.path).cost, **changes))
    return Run(run.path)


def fail(path: Path, name: str, error: str) -> Run:
    """A run that got no further than its recipe."""
    recipe = Recipe.model_validate(
        {"name": name, "data": {"source": "cifar10-mini"}, "phases": [{"train": "head"}],
         "backbone": {"name": "vgg16"}}
    )  # fmt: skip
    run = create_run(path, recipe, FINGERPRINT)
    run.update_manifest(status="failed", error=error)
    return run


Look = Callable[[np.ndarray], np.ndarray]  # uint8 (n, 32, 32, 3) to features (n, width)


def _pixels(side: int) -> Look:
    def look(images: np.ndarray) -> np.ndarray:
        small = [
            np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BOX))
            for i in images
        ]
        return np.stack(small).reshape(len(images), -1) / 127.5 - 1

    return look


def _colours(images: np.ndarray) -> np.ndarray:
    """A histogram of coarse colours, square-rooted."""
    bins = (images // 64).astype(int)
    codes = (bins[..., 0] * 16 + bins[..., 1] * 4 + bins[..., 2]).reshape(len(images), -1)
    counts = np.stack([np.bincount(row, minlength=64) for row in codes])
    return np.sqrt(counts / 1024) * 4


LOOKS: dict[str, Look] = {"colours": _colours, "pixels-16": _pixels(16), "pixels-8": _pixels(8)}


@cache
def _mini() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    source = open_mini()
    train, test = source.train, source.test
    assert test is not None
    rows, own = np.arange(len(train)), np.arange(len(test))
    return (train.read(rows), train.labels, test.read(own), test.labels, np.array(test.ids),
            tuple(source.class_names))  # fmt: skip


def pixel_study(folder: Path) -> tuple[list[Run], Comparison]:
    """Linear models on raw pixels of cifar10-mini, three kinds with two seeds: real predictions.

    A stand-in for a study of networks that takes seconds: everything a report shows is computed
    from real images and answers. Returns the runs and their comparison.
    """
    images, y, test_images, labels, ids, names = _mini()
    runs = []
    for number, (name, look) in enumerate(LOOKS.items()):
        X, Z = look(images), look(test_images)
        for seed in (0, 1):
            order = np.random.default_rng(seed).permutation(len(X))
            train, val = order[:1400], order[-200:]
            weights, bias = _ridge(X[train], y[train])
            held = Predictions(val.astype(str), y[val], _logits(X[val], weights, bias))
            answers = Predictions(ids, labels, _logits(Z, weights, bias))
            run = fabricate(
                folder / f"{name}-{seed}", name=f"{name}-{seed}", images=test_images, labels=labels,
                class_names=list(names), n=len(ids), cost=0.4 + number, given=(held, answers),
                seed=seed, backbone=name,
            )  # fmt: skip

            def model(
                pixels: np.ndarray, look: Look = look, w: Any = weights, b: Any = bias
            ) -> Any:
                return _logits(look(pixels), w, b)

            enrich(run, model, test_images, (X, y), (Z, labels))
            runs.append(Run(run.path))
    return runs, build_comparison("pixels", runs, [], folder)


def _ridge(X: np.ndarray, y: np.ndarray, l2: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    mean = X.mean(axis=0)
    C, target = X - mean, np.eye(10)[y] - 0.1
    weights = np.linalg.solve(C.T @ C + l2 * np.eye(C.shape[1]), C.T @ target)
    return weights, -mean @ weights


def _logits(X: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    scores: np.ndarray = (8 * (X @ weights + bias)).astype(np.float32)
    return scores
