"""A trained model on corrupted test images: saves its logits, returns its accuracies."""

from __future__ import annotations

import time

import numpy as np

from headstart.data.corruptions import CORRUPTIONS, corrupt
from headstart.data.samples import choose_samples
from headstart.evaluation.corruptions import Applied, Corruptions, corrupted_scores
from headstart.evaluation.predictions import Predictions
from headstart.files import write_arrays
from headstart.machine.profiling import section
from headstart.rundir.history import Corrupted
from headstart.training.journal import Journal
from headstart.training.trainer import Trained


def measure_corruptions(trained: Trained, test: Predictions, journal: Journal) -> Corruptions:
    """Predict the corrupted test images that the recipe asks for; returns the scores.

    test: the model's predictions on the whole split. The choice of images and their corruption
    depend on the splits' seed alone, so all runs of a study use the same ones.
    """
    recipe, images = trained.plan.recipe, trained.plan.splits.test
    seed, started = recipe.data.split_seed, time.perf_counter()
    rows = np.sort(choose_samples(images.labels, recipe.evaluation.corrupted_images, seed))
    images = images.pick(rows)
    clean = Predictions(images.ids, images.labels, test.logits[rows])
    applied, logits = [], []
    with section("corruptions"):
        for corruption in CORRUPTIONS:
            for severity in recipe.evaluation.corruptions:
                changed = corrupt(images, corruption, severity, seed)
                label = f"{corruption.name}, severity {severity}"
                logits.append(trained.predict_once(changed, label).logits)
                setting = corruption.setting(severity, images.side)
                applied.append(Applied(corruption.name, severity, setting))
    seconds = time.perf_counter() - started
    journal.run.append_log(Corrupted(len(images), len(applied), seconds))
    arrays = {
        "ids": images.ids,
        "labels": images.labels,
        "names": np.array([each.name for each in applied]),
        "severities": np.array([each.severity for each in applied]),
        "logits": np.stack(logits),
    }
    write_arrays(journal.run.place("predictions/corrupted.npz"), arrays)
    result = corrupted_scores(clean, applied, arrays["logits"], images.side)
    journal.reporter.say(
        f"corrupted images: mean accuracy {result.mean:.1%}, {result.accuracy:.1%} on the "
        f"same {len(images):,} as they are ({seconds:.1f} s)"
    )
    return result
