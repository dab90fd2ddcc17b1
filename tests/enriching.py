"""Everything a report can show, computed from a run's real predictions, features and images.

The report reads metrics.json, cost.json, pictures.npz, feature_map.npz and comparison.json, which
other parts of Headstart write. These short versions of their arithmetic give the report's tests
real numbers in the same shapes without a network or minutes of training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from headstart.evaluation.calibration import calibration, fit_temperature
from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval
from headstart.rundir import Run, write_arrays, write_json

BINS = 15
Model = Callable[[np.ndarray], np.ndarray]  # uint8 (n, side, side, 3) to logits (n, classes)
Features = tuple[np.ndarray, np.ndarray]  # (n, width), labels (n,)


def enrich(run: Run, model: Model, pixels: np.ndarray, train: Features, test: Features) -> None:
    """Add to a run's files what other parts of Headstart write; `pixels` are the test set's."""
    val, given = run.predictions("val"), run.predictions("test")
    temperature = fit_temperature(val).value
    metrics: dict[str, Any] = {
        split: {
            **score(predictions).to_dict(),
            "calibration": calibration(predictions).to_dict(),
            "calibrated": calibration(predictions.tempered(temperature)).to_dict(),
        }
        for split, predictions in (("val", val), ("test", given))
    }
    kept = np.arange(len(given)) % 17 != 3  # as if these were listed as near copies
    right = int(given.correct[kept].sum())
    metrics["test"]["without_duplicates"] = {
        "n": int(kept.sum()),
        "left_out": int((~kept).sum()),
        "accuracy": right / int(kept.sum()),
        "interval": wilson_interval(right, int(kept.sum())),
        "source": "every 17th test image, for the sake of the test",
    }
    metrics["temperature"] = temperature
    metrics["label_efficiency"] = label_efficiency(train, test)
    metrics["robustness"] = robustness(model, pixels[:200], given.labels[:200])
    write_json(run.path / "metrics.json", metrics)
    write_arrays(run.path / "pictures.npz", {**run.pictures, **pictures(given, model, pixels)})
    write_arrays(run.path / "feature_map.npz", feature_map(given, test[0]))
    cost = run.cost
    phases = [{"phase": 1, "train": "head", "extract_s": cost["extract_s"], "train_s": 0.2}]
    own = {
        "phases": [*phases, {"phase": 2, "train": "last_stage", "extract_s": 0.0,
                             "train_s": cost["train_s"]}],
        "throughput": {"images_per_s": 1.7e3 / cost["latency_ms"]["median"], "batch": 32, "n": 10},
        "file_mb": cost["size_mb"] * 1.01,
        "serving_rss_mb": cost["peak_rss_mb"] * 0.6,
        "measured": {**cost["measured"], "process": "its own, after the runs", "warm_up": 5,
                     "at": "2025-11-20T10:05:00+00:00"},
    }  # fmt: skip
    write_json(run.path / "cost.json", {**cost, **own})


def label_efficiency(train: Features, test: Features, l2: float = 30.0) -> dict[str, Any]:
    """A ridge classifier on a few images of each class, three draws a size."""
    (X, y), (Z, labels) = train, test
    shift, scale = X.mean(axis=0), X.std(axis=0) + 1e-6
    X, Z = (X - shift) / scale, (Z - shift) / scale
    classes = int(y.max()) + 1
    rng = np.random.default_rng(0)
    points = []
    for per_class in (1, 2, 5, 10, 25, 50):
        found = []
        for _ in range(3):
            rows = [rng.choice(np.flatnonzero(y == c), per_class, False) for c in range(classes)]
            own = np.concatenate(rows)
            K = X[own] @ X[own].T + l2 * X.shape[1] / 100 * np.eye(len(own))
            weights = X[own].T @ np.linalg.solve(K, np.eye(classes)[y[own]] - 1 / classes)
            found.append(float(((Z @ weights).argmax(axis=1) == labels).mean()))
        points.append(
            {"per_class": per_class, "images": per_class * classes, "draws": len(found),
             "accuracy": float(np.mean(found)), "low": min(found), "high": max(found)}
        )  # fmt: skip
    return {"split": "test", "n": len(labels), "l2_from": "a fixed value", "points": points,
            "note": "a linear head on frozen features, images drawn at random"}  # fmt: skip


def robustness(model: Model, pixels: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=pixels.shape)
    x = pixels / 255.0
    changes: dict[str, list[tuple[str, np.ndarray]]] = {
        "gaussian noise": [(f"sigma {s}", x + s * noise) for s in (0.04, 0.08, 0.16)],
        "gaussian blur": [
            (f"radius {r} px", ndimage.gaussian_filter(x, (0, r, r, 0))) for r in (0.5, 1.0, 1.8)
        ],
        "contrast": [(f"times {c}", (x - 0.5) * c + 0.5) for c in (0.6, 0.4, 0.2)],
        "brightness": [(f"plus {b}", x + b) for b in (0.15, 0.3, 0.45)],
    }
    rows = []
    for name, severities in changes.items():
        for severity, (setting, changed) in zip((1, 3, 5), severities, strict=True):
            logits = model(np.clip(changed * 255, 0, 255).astype(np.uint8))
            right = int((logits.argmax(axis=1) == labels).sum())
            rows.append(
                {"name": name, "severity": severity, "setting": setting,
                 "accuracy": right / len(labels), "interval": wilson_interval(right, len(labels))}
            )  # fmt: skip
    clean = float((model(pixels).argmax(axis=1) == labels).mean())
    mean = float(np.mean([row["accuracy"] for row in rows]))
    return {"n": len(labels), "accuracy": clean, "side": pixels.shape[1], "corruptions": rows,
            "mean": mean}  # fmt: skip


def pictures(test: Predictions, model: Model, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Uncertain answers, confused pairs, and where in the image the answer comes from."""
    ordered = np.sort(test.probabilities, axis=1)
    uncertain = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[:12]
    wrong = np.array(score(test).confusion)
    np.fill_diagonal(wrong, 0)
    pairs = []
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:3]:
        true, predicted = divmod(int(flat), len(wrong))
        own = np.flatnonzero((test.labels == true) & (test.predicted == predicted))
        pairs.append(own[:4])
    surest = np.argsort(-ordered[:, -1], kind="stable")
    looked = np.sort(np.concatenate([surest[test.correct[surest]][:4], surest[-4:]]))
    overlays = [_overlay(model, pixels[k], int(test.predicted[k])) for k in looked]
    return {
        **_answers("uncertain", test, pixels, uncertain),
        **_answers("pair", test, pixels, np.concatenate(pairs)),
        **_answers("saliency", test, np.stack(overlays), looked, whole=False),
        "saliency_plain": pixels[looked],
        "saliency_method": np.array("occlusion: a grey square moved over the image"),
    }


