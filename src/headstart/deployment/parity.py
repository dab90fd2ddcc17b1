"""Whether the model that is handed over answers as it was tested.

A test is predicted through cached features, by another library or in another precision than the
model that is served. At the end of a run the saved model answers for some of the test images, on a
CPU and from their pixels, and its probabilities are held against those of the test.
"""

from __future__ import annotations

import numpy as np

from headstart.data import ImageSet
from headstart.deployment.golden import keep_images
from headstart.deployment.predictor import read_predictor
from headstart.errors import RunError
from headstart.evaluation.predictions import Predictions
from headstart.rundir.history import Served
from headstart.rundir.run import Run

# The largest difference of a probability that is taken without a word, by the precision of the
# frozen passes: features are cached in float16 at best.
NOTED = {"float32": 0.02, "bfloat16": 0.1, "int8": 0.3}
REFUSED = 0.25  # share of the images with another answer, from which it is another model


def compare_served(run: Run, test: ImageSet) -> Served:
    """Have the saved model answer for some test images, which the run keeps.

    Raises RunError where its logits are no numbers, or where it is another model than the tested.
    """
    kept = keep_images(run, test)
    rows, logits = kept.rows, read_predictor(run, device="cpu").logits(kept.pixels)
    if not np.isfinite(logits).all():
        raise RunError(f"{run.path}: the saved model answers with NaN or infinity")
    tested = run.predictions("test")
    tested = Predictions(tested.ids[rows], tested.labels[rows], tested.logits[rows])
    served = Predictions(tested.ids, tested.labels, logits)
    apart = np.abs(served.probabilities - tested.probabilities).max(axis=1)
    # Where two classes are as good as equal, rounding decides between them.
    changed = (served.predicted != tested.predicted) & (apart > NOTED["float32"])
    found = Served(images=len(rows), changed=int(changed.sum()), largest=float(apart.max()))
    if run.provenance.machine.precision != "int8" and found.changed > REFUSED * found.images:
        raise RunError(f"{run.path}: {describe(found)}: it is not the model that was tested")
    return found


def warning(found: Served, precision: str) -> str | None:
    """A line for the user where the difference is more than the precision explains, or None."""
    if found.largest <= NOTED[precision]:
        return None
    return f"{describe(found)}: its accuracy may differ from the tested one"


def describe(found: Served) -> str:
    return (
        f"of {found.images} test images the saved model answers {found.changed} otherwise than in "
        f"the test, with probabilities up to {found.largest:.2g} apart"
    )
