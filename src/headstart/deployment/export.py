"""A finished run as a bundle, the model and all that belongs to it, or as one HTML file.

Either is published only if ONNX Runtime answers every test image as the run does. Where the data
are gone, the images that the run keeps are answered instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import load_data
from headstart.data.images import ImageSet, encode_png
from headstart.deployment.finished import EXPORT
from headstart.deployment.finished import MODEL as BEST
from headstart.deployment.golden import Kept, kept_images
from headstart.deployment.html_export import NAME as PAGE
from headstart.deployment.html_export import require_page, write_page
from headstart.deployment.onnx_export import Deployed, to_onnx
from headstart.deployment.predictor import Predictor, load_predictor
from headstart.deployment.web_runtime import fetch_web_runtime
from headstart.errors import BundleError, DataError, RunError, did_you_mean
from headstart.evaluation.predictions import Predictions
from headstart.files import (
    partial_path,
    remove,
    remove_partials,
    sync,
    write_arrays,
    write_atomically,
    write_json,
)
from headstart.machine.progress import Reporter, TerminalReporter
from headstart.models.store import file_sha256
from headstart.report.card import render_card
from headstart.rundir.run import Run, open_run
from headstart_predict import engines
from headstart_predict.bundle import FORMAT, GOLDEN, MODEL, RECORD, open_bundle
from headstart_predict.engines import Engine, usable_cores

FORMS = ("bundle", "html")
TOLERANCE = 1e-4  # of a probability, between the run and the bundle, and between engines
BATCH = 16
SURE = 0.95  # share of right answers that answers at the threshold or above shall have


@dataclass(frozen=True)
class Parity:
    """How a bundle's answers lie beside those of the run.

    images: answered, of which `by_torch` had to be answered by torch too, since the run tested them
    through cached activations of fewer digits. largest: difference of a probability.
    """

    images: int
    by_torch: int
    largest: float


@dataclass(frozen=True)
class Exported:
    """A published bundle or page."""

    path: Path
    parity: Parity
    megabytes: float


def export(
    source: Run | str | Path,
    *,
    out: str | Path | None = None,
    form: str = "bundle",
    whole_test: bool = True,
    reporter: Reporter | None = None,
) -> Exported:
    """Write the bundle of a finished run, by default to RUN/export, or its page, by default to
    RUN/classifier.html.

    whole_test: every test image is answered before it is published; without it, those that the run
    keeps. A bundle or a page that is there is replaced, anything else refused. Raises RunError
    where the run is not finished, and BundleError where an answer differs, which names the worst
    image.
    """
    if form not in FORMS:
        raise RunError(f"{form}: not a format of an export{did_you_mean(form, FORMS)}")
    reporter = reporter or TerminalReporter()
    run = source if isinstance(source, Run) else open_run(source)
    predictor = load_predictor(run, device="cpu", precision="float32")
    path = Path(out) if out is not None else run.path / (EXPORT if form == "bundle" else PAGE)
    if form == "html":
        require_page(path)
        runtime = fetch_web_runtime(reporter.transfer)
    else:
        _require_replaceable(path)
    reporter.say("exporting the model to ONNX")
    model = to_onnx(
        Deployed(predictor.model, predictor.transform, predictor.side, predictor.temperature),
        predictor.side,
    )
    engine = engines.start("onnxruntime", model, 1, usable_cores())
    test = test_images(run) if whole_test else None
    kept = kept_images(run, test)
    parity = check_parity(run, predictor, engine, test, kept, reporter)
    if form == "html":
        write_page(path, run, model, threshold_of(run), runtime)
        return Exported(path, parity, path.stat().st_size / 1e6)
    with _published(path) as partial:
        _write(partial, run, model, kept, predictor, test, parity)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Exported(path, parity, size / 1e6)


def test_images(run: Run) -> ImageSet | None:
    """The test images of a run, if they are still there and still the same."""
    try:
        test = load_data(run.recipe.data).test
    except DataError:
        return None
    return test if test.fingerprint == run.provenance.data.test_fingerprint else None


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
    answered = np.empty((len(rows), len(run.class_names)), np.float32)
    with reporter.track("answering test images as the bundle does", len(rows), "images") as advance:
        for place, logits in _answers(engine, test, kept, rows):
            answered[place] = logits
            advance(len(logits))
    expected = tested.logits[rows].copy()
    compared = _compare(run, tested, rows, expected, answered)
    doubtful = np.flatnonzero(compared.wrong)
    for first in range(0, len(doubtful), BATCH):
        some = doubtful[first : first + BATCH]
        pixels = test.read(rows[some]) if test is not None else kept.pixels[some]
        expected[some] = predictor.logits(pixels)
    compared = _compare(run, tested, rows, expected, answered)
    if compared.wrong.any():
        raise BundleError(
            f"{run.path}: not exported: {int(compared.wrong.sum())} of {len(rows)} images are "
            f"answered otherwise than by the run, the worst is {compared.worst}: a probability "
            f"differs by {compared.largest:.2g}"
        )
    return Parity(len(rows), len(doubtful), compared.largest)


@dataclass(frozen=True)
class _Compared:
    wrong: np.ndarray
    largest: float
    worst: str


def _compare(
    run: Run, tested: Predictions, rows: np.ndarray, expected: np.ndarray, found: np.ndarray
) -> _Compared:
    temperature = run.metrics.temperature
    ids, labels = tested.ids[rows], tested.labels[rows]
    one, other = (
        Predictions(ids, labels, each).tempered(temperature) for each in (expected, found)
    )
    apart = np.abs(one.probabilities - other.probabilities).max(axis=1)
    apart[~np.isfinite(found).all(axis=1)] = np.inf
    changed = (one.predicted != other.predicted) & (apart > TOLERANCE / 10)
    worst = int(apart.argmax())
    return _Compared(changed | (apart > TOLERANCE), float(apart[worst]), str(ids[worst]))


def _answers(
    engine: Engine, test: ImageSet | None, kept: Kept, rows: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Logits of some rows at a time, each batch on a thread of its own."""
    places = [slice(i, min(i + BATCH, len(rows))) for i in range(0, len(rows), BATCH)]

    def answer(place: slice) -> np.ndarray:
        pixels = kept.pixels[place] if test is None else test.read(rows[place])
        return engine.run(pixels)

    with ThreadPoolExecutor(usable_cores(), "export") as pool:
        yield from zip(places, pool.map(answer, places), strict=True)