def _answers(
    kind: str, test: Predictions, pixels: np.ndarray, rows: np.ndarray, whole: bool = True
) -> dict[str, np.ndarray]:
    confidence = test.probabilities.max(axis=1)[rows].astype(np.float32)
    return {
        f"{kind}_images": pixels[rows] if whole else pixels,
        f"{kind}_ids": test.ids[rows],
        f"{kind}_labels": test.labels[rows],
        f"{kind}_predicted": test.predicted[rows],
        f"{kind}_confidence": confidence,
    }


def _overlay(model: Model, image: np.ndarray, label: int, size: int = 8) -> np.ndarray:
    side = image.shape[0]
    corners = [(r, c) for r in range(0, side - size + 1, 4) for c in range(0, side - size + 1, 4)]
    covered = np.repeat(image[None], len(corners), axis=0)
    for k, (r, c) in enumerate(corners):
        covered[k, r : r + size, c : c + size] = 127
    logits = model(np.concatenate([image[None], covered]))[:, label]
    heat, hits = np.zeros((side, side)), np.zeros((side, side))
    for (r, c), fall in zip(corners, logits[0] - logits[1:], strict=True):
        heat[r : r + size, c : c + size] += fall
        hits[r : r + size, c : c + size] += 1
    shade = np.clip(heat / np.maximum(hits, 1) / max(heat.max() / hits.max(), 1e-9), 0, 1)[
        ..., None
    ]
    grey = image.mean(axis=2, keepdims=True) * 0.7 + 40
    warm = np.array([240.0, 120.0, 20.0])
    mixed: np.ndarray = (grey * (1 - 0.75 * shade) + warm * 0.75 * shade).astype(np.uint8)
    return mixed


def feature_map(test: Predictions, features: np.ndarray) -> dict[str, np.ndarray]:
    centred = features - features.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return {
        "ids": test.ids,
        "labels": test.labels,
        "predicted": test.predicted,
        "xy": (centred @ axes[:2].T).astype(np.float32),
        "method": np.array("the first two principal components"),
    }
