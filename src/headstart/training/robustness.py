"""A trained model on damaged test images: its logits saved, its accuracies returned."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from headstart.data.corruptions import CORRUPTIONS, corrupt
from headstart.data.samples import choose_samples
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.robustness import Damage, robustness
from headstart.profiling import section
from headstart.rundir import write_arrays
from headstart.training.phases import Training


def measure_robustness(training: Training, test: Predictions) -> dict[str, Any]:
    """Predict the corrupted test images that the recipe asks for; what metrics.json says of it.

    test: the model's predictions on the whole split. Which images, and what happens to them, hangs
    on the splits' seed, so that the runs of a study are damaged alike.
    """
    recipe, images = training.recipe, training.splits.test
    seed, started = recipe.data.split_seed, time.perf_counter()
    rows = np.sort(choose_samples(images.labels, recipe.evaluation.corrupted_images, seed))
    images = images.pick(rows)
    clean = Predictions(images.ids, images.labels, test.logits[rows])
    damages, logits = [], []
    with section("robustness"):
        for corruption in CORRUPTIONS:
            for severity in recipe.evaluation.corruptions:
                damaged = corrupt(images, corruption, severity, seed)
                label = f"{corruption.name}, severity {severity}"
                logits.append(training.predict_once(damaged, label).logits)
                setting = corruption.setting(severity, images.side)
                damages.append(Damage(corruption.name, severity, setting))
    seconds = time.perf_counter() - started
    counts = {"images": len(images), "corruptions": len(damages), "seconds": seconds}
    training.run.append_log({"event": "robustness", **counts})
    found = {
        "ids": images.ids,
        "labels": images.labels,
        "names": np.array([damage.name for damage in damages]),
        "severities": np.array([damage.severity for damage in damages]),
        "logits": np.stack(logits),
    }
    write_arrays(training.run.path / "predictions" / "corrupted.npz", found)
    result = robustness(clean, damages, found["logits"], images.side)
    training.reporter.say(
        f"corrupted images: mean accuracy {result['mean']:.1%}, {result['accuracy']:.1%} on the "
        f"same {len(images):,} as they are ({seconds:.1f} s)"
    )
    return result
