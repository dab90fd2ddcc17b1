"""Everything a report can show, computed from a run's real predictions, features and images.

The report reads metrics.json, cost.json, pictures.npz, feature_map.npz and comparison.json, which
other parts of Headstart write. These short versions of their arithmetic give the report's tests
real numbers in the same shapes without a network or minutes of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import ndimage, optimize, stats

from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import paired_change, wilson_interval
from headstart.rundir import Run, write_arrays, write_json

BINS = 15
Model = Callable[[np.ndarray], np.ndarray]  # uint8 (n, side, side, 3) to logits (n, classes)
Features = tuple[np.ndarray, np.ndarray]  # (n, width), labels (n,)


def enrich(run: Run, model: Model, pixels: np.ndarray, train: Features, test: Features) -> None:
    """Add to a run's files what other parts of Headstart write; `pixels` are the test set's."""
    val, given = run.predictions("val"), run.predictions("test")
    temperature = fit_temperature(val)
    metrics: dict[str, Any] = {}
    for split, predictions in (("val", val), ("test", given)):
        plain, warm = (calibration(predictions, t) for t in (1.0, temperature))
        scores = score(predictions).to_dict()
        recall = [row["recall"] for row in scores["per_class"]]
        precision = [row["precision"] for row in scores["per_class"]]
        means = {"macro_recall": np.mean(recall), "macro_precision": np.mean(precision)}
        metrics[split] = {
            **scores,
            **{key: float(value) for key, value in means.items()},
            "brier": plain["brier"],
            "calibration": plain,
            "calibrated": warm,
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
    phases = [{"phase": 0, "train": "head", "extract_s": cost["extract_s"], "train_s": 0.2}]
    own = {
        "phases": [*phases, {"phase": 1, "train": "last_stage", "extract_s": 0.0,
                             "train_s": cost["train_s"]}],
        "throughput": {"images_per_s": 1.7e3 / cost["latency_ms"]["median"], "batch": 32, "n": 10},
        "file_mb": cost["size_mb"] * 1.01,
        "serving_rss_mb": cost["peak_rss_mb"] * 0.6,
        "measured": {"process": "its own, after the runs", "warm_up": 5,
                     "at": "2025-11-20T10:05:00+00:00"},
    }  # fmt: skip
    write_json(run.path / "cost.json", {**cost, **own})


def fit_temperature(val: Predictions) -> float:
    def loss(log_t: float) -> float:
        return float(_scaled(val, math.exp(log_t)).log_probabilities[_own(val)].mean() * -1)

    return math.exp(optimize.minimize_scalar(loss, bounds=(-2, 3), method="bounded").x)


def _scaled(predictions: Predictions, temperature: float) -> Predictions:
    return Predictions(predictions.ids, predictions.labels, predictions.logits / temperature)


def _own(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(predictions)), predictions.labels


def calibration(predictions: Predictions, temperature: float) -> dict[str, Any]:
    scaled = _scaled(predictions, temperature)
    confidence = scaled.probabilities.max(axis=1)
    number = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    bins: list[dict[str, Any]] = []
    for k in range(BINS):
        inside = number == k
        n = int(inside.sum())
        bins.append(
            {"low": k / BINS, "high": (k + 1) / BINS, "n": n,
             "confidence": float(confidence[inside].mean()) if n else None,
             "accuracy": float(scaled.correct[inside].mean()) if n else None}
        )  # fmt: skip
    gaps = [(b["n"], abs(b["accuracy"] - b["confidence"])) for b in bins if b["n"]]
    truth = np.eye(scaled.logits.shape[1])[scaled.labels]
    return {
        "ece": sum(n * gap for n, gap in gaps) / len(scaled),
        "mce": max(gap for _, gap in gaps),
        "loss": float(-scaled.log_probabilities[_own(scaled)].mean()),
        "brier": float(((scaled.probabilities - truth) ** 2).sum(axis=1).mean()),
        "bins": bins,
    }


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


def compare(
    comparison: dict[str, Any], runs: Sequence[Run], groups: Sequence[str]
) -> dict[str, Any]:
    """Add configurations, pairs and verdict to a comparison; `groups` names each run's."""
    by_label = {run.name: run for run in runs}
    rows = {row["run"]: row for row in comparison["rows"] if row["run"] in by_label}
    members = {
        name: [run.name for run, g in zip(runs, groups, strict=True) if g == name]
        for name in dict.fromkeys(groups)
    }
    configurations = [_configuration(name, m, rows) for name, m in members.items()]
    configurations.sort(key=lambda c: -c["accuracy"])
    pooled = {c["name"]: _pool([by_label[m].predictions("test") for m in c["runs"]])
              for c in configurations}  # fmt: skip
    pairs = [_pair(a["name"], b["name"], pooled) for a, b in combinations(configurations, 2)]
    for rank, pair in enumerate(sorted(pairs, key=lambda p: p["p_value"])):
        pair["p_adjusted"] = min(1.0, pair["p_value"] * (len(pairs) - rank))
        pair["told_apart"] = pair["p_adjusted"] < 0.05
    apart = {(p["first"], p["second"]) for p in pairs if p["told_apart"]}
    group, head = 1, configurations[0]["name"]
    for c in configurations:
        if (head, c["name"]) in apart:
            group, head = group + 1, c["name"]
        c["group"] = group
    first = [c["name"] for c in configurations if c["group"] == 1]
    n = next(iter(rows.values()))["n"]
    detectable = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * math.sqrt(0.12 / n)
    if len(first) == 1:
        verdict = f"{first[0]} is the best of {len(configurations)}, beyond chance."
    else:
        verdict = (f"Nothing stands out: {', '.join(first[:-1])} and {first[-1]} cannot be told "
                   f"apart on these {n:,} test images.")  # fmt: skip
    winner = first[0] if len(first) == 1 else None
    return {**comparison, "configurations": configurations, "pairs": pairs, "verdict": verdict,
            "winner": winner, "detectable": float(detectable)}  # fmt: skip


def _configuration(name: str, members: list[str], rows: dict[str, Any]) -> dict[str, Any]:
    own = [rows[m] for m in members]
    accuracies = [row["accuracy"] for row in own]
    mean, n = float(np.mean(accuracies)), own[0]["n"]
    return {
        "name": name, "runs": members, "seeds": len(members), "backbone": own[0]["backbone"],
        "accuracy": mean, "interval": wilson_interval(round(mean * n), n),
        "sd": float(np.std(accuracies, ddof=1)) if len(members) > 1 else None,
        "val_accuracy": float(np.mean([row["val_accuracy"] for row in own])),
        "marks": own[0]["marks"],
    }  # fmt: skip


def _pool(predictions: Sequence[Predictions]) -> Predictions:
    """The mean answer of a configuration's seeds."""
    logits = np.mean([p.log_probabilities for p in predictions], axis=0)
    return Predictions(predictions[0].ids, predictions[0].labels, logits)


def _pair(first: str, second: str, pooled: dict[str, Predictions]) -> dict[str, Any]:
    change = paired_change(pooled[first], pooled[second])
    return {"first": first, "second": second, "change": change.change,
            "interval": list(change.interval), "p_value": change.p_value,
            "test": "exact McNemar on the seeds' mean answers"}  # fmt: skip
