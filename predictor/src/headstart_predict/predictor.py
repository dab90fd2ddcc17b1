"""The predictor of a bundle: pictures in, named answers out, without torch."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from headstart_predict import engines
from headstart_predict.answers import PictureClassifier, softmax
from headstart_predict.bundle import MODEL, Bundle, Golden, open_bundle, read_golden
from headstart_predict.cards import Card, percent
from headstart_predict.decode import decode_image
from headstart_predict.engines import Engine, PerProcess, usable_cores
from headstart_predict.errors import BundleError, DataError
from headstart_predict.onnx_file import ModelError, check_model

# Seconds for which each engine is measured, and by how much another one must be quicker than ONNX
# Runtime to be taken.
MEASURED_S, MARGIN = 0.4, 1.05
REMEMBERED = "engines.json"


class BundlePredictor(PictureClassifier):
    """A bundle's model, run by the quickest engine that answers as it should.

    `logits` may be called by any thread, and in a child that was forked after a prediction.
    """

    # A core's cache holds the activations of so many images; each core has a batch of its own.
    batch = 8

    def __init__(self, bundle: Bundle, engine: str = "auto", threads: int | None = None) -> None:
        super().__init__(bundle.class_names, bundle.side, bundle.temperature)
        self.bundle, self.threads = bundle, threads or usable_cores()
        self.workers = self.threads
        self.engine = engine
        self._engines = PerProcess()
        self._start(1)  # damage is found before the first answer is asked for

    def _card(self) -> Card:
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        facts = [
            ("classes", f"{len(self.class_names)}: {names}"),
            ("backbone", self.bundle.backbone),
            ("pixels", f"{self.side} a side"),
            ("temperature", f"{self.temperature:.3g}"),
            ("precision", self.bundle.precision),
        ]
        if self.bundle.scores:
            scores = self.bundle.scores
            facts.append(("accuracy", f"{percent(scores.accuracy)} of {scores.images:,} images"))
        return Card(f"Predictor of {self.bundle.name}", facts)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes) for uint8 (n, side, side, 3); without temperature."""
        return self._start(1).run(pixels)

    def logits_of_many(self, pixels: np.ndarray) -> np.ndarray:
        """The same, where every core is given a batch: each is computed on a thread of its own."""
        return self._start(self.workers).run(pixels)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, features): what the last layer sees of uint8 (n, side, side, 3)."""
        return self._start(1).run(pixels, "features")

    def prepare_for_many(self) -> None:
        """Before a long series: measure once on this machine which engine is the quickest."""
        if self.engine == "auto" and len(engines.installed()) > 1:
            self.engine = self._quickest()

    @property
    def engine_name(self) -> str:  # type: ignore[override]  # it may change before a long series
        return engines.NAMES[0] if self.engine == "auto" else self.engine

    def _start(self, streams: int) -> Engine:
        name = self.engine_name

        def make() -> Engine:
            threads = max(self.threads // streams, 1)
            return engines.start(name, _model(self.bundle), threads, streams)

        return self._engines.get(f"{name} {streams}", make)

    def _quickest(self) -> str:
        """The name of the engine; remembered for this model on this kind of machine."""
        key = hashlib.sha256(
            json.dumps([self.bundle.files[MODEL].sha256, self.threads, *_machine()]).encode()
        ).hexdigest()[:24]
        remembered = _recall()
        if (name := remembered.get(key)) in engines.installed():
            return str(name)
        pixels = np.random.default_rng(0).integers(
            0, 256, (self.batch, self.side, self.side, 3), np.uint8
        )
        rates = {}
        golden = read_golden(self.bundle)
        for name in engines.installed():
            engine = engines.start(name, _model(self.bundle), 1, self.workers)
            if name != engines.NAMES[0] and compare(self.bundle, golden, engine).changed:
                continue
            rates[name] = _rate(engine, pixels)
        best = max(rates, key=lambda name: rates[name])
        if rates[best] < MARGIN * rates[engines.NAMES[0]]:
            best = engines.NAMES[0]
        _remember({**remembered, key: best})
        return best


def _model(bundle: Bundle) -> bytes:
    content = bundle.read(MODEL)
    try:
        check_model(content)
    except ModelError as error:
        raise BundleError(f"{bundle.path / MODEL}: refused: {error}") from error
    return content


def load(
    bundle: str | Path | Bundle, *, engine: str = "auto", threads: int | None = None
) -> BundlePredictor:
    """The predictor of a bundle.

    engine: onnxruntime, openvino, or auto: ONNX Runtime, and before a long series the quickest one
    that is installed. threads: how many cores to use; all by default. Raises BundleError where the
    bundle is damaged, was changed or is of another format.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    return BundlePredictor(opened, engine, threads)


