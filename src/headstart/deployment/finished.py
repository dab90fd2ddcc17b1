"""What a finished run has to answer with: its model, and perhaps a bundle. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from headstart.errors import BundleError, RunError
from headstart.evaluation.operating import choose_thresholds
from headstart.evaluation.two_classes import positive_class
from headstart.models.store import file_sha256
from headstart.rundir.run import Run, open_run
from headstart_predict.bundle import RECORD, open_bundle
from headstart_predict.shapes import Cuts

EXPORT = "export"  # where a run's own bundle is, in its directory
MODEL = Path("checkpoints", "best.safetensors")


def cuts_of(run: Run) -> Cuts | None:
    """Of two classes: the thresholds that validation chooses; None of other models."""
    if run.recipe.many_labels or len(run.class_names) != 2:
        return None
    positive = positive_class(run.class_names, run.recipe.evaluation.positive)
    val = run.predictions("val").tempered(run.metrics.temperature)
    return Cuts(positive, choose_thresholds(val.probabilities[:, positive], val.labels == positive))


def is_bundle(path: Path) -> bool:
    return (path / RECORD).is_file()


def finished(path: Path) -> Run:
    """The finished run at `path`. Raises RunError where there is none."""
    run = open_run(path)
    if not run.finished:
        raise RunError(f"{run.path}: the run is {run.status}: finish it before predicting with it")
    return run


def own_bundle(run: Run) -> Path | None:
    """The bundle in the run's directory; None where there is none, or one of another model."""
    folder = run.path / EXPORT
    return folder if holds_model(folder, run) else None


def holds_model(folder: Path, run: Run) -> bool:
    """Whether `folder` is a whole bundle of the run's model, in float32."""
    if not is_bundle(folder):
        return False
    try:
        bundle = open_bundle(folder)
        same = bundle.model_sha256 == file_sha256(run.path / MODEL)
    except (BundleError, OSError):
        return False
    return same and bundle.precision == "float32"
