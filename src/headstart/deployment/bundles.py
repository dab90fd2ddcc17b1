"""The folder of a bundle: every file of it, written at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.images import ImageSet, encode_png
from headstart.deployment.finished import MODEL as BEST
from headstart.deployment.finished import cuts_of
from headstart.deployment.golden import Kept
from headstart.deployment.parity import Parity
from headstart.deployment.reduced import Reduced, Version, describe_reduced
from headstart.errors import BundleError, RunError
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
from headstart.models.store import file_sha256
from headstart.report.card import render_card
from headstart.rundir.run import Run
from headstart_predict.bundle import (
    CONFIDENCE_STEPS,
    FORMAT,
    GOLDEN,
    MODEL,
    RECORD,
    Validation,
    open_bundle,
)

SURE = 0.95  # share of right answers that answers at the threshold or above shall have


@dataclass(frozen=True)
class Contents:
    """What is particular to a bundle.

    made: model.onnx, and the logits that are right for the golden images, `kept`. more: further
    files, by name. reduced: how it differs from float32; None in float32.
    """

    made: Version
    kept: Kept
    parity: Parity
    more: Mapping[str, bytes]
    reduced: Reduced | None = None


def publish(folder: Path, run: Run, contents: Contents, test: ImageSet | None) -> None:
    """Write a bundle to its place, all at once. A bundle that is there is replaced."""
    with _published(folder) as partial:
        _write(partial, run, contents, test)


def _write(folder: Path, run: Run, contents: Contents, test: ImageSet | None) -> None:
    """Every file of a bundle, its record last."""
    kept = contents.kept
    tested = run.predictions("test")
    files: dict[str, bytes] = {
        MODEL: contents.made.model,
        "recipe.toml": (run.path / "recipe.toml").read_bytes(),
        "README.md": (render_card(run) + _about(run, contents)).encode(),
        "example.py": (EXAMPLE_MANY if run.recipe.many_labels else EXAMPLE).encode(),
        **contents.more,
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
            "logits": contents.made.expected,
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
    write_json(folder / RECORD, _record(run, contents, listed))


def _record(run: Run, contents: Contents, listed: dict[str, Any]) -> dict[str, Any]:
    """What bundle.json says."""
    made = run.provenance
    return {
        "format": FORMAT,
        "name": run.name,
        "class_names": run.class_names,
        "side": made.data.side,
        "size": made.preprocess.size,
        "framing": run.recipe.data.framing,
        "temperature": run.temperature,
        **_answering(run),
        "precision": contents.made.precision,
        "tolerance": contents.made.tolerance,
        "backbone": run.recipe.backbone.name,
        "model_sha256": file_sha256(run.path / BEST),
        "preprocess": asdict(made.preprocess),
        "weights": asdict(made.weights),
        "scores": _scores(run),
        "validation": _validation(run),
        "parity": asdict(contents.parity),
        # Optional: a reader of this format that does not know it leaves it aside.
        "reduced": asdict(contents.reduced) if contents.reduced else None,
        "files": listed,
    }


def _answering(run: Run) -> dict[str, Any]:
    """From which probability on something is answered."""
    if run.recipe.many_labels:
        return {"thresholds": list(run.many_metrics.thresholds)}
    cuts = cuts_of(run)
    named = cuts and {"positive": run.class_names[cuts.positive], "thresholds": cuts.by_name}
    # Optional, as below.
    return {"threshold": threshold_of(run), **({"cuts": named} if named else {})}


def _scores(run: Run) -> dict[str, Any]:
    if run.recipe.many_labels:
        many = run.many_metrics.test
        low, high = many.interval
        return {"images": many.n, "mean_ap": many.mean_ap, "low": low, "high": high}
    scores = run.metrics.test
    low, high = scores.interval
    return {"images": scores.n, "accuracy": scores.accuracy, "low": low, "high": high}


def _validation(run: Run) -> dict[str, Any] | None:
    """What the answers on validation were; optional, as "reduced" is."""
    if run.recipe.many_labels:
        return None
    val = run.predictions("val").tempered(run.metrics.temperature)
    sure, answers = val.probabilities.max(axis=1), val.probabilities.argmax(axis=1)
    steps = np.histogram(sure, CONFIDENCE_STEPS, (0, 1))[0]
    found = Validation(
        images=len(sure),
        mean_probability=float(sure.mean()),
        unsure=float((sure < sure_from(val)).mean()),
        classes=tuple(np.bincount(answers, minlength=len(run.class_names)) / len(sure)),
        confidence=tuple(steps / len(sure)),
    )
    return asdict(found)


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


def _about(run: Run, contents: Contents) -> str:
    """What the card says of this bundle."""
    use = USE_MANY if run.recipe.many_labels else USE
    return use + (f"\n{describe_reduced(contents.reduced)}\n" if contents.reduced else "")


def _suffix(content: bytes) -> str:
    """That of an image file, by its first bytes."""
    known = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif",
             b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}  # fmt: skip
    return next((end for begin, end in known.items() if content.startswith(begin)), ".img")


def require_bundle(folder: Path) -> None:
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

EXAMPLE_MANY = EXAMPLE.replace("the class of", "the labels of").replace(
    "{answer.label} ({answer.probability:.1%})", "{', '.join(answer.labels)}"
)

USE = """
## This bundle

`model.onnx` takes uint8 pixels, `(n, side, side, 3)` in RGB, and gives `logits`, calibrated
`probabilities` and `features`. Resizing, scaling and the temperature are inside. `bundle.json` has
the classes in the order of its outputs, how a picture becomes such a square (`framing`), and the
SHA-256 of every file.

    pip install headstart-predict
    headstart-predict BUNDLE PHOTO...
    headstart-predict BUNDLE --verify

An answer below the threshold in `bundle.json` is better called "not sure": of the validation
images, 95 % of the answers at or above it were right.
"""

USE_MANY = """
## This bundle

`model.onnx` takes uint8 pixels, `(n, side, side, 3)` in RGB, and gives `logits`, calibrated
`probabilities` of each label by itself, and `features`. Resizing, scaling and the temperature are
inside. `bundle.json` has the labels in the order of its outputs, the threshold from which on each
is answered, chosen for its F1 on validation, and the SHA-256 of every file.

    pip install headstart-predict
    headstart-predict BUNDLE PHOTO...
    headstart-predict BUNDLE --verify
"""
