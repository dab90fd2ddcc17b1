"""A finished run as a bundle, the model and all that belongs to it, or as one HTML file.

Either is published only if ONNX Runtime answers every test image as the run does. Where the data
are gone, the images that the run keeps are answered instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.data import load_data
from headstart.data.splits import Splits
from headstart.deployment.bundles import Contents, publish, require_bundle, threshold_of
from headstart.deployment.finished import EXPORT
from headstart.deployment.formats import Answers, Files, as_openvino, as_torch
from headstart.deployment.golden import Kept, kept_images
from headstart.deployment.html_export import NAME as PAGE
from headstart.deployment.html_export import require_page, write_page
from headstart.deployment.int8 import (
    MAX_DROP,
    Int8,
    compare_int8,
    require_small_drop,
    to_int8,
)
from headstart.deployment.onnx_export import Deployed, to_onnx
from headstart.deployment.parity import Parity, answer_all, check_parity, compare_answers
from headstart.deployment.predictor import load_predictor
from headstart.deployment.web_runtime import fetch_web_runtime
from headstart.errors import BundleError, DataError, RunError, did_you_mean
from headstart.machine.progress import Reporter, TerminalReporter
from headstart.rundir.run import Run, open_run
from headstart_predict import engines
from headstart_predict.engines import usable_cores

FORMS = ("bundle", "html", "openvino", "torch")
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class Exported:
    """What was published. int8: how its answers differ from those in float32, if it is in int8."""

    path: Path
    parity: Parity
    megabytes: float
    int8: Int8 | None = None


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
    precision: float32, or int8, which is refused if accuracy on test falls by more than `max_drop`
    points. whole_test: every test image is answered before it is published; without it, those that
    the run keeps. A bundle or a page that is there is replaced, anything else refused.

    Raises RunError where the run is not finished or its images are needed and gone, PrecisionError
    where int8 cannot be had, and BundleError where an answer differs, which names the worst image.
    """
    _check_request(form, precision)
    reporter = reporter or TerminalReporter()
    run = source if isinstance(source, Run) else open_run(source)
    predictor = load_predictor(run, device="cpu", precision="float32")
    path = Path(out) if out is not None else run.place(_default_name(form, precision))
    if form == "html":
        require_page(path)
        runtime = fetch_web_runtime(reporter.transfer)
    else:
        require_bundle(path)
    reporter.say("exporting the model to ONNX")
    deployed = Deployed(predictor.model, predictor.transform, predictor.side, predictor.temperature)
    model = to_onnx(deployed, predictor.side)
    engine = engines.start("onnxruntime", model, 1, usable_cores())
    splits = run_images(run) if whole_test or precision == "int8" else None
    test = splits.test if splits else None
    kept = kept_images(run, test)
    parity = check_parity(run, predictor, engine, test if whole_test else None, kept, reporter)
    if form == "html":
        write_page(path, run, model, threshold_of(run), runtime)
        return Exported(path, parity, path.stat().st_size / 1e6)
    logits, int8 = predictor.logits(kept.pixels), None
    more: dict[str, bytes] = {}
    if precision == "int8":
        if splits is None:
            raise RunError(f"{run.path}: int8 needs the run's images, which are gone or changed")
        model, logits, int8 = _in_int8(run, model, splits, kept, max_drop, reporter)
    elif form in ("openvino", "torch"):
        made = as_openvino(model) if form == "openvino" else as_torch(deployed, predictor.side)
        more = _checked(run, kept, logits, *made)
    publish(path, run, Contents(model, kept, logits, parity, more, int8), test)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Exported(path, parity, size / 1e6, int8)


def _check_request(form: str, precision: str) -> None:
    if form not in FORMS:
        raise RunError(f"{form}: not a format of an export{did_you_mean(form, FORMS)}")
    if precision not in PRECISIONS:
        raise RunError(f"{precision}: not a precision of an export: use {' or '.join(PRECISIONS)}")
    if precision == "int8" and form != "bundle":
        raise RunError(f"--precision int8 is for a bundle, not for --format {form}")


def _default_name(form: str, precision: str) -> str:
    if form == "html":
        return PAGE
    return EXPORT if precision == "float32" else f"{EXPORT}-{precision}"


def _in_int8(
    run: Run, model: bytes, splits: Splits, kept: Kept, max_drop: float, reporter: Reporter
) -> tuple[bytes, np.ndarray, Int8]:
    """The model in eight bits, its logits for the kept images, and how it differs on test."""
    reporter.say("quantizing the model on training images")
    eight = to_int8(model, splits.train)
    engine = engines.start("onnxruntime", eight, 1, usable_cores())
    answered = answer_all(engine, splits.test, kept, reporter)
    sizes = (len(eight) / 1e6, len(model) / 1e6)
    found = compare_int8(run.predictions("test"), answered, sizes)
    require_small_drop(found, max_drop)
    return eight, answered[kept.rows], found


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
