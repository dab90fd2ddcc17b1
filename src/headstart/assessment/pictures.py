"""The pictures of a run: thumbnails, heat maps, and a map of its features.

They are saved as pictures.npz and feature_map.npz; `Run.pictures` and `Run.feature_map` list what
they hold. Numbers and sizes are chosen so that the report of ten runs stays within 5 MB.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from headstart.assessment.heat import HeatMapError, heat, overlay
from headstart.assessment.penultimate import Features
from headstart.data import ImageSet, Splits
from headstart.data.splits import class_ranks
from headstart.evaluation.feature_map import lay_out
from headstart.evaluation.notable import confident_mistakes, confused_pairs, least_certain
from headstart.evaluation.predictions import Predictions
from headstart.files import write_arrays
from headstart.machine.profiling import section
from headstart.training.journal import Journal
from headstart.training.trainer import Trained

SAMPLES, ANSWERS, MISTAKES, UNCERTAIN = 40, 24, 24, 12
PAIRS, OF_A_PAIR = 6, 6
HEAT_MAPS = 16
MAPPED = 1_000  # with more points t-SNE would take too long for a run of a minute
THUMBNAIL = 96


def leave_pictures(
    trained: Trained, test: Predictions, features: Features, journal: Journal
) -> None:
    """Write the run's pictures.

    test: calibrated, so that the confidences equal those of the predictor. features: of the test
    images that the map shows.
    """
    pictures = answers_in_pictures(trained.plan.splits, test)
    with section("saliency"):
        pictures |= _heat_maps(trained, test, journal)
    write_arrays(journal.run.place("pictures.npz"), pictures)
    with section("feature map"):
        xy, method = lay_out(features.array)
    rows = features.rows
    mapped = {
        "ids": test.ids[rows],
        "labels": test.labels[rows],
        "predicted": test.predicted[rows],
        "xy": xy,
        "method": np.array(method),
    }
    write_arrays(journal.run.place("feature_map.npz"), mapped)


def mapped_rows(images: ImageSet) -> np.ndarray:
    """The rows of a split that the map shows: int64, the same number of each class."""
    return balanced(images, MAPPED)


def answers_in_pictures(splits: Splits, test: Predictions) -> dict[str, np.ndarray]:
    """Random train images; of test, random answers, the surest mistakes, the least certain answers
    and confused pairs of classes.

    Random images are those with the lowest keys of each class: all runs of a study show the same.
    """
    samples = balanced(splits.train, SAMPLES)
    shown = {
        "prediction": balanced(splits.test, ANSWERS),
        "mistake": confident_mistakes(test, MISTAKES),
        "uncertain": least_certain(test, UNCERTAIN),
        "pair": confused_pairs(test, PAIRS, OF_A_PAIR),
    }
    pictures = {
        "sample_images": _thumbnails(splits.train, samples),
        "sample_ids": splits.train.ids[samples],
        "sample_labels": splits.train.labels[samples],
    }
    for kind, rows in shown.items():
        pictures[f"{kind}_images"] = _thumbnails(splits.test, rows)
        pictures |= _answers(kind, test, rows)
    return pictures


def heat_rows(images: ImageSet, test: Predictions) -> np.ndarray:
    """Rows of random right answers, then of the surest mistakes; half of each where possible."""
    wrong = confident_mistakes(test, HEAT_MAPS // 2)
    order = balanced(images, len(images))
    return np.concatenate([order[test.correct[order]][: HEAT_MAPS - len(wrong)], wrong])


def _heat_maps(trained: Trained, test: Predictions, journal: Journal) -> dict[str, np.ndarray]:
    """Heat over some test images; {} and a warning where no heat map can be made."""
    plan, images = trained.plan, trained.plan.splits.test
    rows = heat_rows(images, test)
    pixels = images.read(rows)
    inputs = plan.transform.plain(plan.runtime.place(pixels), images.keys[rows])
    try:
        result = heat(trained.model, inputs, test.predicted[rows].tolist())
    except Exception as error:  # a missing picture must not fail the run
        reason = (
            str(error) if isinstance(error, HeatMapError) else f"{type(error).__name__}: {error}"
        )
        journal.warn(f"no heat maps: {reason}")
        return {}
    plain = enlarge(_thumbnails(images, rows))
    return {
        "saliency_images": overlay(plain, result.maps),
        "saliency_plain": plain,
        "saliency_method": np.array(result.method),
        **_answers("saliency", test, rows),
    }


def _answers(kind: str, test: Predictions, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"{kind}_ids": test.ids[rows],
        f"{kind}_labels": test.labels[rows],
        f"{kind}_predicted": test.predicted[rows],
        f"{kind}_confidence": test.confidence[rows].astype(np.float32),
    }


def balanced(images: ImageSet, most: int) -> np.ndarray:
    """int64: rows of random images, the same number of each class, at most one more or less.

    The keys decide which images are taken, and which classes get one more.
    """
    return np.lexsort((images.keys, class_ranks(images.strata, images.keys)))[:most]


def _thumbnails(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    side = min(images.side, THUMBNAIL)
    if not len(rows):
        return np.zeros((0, side, side, 3), np.uint8)
    pixels = images.read(rows)
    if images.side == side:
        return pixels
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side))) for p in pixels])


def enlarge(pictures: np.ndarray) -> np.ndarray:
    """Repeat each pixel as a square, up to THUMBNAIL: heat over 32 pixels would be a blur."""
    times = max(1, THUMBNAIL // pictures.shape[1])
    return pictures.repeat(times, axis=1).repeat(times, axis=2)
