"""Everything a report can show, computed from a run's real predictions, features and images.

The report reads metrics.json, cost.json, pictures.npz, feature_map.npz and comparison.json, which
other parts of Headstart write. These short versions of their arithmetic give the report's tests
real numbers in the same shapes without a network or minutes of training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from headstart.assessment.assess import split_scores
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.corruptions import Applied, Corruptions, corrupted_scores
from headstart.evaluation.duplicates import without_duplicates
from headstart.evaluation.metrics import confusion_matrix
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.two_classes import DEFAULT_POSITIVE
from headstart.files import write_arrays, write_json
from headstart.rundir.records import EfficiencyPoint, LabelEfficiency, Metrics
from headstart.rundir.run import Run

BINS = 15
Model = Callable[[np.ndarray], np.ndarray]  # uint8 (n, side, side, 3) to logits (n, classes)
Features = tuple[np.ndarray, np.ndarray]  # (n, width), labels (n,)


def enrich(run: Run, model: Model, pixels: np.ndarray, train: Features, test: Features) -> None:
    """Add to a run's files what other parts of Headstart write; `pixels` are the test set's."""
    val, given = run.predictions("val"), run.predictions("test")
    temperature = fit_temperature(val)
    kept = np.arange(len(given)) % 17 != 3  # as if these were listed as near copies
    unseen = without_duplicates(given, ~kept, "every 17th test image, for the sake of the test")
    metrics = Metrics(
        val=split_scores(val, temperature, DEFAULT_POSITIVE),
        test=split_scores(given, temperature, DEFAULT_POSITIVE, unseen),
        temperature=temperature.value,
        temperature_note=temperature.note,
        corruptions=corruptions(model, pixels[:200], given.labels[:200]),
        label_efficiency=label_efficiency(train, test),
        further={},
    )
    write_json(run.path / "metrics.json", metrics)
    write_arrays(run.path / "pictures.npz", {**run.pictures, **pictures(given, model, pixels)})
    write_arrays(run.path / "feature_map.npz", feature_map(given, test[0]))


def label_efficiency(train: Features, test: Features, l2: float = 30.0) -> LabelEfficiency:
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
        mean = float(np.mean(found))
        images = per_class * classes
        points.append(
            EfficiencyPoint(per_class, images, len(found), mean, min(found), max(found), mean)
        )
    note = "a linear head on frozen features, images drawn at random"
    return LabelEfficiency("test", len(labels), "a fixed value", tuple(points), note)


def corruptions(model: Model, pixels: np.ndarray, labels: np.ndarray) -> Corruptions:
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
    applied, logits = [], []
    for name, severities in changes.items():
        for severity, (setting, changed) in zip((1, 3, 5), severities, strict=True):
            applied.append(Applied(name, severity, setting))
            logits.append(model(np.clip(changed * 255, 0, 255).astype(np.uint8)))
    clean = Predictions(np.arange(len(labels)).astype(str), labels, model(pixels))
    return corrupted_scores(clean, applied, np.stack(logits), pixels.shape[1])


def pictures(test: Predictions, model: Model, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Uncertain answers, confused pairs, and where in the image the answer comes from."""
    ordered = np.sort(test.probabilities, axis=1)
    uncertain = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[:12]
    wrong = confusion_matrix(test)
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
