"""Whether the model that is handed over answers as it was tested: at the end of a run, and before
it is exported.

A test is predicted through cached features, by another library or in another precision than the
model that is served. At the end of a run the saved model answers for some of the test images, on a
CPU and from their pixels, and its probabilities are held against those of the test.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from headstart.data import ImageSet
from headstart.deployment.golden import Kept, keep_images
from headstart.deployment.predictor import Predictor, read_predictor
from headstart.errors import BundleError, RunError
from headstart.evaluation.predictions import Predictions
from headstart.machine.progress import Reporter
from headstart.rundir.history import Served
from headstart.rundir.run import Run
from headstart_predict.engines import Engine, usable_cores

# The largest difference of a probability that is taken without a word, by the precision of the
# frozen passes: features are cached in float16 at best.
NOTED = {"float32": 0.02, "bfloat16": 0.1, "int8": 0.3}
TOLERANCE = 1e-4  # of a probability, between the run and what is exported, and between engines
BATCH = 16
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
    tested = tested.pick(rows)
    served = replace(tested, logits=logits)
    apart = np.abs(served.probabilities - tested.probabilities).max(axis=1)
    changed = other_answers(served, tested, NOTED["float32"])
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


@dataclass(frozen=True)
class Parity:
    """How the answers of what is exported lie beside those of the run.

    images: answered, of which `by_torch` had to be answered by torch too, since the run tested them
    through cached activations of fewer digits. largest: difference of a probability.
    """

    images: int
    by_torch: int
    largest: float


def check_parity(
    run: Run,
    predictor: Predictor,
    engine: Engine,
    test: ImageSet | None,
    kept: Kept,
    reporter: Reporter,
) -> Parity:
    """Have an engine answer every test image, or those that the run keeps, and compare.

    An image whose answer differs from the tested one is answered by torch as well: the bundle is
    right where it agrees with that. Raises BundleError where it does not.
    """
    tested = run.predictions("test")
    rows = np.arange(len(tested.ids)) if test is not None else kept.rows
    answered = answer_all(engine, test, kept, reporter)
    expected = tested.logits[rows].copy()
    compared = compare_answers(run, tested, rows, expected, answered)
    doubtful = np.flatnonzero(compared.wrong)
    for first in range(0, len(doubtful), BATCH):
        some = doubtful[first : first + BATCH]
        pixels = test.read(rows[some]) if test is not None else kept.pixels[some]
        expected[some] = predictor.logits(pixels)
    compared = compare_answers(run, tested, rows, expected, answered)
    if compared.wrong.any():
        raise BundleError(
            f"{run.path}: not exported: {int(compared.wrong.sum())} of {len(rows)} images are "
            f"answered otherwise than by the run, the worst is {compared.worst}: a probability "
            f"differs by {compared.largest:.2g}"
        )
    return Parity(len(rows), len(doubtful), compared.largest)


@dataclass(frozen=True)
class Compared:
    """Answers beside expected ones. wrong: bool (n,). largest: difference of a probability, and the
    id of the image that has it."""

    wrong: np.ndarray
    largest: float
    worst: str


def compare_answers(
    run: Run, tested: Predictions, rows: np.ndarray, expected: np.ndarray, found: np.ndarray
) -> Compared:
    """Logits (n, classes) for these rows of test beside the expected ones, as calibrated
    probabilities."""
    some, temperature = tested.pick(rows), run.temperature
    one, other = (replace(some, logits=each).tempered(temperature) for each in (expected, found))
    apart = np.abs(one.probabilities - other.probabilities).max(axis=1)
    apart[~np.isfinite(found).all(axis=1)] = np.inf
    changed = other_answers(one, other, TOLERANCE / 10)
    worst = int(apart.argmax())
    return Compared(changed | (apart > TOLERANCE), float(apart[worst]), str(some.ids[worst]))


def other_answers(one: Predictions, other: Predictions, doubt: float) -> np.ndarray:
    """bool (n,): where two predictions of the same images give another class, or other labels.

    Probabilities that are no more than `doubt` apart count as equal: where two classes are as good
    as equal, or one lies at its threshold, rounding decides.
    """
    moved = np.abs(one.probabilities - other.probabilities) > doubt
    differs = one.predicted != other.predicted
    if differs.ndim == 2:
        return np.asarray((differs & moved).any(axis=1))
    return np.asarray(differs & moved.any(axis=1))


def answer_all(engine: Engine, test: ImageSet | None, kept: Kept, reporter: Reporter) -> np.ndarray:
    """float32 (n, classes): an engine's logits for every test image, or for those that the run
    keeps; each batch on a thread of its own."""
    total = len(test) if test is not None else len(kept.rows)
    rows = np.arange(total)

    def answer(first: int) -> np.ndarray:
        some = rows[first : first + BATCH]
        return engine.run(kept.pixels[some] if test is None else test.read(some))

    parts = []
    with (
        ThreadPoolExecutor(usable_cores(), "export") as pool,
        reporter.track("answering test images as exported", total, "images") as advance,
    ):
        for logits in pool.map(answer, range(0, total, BATCH)):
            parts.append(logits)
            advance(len(logits))
    return np.concatenate(parts)
