"""A bundle: an exported model with all that belongs to it, in one folder.

    bundle.json        what this module reads: classes, pixels, temperature, scores, and the size
                       and SHA-256 of every other file; written last
    model.onnx         uint8 pixels in; logits, calibrated probabilities and features out
    golden.npz         pixels of some test images, and the logits that the run gave for them
    golden/            the same images as files
    recipe.toml        the recipe of the run
    README.md          the model card
    example.py         how to ask it, in a few lines

Nothing is pickled, nothing in it is run, and no path in it leads elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart_predict.errors import BundleError
from headstart_predict.framing import CROP, FRAMINGS, Framing
from headstart_predict.plain import one_line
from headstart_predict.shapes import Cuts, Shape, shape_of

# Of format 1 no framing is said: its pictures are cropped. A reader of format 1 would crop those
# that are to be padded, and knows no image with several labels, so it must not read format 2.
FORMAT, READ = 2, (1, 2)
RECORD, MODEL, GOLDEN = "bundle.json", "model.onnx", "golden.npz"
# Names that a listed file may have: in the folder itself, or in golden/ within it.
_NAME = re.compile(r"(?:golden/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,100}")
_RECORD_BYTES, _FILE_BYTES, _ARRAY_BYTES = 2**24, 2**32, 2**28
_SIDES = range(1, 4097)
CONFIDENCE_STEPS = 20


@dataclass(frozen=True)
class Weights:
    """The pretrained weights that the model began with, and the licence they came under."""

    name: str
    tag: str
    provider: str
    licence: str
    source: str
    sha256: str | None  # None of random ones


@dataclass(frozen=True)
class Scores:
    """A score on `images` test images, with its 95 % interval: accuracy, or mAP where an image may
    have several labels, as `kind` says."""

    images: int
    accuracy: float
    low: float
    high: float
    kind: str = "accuracy"


@dataclass(frozen=True)
class Validation:
    """What the model's answers on validation images were: what later ones can be held against.

    mean_probability: of the answers. unsure: the share below the threshold. classes: the share of
    each class among the answers. confidence: the share of answers whose probability lies in each
    of CONFIDENCE_STEPS equal steps from 0 to 1.
    """

    images: int
    mean_probability: float
    unsure: float
    classes: tuple[float, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True)
class Listed:
    """A file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    side: pixels of the squares that go into the model; size: of those that its network sees.
    framing: how pictures become these squares (`framing.py`).
    threshold: an answer less probable than this is better called "not sure"; None where an image
    may have several labels. thresholds: then, the least probability of each label that an image
    has it; else None. tolerance: the largest difference of a probability between engines.
    """

    path: Path
    name: str
    class_names: tuple[str, ...]
    side: int
    size: int
    framing: Framing
    temperature: float
    threshold: float | None
    precision: str
    tolerance: float
    backbone: str
    model_sha256: str  # of the run's saved model, from which this one was made
    weights: Weights
    scores: Scores | None  # None of a run that has no test images
    files: dict[str, Listed]
    thresholds: tuple[float, ...] | None = None
    cuts: Cuts | None = None  # of two classes
    validation: Validation | None = None

    @property
    def shape(self) -> Shape:
        """What its logits mean."""
        return shape_of(self.temperature, self.thresholds)

    def read(self, name: str) -> bytes:
        """The content of a listed file. Raises BundleError where it is missing or was changed."""
        path, listed = self.path / name, self.files.get(name)
        if listed is None:
            raise BundleError(f"{path}: {RECORD} does not list it")
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise BundleError(f"{path}: not a regular file")
            if path.stat().st_size != listed.bytes:
                raise BundleError(f"{path}: damaged: its size is not that of {RECORD}")
            content = path.read_bytes()
        except FileNotFoundError:
            raise BundleError(f"{path}: missing: the bundle is incomplete") from None
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != listed.sha256:
            raise BundleError(f"{path}: damaged or changed: its SHA-256 is not that of {RECORD}")
        return content


@dataclass(frozen=True)
class Golden:
    """Test images with the logits that the run's model gave for them.

    ids: str (n,). pixels: uint8 (n, side, side, 3). logits: float32 (n, classes). files: the name
    in the bundle of each image's file.
    """

    ids: np.ndarray
    pixels: np.ndarray
    logits: np.ndarray
    files: tuple[str, ...]


def open_bundle(path: str | Path) -> Bundle:
    """Read and check bundle.json. Raises BundleError, in one line that says what is wrong."""
    folder = Path(path)
    record = folder / RECORD
    try:
        if not folder.is_dir():
            raise BundleError(f"{folder}: no such folder: give that of a bundle")
        with record.open("rb") as file:
            content = file.read(_RECORD_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(f"{folder}: not a bundle: it has no {RECORD}") from None
    except OSError as error:
        raise BundleError(f"{record}: cannot be read: {error.strerror}") from error
    try:
        if len(content) > _RECORD_BYTES:
            raise ValueError("too large")
        return _parse(folder, json.loads(content))
    except RecursionError:
        raise BundleError(f"{record}: damaged: nested too deeply") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{record}: damaged: {one_line(str(error))[:120]}") from error


def read_golden(bundle: Bundle) -> Golden:
    """The golden images. Raises BundleError where they are damaged."""
    where, content = bundle.path / GOLDEN, bundle.read(GOLDEN)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _ARRAY_BYTES:
                raise ValueError("too large")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            ids, pixels, logits = arrays["ids"], arrays["pixels"], arrays["logits"]
            files = tuple(map(str, arrays["files"]))
    except Exception as error:  # whatever numpy and zipfile meet first
        raise BundleError(f"{where}: damaged: not an archive of plain arrays") from error
    count, side, classes = len(files), bundle.side, len(bundle.class_names)
    shaped = (
        pixels.shape == (count, side, side, 3)
        and pixels.dtype == np.uint8
        and logits.shape == (count, classes)
        and logits.dtype == np.float32
        and ids.shape == (count,)
    )
    if not shaped or not set(files) <= bundle.files.keys():
        raise BundleError(f"{where}: damaged: its arrays do not fit the bundle")
    return Golden(ids, pixels, logits, files)


def _parse(folder: Path, record: Any) -> Bundle:
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise ValueError("it has no format number")
    if record["format"] not in READ:
        known = " and ".join(map(str, READ))
        raise BundleError(
            f"{folder}: a bundle of format {record['format']}; this version reads {known}"
        )
    many = "thresholds" in record
    names = _text_list(record, "class_names")
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError("class_names: two or more different names are needed")
    weights, scores = _table(record, "weights"), record["scores"]
    sha256 = weights["sha256"]
    bundle = Bundle(
        path=folder,
        name=_text(record, "name"),
        class_names=names,
        side=_side(record, "side"),
        size=_side(record, "size"),
        framing=CROP if record["format"] == 1 else _framing(record),
        temperature=_number(record, "temperature", 1e-6, 1e6),
        threshold=None if many else _number(record, "threshold", 0, 1),
        precision=_text(record, "precision"),
        tolerance=_number(record, "tolerance", 0, 1),
        backbone=_text(record, "backbone"),
        model_sha256=_text(record, "model_sha256"),
        weights=Weights(
            **{
                key: _text(weights, key) for key in ("name", "tag", "provider", "licence", "source")
            },
            sha256=None if sha256 is None else _text(weights, "sha256"),
        ),
        scores=None if scores is None else _scores(_table(record, "scores"), many),
        files={name: _listed(name, entry) for name, entry in _table(record, "files").items()},
        thresholds=_shares(record, "thresholds", len(names)) if many else None,
        cuts=_cuts(record["cuts"], names) if record.get("cuts") else None,
        validation=(
            _validation(_table(record, "validation"), len(names))
            if record.get("validation")
            else None
        ),
    )
    if missing := {MODEL, GOLDEN} - bundle.files.keys():
        raise ValueError(f"it does not list {', '.join(sorted(missing))}")
    return bundle


def _cuts(table: Any, names: Sequence[str]) -> Cuts:
    """Thresholds of two classes by name; optional."""
    if not isinstance(table, dict) or len(names) != 2 or table.get("positive") not in names:
        raise ValueError("cuts: the positive one of two classes is needed")
    given = _table(table, "thresholds")
    found = {one_line(name): _number(given, name, 0, 1) for name in given}
    return Cuts(list(names).index(table["positive"]), found)


def _validation(table: dict[str, Any], classes: int) -> Validation:
    """Optional."""
    images = table["images"]
    if not isinstance(images, int) or images < 1:
        raise ValueError("validation.images: a whole number above zero is needed")
    return Validation(
        images,
        _number(table, "mean_probability", 0, 1),
        _number(table, "unsure", 0, 1),
        _shares(table, "classes", classes),
        _shares(table, "confidence", CONFIDENCE_STEPS),
    )


def _shares(table: dict[str, Any], key: str, count: int) -> tuple[float, ...]:
    """So many numbers from 0 to 1."""
    values = table[key]
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{key}: {count} numbers are needed")
    return tuple(_number({key: value}, key, 0, 1) for value in values)


def _scores(table: dict[str, Any], many: bool) -> Scores:
    images = table["images"]
    if not isinstance(images, int) or images < 1:
        raise ValueError("scores.images: a whole number above zero is needed")
    key = "mean_ap" if many else "accuracy"
    value, low, high = (_number(table, name, 0, 1) for name in (key, "low", "high"))
    return Scores(images, value, low, high, "mAP" if many else "accuracy")


def _listed(name: str, entry: Any) -> Listed:
    if not _NAME.fullmatch(name) or name == RECORD:
        raise ValueError(f"files: {name[:60]}: not a name that a bundle's file can have")
    size, digest = entry["bytes"], entry["sha256"]
    if not isinstance(size, int) or not 0 <= size <= _FILE_BYTES:
        raise ValueError(f"files: {name}: its size is impossible")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"files: {name}: its SHA-256 is none")
    return Listed(size, digest)


def _table(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record[key]
    if not isinstance(value, dict):
        raise ValueError(f"{key}: a table is needed")
    return value


def _text(record: dict[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"{key}: a text is needed")
    return value


def _text_list(record: dict[str, Any], key: str) -> tuple[str, ...]:
    value = record[key]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key}: a list of texts is needed")
    return tuple(value)


def _number(record: dict[str, Any], key: str, low: float, high: float) -> float:
    value = record[key]
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{key}: a number from {low:g} to {high:g} is needed")
    return float(value)


def _framing(record: dict[str, Any]) -> Framing:
    value = record["framing"]
    if value not in FRAMINGS:
        raise ValueError(f"framing: {', '.join(FRAMINGS)} are known")
    return FRAMINGS[FRAMINGS.index(value)]


def _side(record: dict[str, Any], key: str) -> int:
    value = record[key]
    if not isinstance(value, int) or value not in _SIDES:
        raise ValueError(f"{key}: a number of pixels is needed")
    return value
