"""What a change of the model does to images that it was not fitted to.

The head of a run with few images is fitted to train and validation, so that the model is nearly
sure of all of them: what eight bits change there is less than on new images. But the run has kept
held-out logits of its validation images, by folds where there are some. The difference that the
change makes to an image's logits is added to these.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from headstart.data.images import ImageSet
from headstart.data.splits import Splits
from headstart.evaluation.predictions import Predictions
from headstart.rundir.run import Run
from headstart_predict import choosing, engines
from headstart_predict.engines import usable_cores

MOST = 500  # images
BATCH = 8


class HeldOut:
    """Some validation images of a run, by which versions of its model are compared.

    plain: the model in float32, as ONNX.
    """

    def __init__(self, run: Run, splits: Splits, plain: bytes) -> None:
        saved = run.predictions("val")
        where: dict[str, tuple[ImageSet, int]] = {
            str(name): (images, row)
            for images in (splits.train, splits.val)
            for row, name in enumerate(images.ids)
        }
        known = [row for row, name in enumerate(saved.ids) if str(name) in where]
        rows = np.array(known)[np.linspace(0, len(known) - 1, min(MOST, len(known))).astype(int)]
        self._images = [where[str(name)] for name in saved.ids[rows]]
        self._saved = Predictions(saved.ids[rows], saved.labels[rows], saved.logits[rows])
        self._temperature = run.metrics.temperature
        self._plain = self._logits(plain)

    def __len__(self) -> int:
        return len(self._images)

    def fall(self, model: bytes) -> float:
        """By how much the mean probability of the right class falls in another version."""
        moved = self._saved.logits + self._logits(model) - self._plain
        other = Predictions(self._saved.ids, self._saved.labels, moved)
        return _of_the_right(self._saved, self._temperature) - _of_the_right(
            other, self._temperature
        )

    def _logits(self, model: bytes) -> np.ndarray:
        """float32 (n, classes), each batch on a thread of its own."""
        engine = engines.start(choosing.FIRST, model, 1, usable_cores())

        def answer(first: int) -> np.ndarray:
            some = self._images[first : first + BATCH]
            pixels = [images.read(np.array([row])) for images, row in some]
            return engine.run(np.concatenate(pixels))

        with ThreadPoolExecutor(usable_cores(), "export") as pool:
            return np.concatenate(list(pool.map(answer, range(0, len(self), BATCH))))


def _of_the_right(predictions: Predictions, temperature: float) -> float:
    """The mean probability of the right class, calibrated."""
    probabilities = predictions.tempered(temperature).probabilities
    return float(probabilities[np.arange(len(predictions)), predictions.labels].mean())