def _write(
    folder: Path,
    run: Run,
    model: bytes,
    kept: Kept,
    predictor: Predictor,
    test: ImageSet | None,
    parity: Parity,
) -> None:
    """Every file of a bundle, its record last."""
    tested = run.predictions("test")
    files: dict[str, bytes] = {
        MODEL: model,
        "recipe.toml": (run.path / "recipe.toml").read_bytes(),
        "README.md": _card(run).encode(),
        "example.py": EXAMPLE.encode(),
    }
    names = []
    for number, (row, pixels) in enumerate(zip(kept.rows, kept.pixels, strict=True)):
        content = test.as_file(int(row)) if test is not None else encode_png(pixels)
        names.append(f"golden/{number:02d}{_suffix(content)}")
        files[names[-1]] = content
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_arrays(
        folder / GOLDEN,
        {
            "ids": tested.ids[kept.rows],
            "pixels": kept.pixels,
            "logits": predictor.logits(kept.pixels),
            "files": np.array(names),
        },
    )
    listed = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / RECORD, _record(run, parity, listed))
    for name in listed:
        sync(folder / name)


def _record(run: Run, parity: Parity, listed: dict[str, Any]) -> dict[str, Any]:
    """What bundle.json says."""
    made = run.provenance
    scores = run.metrics.test
    low, high = scores.interval
    return {
        "format": FORMAT,
        "name": run.name,
        "class_names": run.class_names,
        "side": made.data.side,
        "size": made.preprocess.size,
        "temperature": run.metrics.temperature,
        "threshold": threshold_of(run),
        "precision": "float32",
        "tolerance": TOLERANCE,
        "backbone": run.recipe.backbone.name,
        "model_sha256": file_sha256(run.path / BEST),
        "preprocess": asdict(made.preprocess),
        "weights": asdict(made.weights),
        "scores": {"images": scores.n, "accuracy": scores.accuracy, "low": low, "high": high},
        "parity": asdict(parity),
        "files": listed,
    }


def threshold_of(run: Run) -> float:
    return sure_from(run.predictions("val").tempered(run.metrics.temperature))


def sure_from(val: Predictions) -> float:
    """The least probability at which, or above which, SURE of the answers on validation are right.

    0 where all answers together are so good; 1 where no probability is enough.
    """
    sure = val.probabilities.max(axis=1)
    order = np.argsort(-sure, kind="stable")
    right = np.cumsum(val.correct[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(right >= SURE)
    if not len(good):
        return 1.0
    last = int(good[-1])
    return 0.0 if last == len(order) - 1 else float(sure[order[last]])


def _card(run: Run) -> str:
    return render_card(run) + USE


def _suffix(content: bytes) -> str:
    """That of an image file, by its first bytes."""
    known = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif",
             b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}  # fmt: skip
    return next((end for begin, end in known.items() if content.startswith(begin)), ".img")


def _require_replaceable(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        open_bundle(folder)
    except BundleError:
        if not (folder / RECORD).exists():
            raise RunError(
                f"{folder}: exists and is no bundle: choose another place with --out"
            ) from None


@contextmanager
def _published(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when all of it is written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(folder.parent, of=folder.name)
    partial = partial_path(folder)
    remove(partial)
    partial.mkdir()
    try:
        yield partial
        before = folder.with_name(f".{folder.name}.before.{partial.name.split('.')[-2]}.partial")
        if folder.exists():
            folder.replace(before)
        partial.replace(folder)
        sync(folder.parent)
        remove(before)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


EXAMPLE = '''"""Ask this bundle for the class of some pictures.

    pip install headstart-predict
    python example.py PHOTO...
"""

import sys
from pathlib import Path

from headstart_predict import load

predictor = load(Path(__file__).parent)
for answer in predictor.predict(sys.argv[1:]):
    print(f"{answer.image}: {answer.label} ({answer.probability:.1%})")
'''

USE = """
## This bundle

`model.onnx` takes uint8 pixels, `(n, side, side, 3)` in RGB, and gives `logits`, calibrated
`probabilities` and `features`. Resizing, scaling and the temperature are inside. `bundle.json` has
the classes in the order of its outputs, and the SHA-256 of every file.

    pip install headstart-predict
    headstart-predict BUNDLE PHOTO...
    headstart-predict BUNDLE --verify

An answer below the threshold in `bundle.json` is better called "not sure": of the validation
images, 95 % of the answers at or above it were right.
"""
