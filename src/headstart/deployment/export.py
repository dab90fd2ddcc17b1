"""A finished run as a bundle, the model and all that belongs to it, or as one HTML file.

Either is published only if ONNX Runtime answers every test image as the run does. Where the data
are gone, the images that the run keeps are answered instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data import load_data
from headstart.data.splits import Splits
from headstart.deployment import bfloat16, int8
from headstart.deployment.bundles import Contents, publish, require_bundle, threshold_of
from headstart.deployment.finished import EXPORT
from headstart.deployment.formats import Answers, Files, as_openvino, as_torch
from headstart.deployment.golden import Kept, kept_images
from headstart.deployment.held_out import HeldOut
from headstart.deployment.html_export import NAME as PAGE
from headstart.deployment.html_export import require_page, write_page
from headstart.deployment.onnx_export import Deployed, to_onnx
from headstart.deployment.parity import TOLERANCE, Parity, answer_all, check_parity, compare_answers
from headstart.deployment.predictor import load_predictor
from headstart.deployment.reduced import (
    MAX_DROP,
    Reduced,
    Version,
    compare_reduced,
    require_small_drop,
)
from headstart.deployment.web_runtime import fetch_web_runtime
from headstart.errors import BundleError, DataError, RunError, did_you_mean
from headstart.machine.notebook import default_reporter
from headstart.machine.progress import Reporter
from headstart.rundir.run import Run, open_run
from headstart_predict import engines
from headstart_predict.engines import usable_cores

FORMS = ("bundle", "html", "openvino", "torch")
PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Exported:
    """What was published. reduced: how it differs from float32, if it has fewer digits."""

    path: Path
    parity: Parity
    megabytes: float
    reduced: Reduced | None = None


def export(
    source: Run | str | Path,
    *,
    out: str | Path | None = None,
    form: str = "bundle",
    precision: str = "float32",
    max_drop: float = MAX_DROP,
    whole_test: bool = True,
    reporter: Reporter | None = None,
) -> Exported:
    """Write the bundle of a finished run, by default to RUN/export, or its page, by default to
    RUN/classifier.html.

    form: bundle; html, the page; openvino or torch, a bundle that has model.xml or model.pt2, too.
    precision: float32; or bfloat16 or int8, which is refused if accuracy on test falls by more than
    `max_drop` points. whole_test: every test image is answered before it is published; without it,
    those that the run keeps. A bundle or a page that is there is replaced, anything else refused.

    Raises RunError where the run is not finished or its images are needed and gone, PrecisionError
    where int8 cannot be had, and BundleError where an answer differs, which names the worst image.
    """
    _check_request(form, precision)
    reporter = reporter or default_reporter()
    run = source if isinstance(source, Run) else open_run(source)
    _refuse_many(run, precision)
    predictor = load_predictor(run, device="cpu", precision="float32")
    path = Path(out) if out is not None else run.place(_default_name(form, precision))
    if form == "html":
        require_page(path)
        runtime = fetch_web_runtime(reporter.transfer)
    else:
        require_bundle(path)
    reporter.say("exporting the model to ONNX")
    deployed = Deployed(predictor.model, predictor.transform, predictor.side, predictor.shape)
    model = to_onnx(deployed, predictor.side)
    engine = engines.start("onnxruntime", model, 1, usable_cores())
    splits = run_images(run) if whole_test or precision != "float32" else None
    test = splits.test if splits else None
    kept = kept_images(run, test)
    parity = check_parity(run, predictor, engine, test if whole_test else None, kept, reporter)
    if form == "html":
        threshold = None if run.recipe.many_labels else threshold_of(run)
        write_page(path, run, model, threshold, runtime)
        return Exported(path, parity, path.stat().st_size / 1e6)
    logits = predictor.logits(kept.pixels)
    made = Version("float32", model, kept.pixels, logits, run.temperature, TOLERANCE)
    reduced: Reduced | None = None
    more: dict[str, bytes] = {}
    if precision != "float32":
        if splits is None:
            raise RunError(f"{run.path}: {precision} needs its images, which are gone or changed")
        made, reduced = _of_fewer_digits(run, precision, made, splits, kept, reporter)
        require_small_drop(reduced, max_drop)
    elif form in ("openvino", "torch"):
        form_of = as_openvino(model) if form == "openvino" else as_torch(deployed, predictor.side)
        more = _checked(run, kept, logits, *form_of)
    publish(path, run, Contents(made, kept, parity, more, reduced), test)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Exported(path, parity, size / 1e6, reduced)


def _check_request(form: str, precision: str) -> None:
    if form not in FORMS:
        raise RunError(f"{form}: not a format of an export{did_you_mean(form, FORMS)}")
    if precision not in PRECISIONS:
        raise RunError(f"{precision}: not a precision of an export: use {', '.join(PRECISIONS)}")
    if precision != "float32" and form != "bundle":
        raise RunError(f"--precision {precision} is for a bundle, not for --format {form}")


def _refuse_many(run: Run, precision: str) -> None:
    """Raises RunError for what is not written where images may have several labels."""
    if not run.recipe.many_labels:
        return
    if precision != "float32":
        raise RunError(
            f"{run.path}: --precision {precision} is for images with one label, and these may have "
            "several: leave it out"
        )


def _default_name(form: str, precision: str) -> str:
    if form == "html":
        return PAGE
    return EXPORT if precision == "float32" else f"{EXPORT}-{precision}"


def _of_fewer_digits(
    run: Run, precision: str, plain: Version, splits: Splits, kept: Kept, reporter: Reporter
) -> tuple[Version, Reduced]:
    """The model in another precision, and how it differs on test."""
    in_float: tuple[int, int] | None = None
    if precision == "int8":
        reporter.say("quantizing the model on training images")
        held_out = HeldOut(run, splits, plain.model)
        eight = int8.to_int8(plain.model, splits.train, held_out, reporter)
        model, tolerance = eight.model, int8.TOLERANCE
        in_float = (eight.in_float, eight.layers)
    else:
        model, tolerance = bfloat16.to_bfloat16(plain.model), bfloat16.TOLERANCE
    engine = engines.start("onnxruntime", model, 1, usable_cores())
    answered = answer_all(engine, splits.test, kept, reporter)
    made = replace(
        plain,
        precision=precision,
        model=model,
        expected=answered[kept.rows],
        tolerance=tolerance,
    )
    reporter.say("measuring how fast it is beside float32")
    found = compare_reduced(run.predictions("test"), answered, (plain, made), in_float)
    return made, found


def _checked(run: Run, kept: Kept, expected: np.ndarray, files: Files, answers: Answers) -> Files:
    """The files of a further form. Raises BundleError where they answer otherwise."""
    tested = run.predictions("test")
    found = compare_answers(run, tested, kept.rows, expected, answers(kept.pixels))
    if found.wrong.any():
        raise BundleError(
            f"{run.path}: not exported: {', '.join(files)} answers otherwise than the run, the "
            f"worst is {found.worst}: a probability differs by {found.largest:.2g}"
        )
    return files


def run_images(run: Run) -> Splits | None:
    """The images of a run, if they are still there and its test is still the same."""
    try:
        splits = load_data(run.recipe.data)
    except DataError:
        return None
    same = splits.test.fingerprint == run.provenance.data.test_fingerprint
    return splits if same else None
