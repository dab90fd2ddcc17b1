"""Run directories without training: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.comparison.leaderboard import build_comparison
from headstart.data.mini import open_mini
from headstart.evaluation.metrics import score
from headstart.evaluation.notable import confident_mistakes
from headstart.evaluation.predictions import Predictions
from headstart.recipe import Recipe
from headstart.rundir import Run, create_run, write_arrays, write_json
from tests.enriching import enrich


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
    run = create_run(path, recipe)
    run.update_manifest(
        status="finished", error=None, created="2025-11-20T10:00:00+00:00", commit="0" * 40,
        versions={"headstart": "0.1.0", "torch": "2.9.1", "timm": "1.0.22"},
        machine={"device": "cpu", "cpu": "AMD EPYC", "cores": 2},
        data={"source": "cifar10-mini", "fingerprint": "f" * 16, "test_fingerprint": "e" * 16,
              "class_names": names,
              "counts": {"train": 1800, "val": 200, "test": n},
              "quarantined": [{"path": "bird/7.jpg", "reason": "cut short"}]},
        weights={"provider": "registry", "name": name, "tag": "in1k", "sha256": "ab" * 32,
                 "licence": "apache-2.0", "source": "a package index"},
        preprocess={"size": 128, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
                    "interpolation": "bicubic", "side": 144},
        marks=list(marks), warnings=["left out bird/7.jpg: cut short", *warnings],
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
    write_json(path / "metrics.json", {"val": score(val).to_dict(), "test": score(test).to_dict()})
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
    write_json(
        path / "cost.json",
        {"wall_s": 80 * cost, "extract_s": 40 * cost, "train_s": 21.5 * cost,
         "spared_s": 0.0, "alone_s": 61.5 * cost,
         "images_per_s": 210 / cost, "peak_rss_mb": 700 + 300 * cost,
         "parameters": int(3.2e6 * cost), "trainable_parameters": 12810, "macs": int(2.1e8 * cost),
         "size_mb": 13.2 * cost,
         "latency_ms": {"median": 9.1 * cost, "low": 8.8 * cost, "high": 9.6 * cost,
                        "p95": 11.3 * cost, "n": 50},
         "measured": {"session": "one", "busy": None, "precision": "float32"},
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


def pixel_study(folder: Path) -> tuple[list[Run], dict[str, Any]]:
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
    return runs, build_comparison("pixels", runs, [], folder).to_dict()


def _ridge(X: np.ndarray, y: np.ndarray, l2: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    mean = X.mean(axis=0)
    C, target = X - mean, np.eye(10)[y] - 0.1
    weights = np.linalg.solve(C.T @ C + l2 * np.eye(C.shape[1]), C.T @ target)
    return weights, -mean @ weights


def _logits(X: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    scores: np.ndarray = (8 * (X @ weights + bias)).astype(np.float32)
    return scores