@dataclass(frozen=True)
class Comparison:
    """How an engine's answers lie beside those that were saved.

    largest: the largest difference of a probability, and the image that has it. changed: ids of
    images with another answer or a difference above the bundle's tolerance. images: how many.
    """

    images: int
    largest: float
    worst: str
    changed: tuple[str, ...]


def compare(bundle: Bundle, golden: Golden, engine: Engine) -> Comparison:
    """An engine's answers for the pixels of the golden images."""
    parts = [engine.run(golden.pixels[i : i + 8]) for i in range(0, len(golden.pixels), 8)]
    return compare_logits(bundle, golden.ids, golden.logits, np.concatenate(parts))


def compare_logits(
    bundle: Bundle, ids: np.ndarray, expected: np.ndarray, found: np.ndarray
) -> Comparison:
    """Logits (n, classes) beside the expected ones, as calibrated probabilities."""
    ours, theirs = (softmax(each / bundle.temperature) for each in (found, expected))
    apart = np.abs(ours - theirs).max(axis=1)
    apart[~np.isfinite(found).all(axis=1)] = np.inf
    # Where two classes are as good as equal, rounding decides between them.
    other = (found.argmax(axis=1) != expected.argmax(axis=1)) & (apart > bundle.tolerance / 10)
    wrong = other | (apart > bundle.tolerance)
    worst = int(apart.argmax())
    changed = tuple(map(str, ids[wrong]))
    return Comparison(len(ids), float(apart[worst]), str(ids[worst]), changed)


def verify(bundle: str | Path | Bundle, *, engine: str = "auto") -> Comparison:
    """Check every file's SHA-256, decode the golden images anew, and answer them.

    Raises BundleError where a file was changed, where an image decodes to other pixels here, or
    where the answers are not those that were saved.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    for name in opened.files:
        opened.read(name)
    golden = read_golden(opened)
    largest = 0
    for name, pixels in zip(golden.files, golden.pixels, strict=True):
        try:
            found = decode_image(opened.read(name), opened.side)
        except DataError as error:
            raise BundleError(f"{opened.path / name}: {error}") from error
        largest = max(largest, int(np.abs(found.astype(int) - pixels).max()))
    if largest > 2:  # versions of libjpeg differ by one or two of 255 levels
        raise BundleError(
            f"{opened.path}: its golden images decode to other pixels here, by up to {largest} of "
            "255 levels: another version of Pillow reads them otherwise"
        )
    predictor = load(opened, engine=engine)
    compared = compare_logits(opened, golden.ids, golden.logits, predictor.logits(golden.pixels))
    if compared.changed:
        raise BundleError(
            f"{opened.path}: {len(compared.changed)} of {compared.images} golden images are "
            f"answered otherwise here, the worst is {compared.worst}: a probability differs by "
            f"{compared.largest:.2g}"
        )
    return compared


def _rate(engine: Engine, pixels: np.ndarray) -> float:
    """Batches a second, one after the other."""
    engine.run(pixels)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < MEASURED_S or done < 3:
        engine.run(pixels)
        done += 1
    return done / spent


def _machine() -> Iterator[str]:
    yield platform.machine()
    yield platform.processor()
    for name in engines.installed():
        yield f"{name} {metadata.version(name)}"


def _remembered_at() -> Path:
    root = os.environ.get("HEADSTART_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / REMEMBERED
    return Path.home() / ".cache" / "headstart" / REMEMBERED


def _recall() -> dict[str, str]:
    try:
        found = json.loads(_remembered_at().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(found: dict[str, str]) -> None:
    """It only saves time: where it cannot be written, nothing is lost."""
    try:
        path = _remembered_at()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(path)
    except (OSError, RuntimeError):
        return
