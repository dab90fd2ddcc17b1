"""The quickest way to ask a model: by a bundle, without torch, or by torch. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headstart.deployment.finished import EXPORT, finished, is_bundle, own_bundle
from headstart.errors import HeadstartError
from headstart.machine.host import may_have_cuda
from headstart.machine.progress import Reporter

if TYPE_CHECKING:
    from headstart_predict.answers import PictureClassifier

# Images from which on it pays to export a run before it predicts: about ten seconds against twenty
# milliseconds an image, on two cores.
WORTH_EXPORTING = 500


def open_predictor(
    path: Path, *, device: str = "auto", images: int = 1, reporter: Reporter | None = None
) -> PictureClassifier:
    """The predictor of a bundle, or of a finished run: of the run's own bundle, if that was made of
    its model, and else by torch.

    images: how many are to come. A long series is answered by torch on a CUDA device, if there is
    one; else the run's bundle is made first, which takes some seconds once. device: if it is not
    "auto", torch is used. Raises RunError and BundleError.
    """
    from headstart_predict.predictor import load

    if is_bundle(path):
        return load(path)
    run, reporter = finished(path), reporter or Reporter()
    if device == "auto" and images >= WORTH_EXPORTING and has_cuda():
        reporter.say(
            f"torch predicts on the GPU, as there are {images:,} images; --device cpu asks the CPU"
        )
        from headstart.deployment.predictor import load_predictor

        return load_predictor(run, device="cuda")
    if device == "auto" and (bundle := own_bundle(run)):
        return load(bundle)
    from headstart.deployment.predictor import load_predictor

    if device == "auto" and images >= WORTH_EXPORTING and not (run.path / EXPORT).exists():
        from headstart.deployment.export import export

        try:
            return load(export(run, reporter=reporter, whole_test=False).path)
        except (HeadstartError, OSError) as error:
            reporter.warn(f"torch predicts, because the run cannot be exported: {error}")
    return load_predictor(run, device=device)


def bundle_of(path: Path, reporter: Reporter | None = None) -> Path:
    """The bundle at `path`, or that of the finished run there, which is exported if need be.

    Raises RunError and BundleError.
    """
    if is_bundle(path):
        return path
    run = finished(path)
    if bundle := own_bundle(run):
        return bundle
    from headstart.deployment.export import export

    return export(run, reporter=reporter or Reporter(), whole_test=False).path


def has_cuda() -> bool:
    """Whether torch finds a CUDA device; it is imported only where there may be one."""
    if not may_have_cuda():
        return False
    from torch import cuda

    return cuda.is_available()
