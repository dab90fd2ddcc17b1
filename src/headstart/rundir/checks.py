"""The files of a run, held against what a run writes, beyond the types of their fields.

Another program's file, or another run's, raises RunError here, so that no reader has to expect it.
Labels are below `classes`, where that is known.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from headstart.errors import RunError
from headstart.evaluation.many_labels import ManyPredictions
from headstart.evaluation.predictions import Predictions
from headstart.files import read_arrays
from headstart.rundir.records import Manifest, ManyMetrics, Metrics, Preprocess

Arrays = dict[str, np.ndarray]

_ANSWERED = ("prediction", "mistake", "uncertain", "pair", "saliency")
_LARGEST = 65_536  # pixels a side of an image
_KINDS = {"whole": "iu", "real": "f", "text": "U", "yes or no": "b"}


def check_manifest(path: Path, manifest: Manifest) -> None:
    """Raises RunError for what no run can be made of."""
    if manifest.created is not None:
        try:
            datetime.fromisoformat(manifest.created)
        except ValueError as error:
            raise RunError(f"{path}: created: is no date") from error
    if made := manifest.provenance:
        _refuse_if(path, not made.data.class_names, "it names no classes")
        for preprocess in (made.preprocess, made.expects):
            _refuse_if(path, not _can_be(preprocess), "no images can be preprocessed like this")
        _refuse_if(path, not 0 < made.data.side <= _LARGEST, "no images can be of this size")


def _can_be(preprocess: Preprocess) -> bool:
    known = preprocess.interpolation in ("bilinear", "bicubic")
    return known and 0 < preprocess.size <= _LARGEST and 0 not in preprocess.std


def check_metrics(path: Path, metrics: Metrics, classes: int | None) -> None:
    """Raises RunError for the scores of no images, or of other classes than the run's."""
    for scores in (metrics.val, metrics.test):
        found, two = len(scores.per_class), scores.two_classes
        _refuse_if(path, scores.n < 1, "it has scores of no images")
        _refuse_if(path, classes not in (None, found), f"it is not of {classes} classes")
        wrong = two is not None and (found != 2 or two.positive not in (0, 1))
        _refuse_if(path, wrong, "its two classes are none of the run's")
    _refuse_if(path, not metrics.temperature > 0, "its temperature is not above 0")


def check_many_metrics(path: Path, metrics: ManyMetrics, classes: int | None) -> None:
    """As `check_metrics`, where images may have several labels."""
    for scores in (metrics.val, metrics.test):
        found = len(scores.per_label)
        _refuse_if(path, scores.n < 1, "it has scores of no images")
        _refuse_if(path, classes not in (None, found), f"it is not of {classes} classes")
        sound = all(0 <= row.threshold <= 1 for row in scores.per_label)
        _refuse_if(path, not sound, "a threshold is no probability")
        pairs = [k for pair in scores.mistaken for k in (pair.missing, pair.instead)]
        _refuse_if(path, any(not 0 <= k < found for k in pairs), "some labels are of no class")
    _refuse_if(path, not metrics.temperature > 0, "its temperature is not above 0")


def read_predictions(path: Path, classes: int | None, *, many: bool) -> Predictions:
    """Predictions of one split. many: whether images may have several labels. Raises
    FileNotFoundError, and RunError of anything else."""
    arrays = read_arrays(path)
    n = _count(path, arrays, "ids")
    _require(path, arrays, "ids", "text", (n,))
    _require(path, arrays, "logits", "real", (n, None))
    logits = arrays["logits"]
    _refuse_if(path, n == 0, "no images are in it")
    _refuse_if(path, classes not in (None, logits.shape[1]), f"it is not of {classes} classes")
    if many:
        return _many_predictions(path, arrays)
    _require(path, arrays, "labels", "whole", (n,))
    _require_labels(path, arrays["labels"], logits.shape[1])
    _refuse_if(path, not np.isfinite(logits).all(), "some logits are no numbers")
    return Predictions(arrays["ids"], arrays["labels"].astype(np.int64, copy=False), logits)


def _many_predictions(path: Path, arrays: Arrays) -> ManyPredictions:
    logits = arrays["logits"]
    _require(path, arrays, "labels", "yes or no", logits.shape)
    _require(path, arrays, "thresholds", "real", logits.shape[1:])
    known = np.isfinite(logits).all() and np.isfinite(arrays["thresholds"]).all()
    _refuse_if(path, not known, "some logits are no numbers")
    return ManyPredictions(arrays["ids"], arrays["labels"], logits, arrays["thresholds"])


def read_pictures(path: Path) -> Arrays:
    """The thumbnails of a run. Raises FileNotFoundError, and RunError of anything else."""
    arrays = read_arrays(path)
    for kind in ("sample", *_ANSWERED):
        if kind != "sample" and not any(name.startswith(f"{kind}_") for name in arrays):
            continue
        n = _count(path, arrays, f"{kind}_ids")
        _require(path, arrays, f"{kind}_ids", "text", (n,))
        answers = () if kind == "sample" else ("predicted",)
        for part in ("labels", *answers):
            _require(path, arrays, f"{kind}_{part}", "whole", (n,))
            _require_labels(path, arrays[f"{kind}_{part}"], None)
        if answers:
            _require(path, arrays, f"{kind}_confidence", "real", (n,))
        _require_images(path, arrays, f"{kind}_images", n)
        if kind == "saliency":
            _require_images(path, arrays, "saliency_plain", n)
            _require(path, arrays, "saliency_method", "text", ())
    return arrays


def read_feature_map(path: Path, classes: int | None) -> Arrays:
    """The layout of test images. Raises FileNotFoundError, and RunError of anything else."""
    arrays = read_arrays(path)
    n = _count(path, arrays, "xy")
    _require(path, arrays, "ids", "text", (n,))
    for name in ("labels", "predicted"):
        _require(path, arrays, name, "whole", (n,))
        _require_labels(path, arrays[name], classes)
    _require(path, arrays, "xy", "real", (n, 2))
    _require(path, arrays, "method", "text", ())
    _refuse_if(path, not np.isfinite(arrays["xy"]).all(), "some places are no numbers")
    return arrays


def _count(path: Path, arrays: Arrays, name: str) -> int:
    array = arrays.get(name)
    if array is None or array.ndim == 0:
        raise RunError(f"{path}: damaged: no {name} are in it")
    return len(array)


def _require(
    path: Path, arrays: Arrays, name: str, kind: str, shape: tuple[int | None, ...]
) -> None:
    """Raises RunError unless the array has this kind of numbers and this shape, None for any."""
    _refuse_if(path, name not in arrays, f"no {name} are in it")
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    _refuse_if(path, array.dtype.kind not in _KINDS[kind] or not fits, f"{name} does not fit")


def _require_images(path: Path, arrays: Arrays, name: str, n: int) -> None:
    _refuse_if(path, name not in arrays, f"no {name} are in it")
    array = arrays[name]
    fits = array.ndim == 4 and len(array) == n and array.shape[3] == 3 and 0 not in array.shape[1:]
    _refuse_if(path, array.dtype != np.uint8 or not fits, f"{name} does not fit")


def _require_labels(path: Path, labels: np.ndarray, classes: int | None) -> None:
    wrong = labels.size and (
        int(labels.min()) < 0 or (classes is not None and int(labels.max()) >= classes)
    )
    _refuse_if(path, bool(wrong), "some labels are of no class")


def _refuse_if(path: Path, wrong: bool, why: str) -> None:
    if wrong:
        raise RunError(f"{path}: damaged: {why}")
