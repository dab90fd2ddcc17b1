"""The quickest way to ask a model: by a bundle, without torch, or by torch. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import BundleError, RunError
from headstart.models.store import file_sha256
from headstart.rundir.run import Run, open_run
from headstart_predict.bundle import RECORD, open_bundle

if TYPE_CHECKING:
    from headstart_predict.answers import PictureClassifier

EXPORT = "export"  # where a run's own bundle is, in its directory
MODEL = Path("checkpoints", "best.safetensors")


def is_bundle(path: Path) -> bool:
    return (path / RECORD).is_file()


def open_predictor(path: Path, *, device: str = "auto") -> PictureClassifier:
    """The predictor of a bundle, or of a finished run: of the run's own bundle, if it has one that
    was made of its model, and else by torch. device: other than "auto", torch is asked for.

    Raises RunError and BundleError.
    """
    from headstart_predict.predictor import load

    if is_bundle(path):
        return load(path)
    run = finished(path)
    if device == "auto" and (bundle := own_bundle(run)):
        return load(bundle)
    from headstart.deployment.predictor import load_predictor

    return load_predictor(run, device=device)


def finished(path: Path) -> Run:
    """The finished run at `path`. Raises RunError where there is none."""
    run = open_run(path)
    if not run.finished:
        raise RunError(f"{run.path}: the run is {run.status}: finish it before predicting with it")
    return run


def own_bundle(run: Run) -> Path | None:
    """The bundle in the run's directory; None where there is none, or one of another model."""
    folder = run.path / EXPORT
    if not is_bundle(folder):
        return None
    try:
        bundle = open_bundle(folder)
        same = bundle.model_sha256 == file_sha256(run.path / MODEL)
    except (BundleError, OSError):
        return None
    return folder if same and bundle.precision == "float32" else None
