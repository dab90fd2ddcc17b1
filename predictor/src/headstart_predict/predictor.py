"""The predictor of a bundle: pictures in, named answers out, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart_predict import choosing, engines
from headstart_predict.answers import PictureClassifier
from headstart_predict.bundle import MODEL, Bundle, Golden, open_bundle, read_golden
from headstart_predict.cards import Card, percent
from headstart_predict.decode import decode_image
from headstart_predict.engines import Engine, PerProcess, usable_cores
from headstart_predict.errors import BundleError, DataError
from headstart_predict.onnx_file import ModelError, check_model
from headstart_predict.shapes import Shape

# What an engine is chosen for: one image on every core, or a series, a batch on each core.
ONE, MANY = "one", "many"


class BundlePredictor(PictureClassifier):
    """A bundle's model, run by the quickest engine that answers as it should.

    `logits` may be called by any thread, and in a child that was forked after a prediction.
    """

    # A core's cache holds the activations of so many images; each core has a batch of its own.
    batch = 8

    def __init__(self, bundle: Bundle, engine: str = "auto", threads: int | None = None) -> None:
        super().__init__(
            bundle.class_names, bundle.side, bundle.temperature, bundle.thresholds, bundle.framing
        )
        self.cuts = bundle.cuts
        self.bundle, self.threads = bundle, threads or usable_cores()
        self.workers = self.threads
        self.engine = engine
        self._engines, self._chosen = PerProcess(), dict[str, str]()
        self._start(ONE)  # damage is found before the first answer is asked for

    def _card(self) -> Card:
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        facts = [
            ("classes", f"{len(self.class_names)}: {names}"),
            ("backbone", self.bundle.backbone),
            ("pixels", f"{self.side} a side, framing {self.framing}"),
            ("temperature", f"{self.temperature:.3g}"),
            ("precision", self.bundle.precision),
        ]
        if self.bundle.scores:
            scores = self.bundle.scores
            facts.append((scores.kind, f"{percent(scores.accuracy)} of {scores.images:,} images"))
        return Card(f"Predictor of {self.bundle.name}", facts)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes) for uint8 (n, side, side, 3); without temperature."""
        return self._start(ONE).run(pixels)

    def logits_of_many(self, pixels: np.ndarray) -> np.ndarray:
        """The same, where every core is given a batch: each is computed on a thread of its own."""
        return self._start(MANY).run(pixels)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, features): what the last layer sees of uint8 (n, side, side, 3)."""
        return self._start(ONE).run(pixels, "features")

    def prepare_for_one(self) -> None:
        """Measure once on this machine which engine is the quickest for one image at a time."""
        self._choose(ONE)

    def prepare_for_many(self) -> None:
        """Before a long series: measure once on this machine which engine is the quickest."""
        self._choose(MANY)

    def verify(self, golden: Golden) -> Comparison:
        """Answer the golden images. Raises BundleError where an answer is not the saved one."""
        bundle = self.bundle
        # A few at a time: an engine keeps the memory of the largest batch that it has seen.
        found = in_batches(self._start(ONE), golden.pixels)
        compared = compare_logits(golden.ids, golden.logits, found, bundle.shape, bundle.tolerance)
        if compared.changed:
            raise BundleError(
                f"{bundle.path}: {len(compared.changed)} of {compared.images} golden images are "
                f"answered otherwise here, the worst is {compared.worst}: a probability differs by "
                f"{compared.largest:.2g}"
            )
        return compared

    @property
    def engine_name(self) -> str:  # type: ignore[override]  # it may change before a long series
        one, many = self._name(ONE), self._name(MANY)
        return one if one == many else f"{one}, and {many} for a series"

    def _streams(self, use: str) -> int:
        return 1 if use == ONE else self.workers

    def _name(self, use: str) -> str:
        """The engine that was asked for, or the one that this machine remembers as the quickest."""
        if self.engine != "auto":
            return self.engine
        if use not in self._chosen:
            self._chosen[use] = choosing.recall(self._key(use)) or choosing.FIRST
        return self._chosen[use]

    def _key(self, use: str) -> str:
        return choosing.key_of(self.bundle.files[MODEL].sha256, self.threads, use)

    def _start(self, use: str) -> Engine:
        name, streams = self._name(use), self._streams(use)

        def make() -> Engine:
            threads = max(self.threads // streams, 1)
            content, precision = _model(self.bundle), self.bundle.precision
            return engines.start(name, content, threads, streams, precision)

        return self._engines.get(f"{name} {streams}", make)

    def _choose(self, use: str) -> None:
        """Have the quickest engine answer; remembered for this model on this kind of machine."""
        if self.engine != "auto" or len(engines.installed()) < 2:
            return
        key, streams = self._key(use), self._streams(use)
        if not (name := choosing.recall(key)):
            golden = read_golden(self.bundle)
            started = choosing.start_agreeing(
                _model(self.bundle),
                max(self.threads // streams, 1),
                streams,
                self.bundle.precision,
                lambda engine: not compare(self.bundle, golden, engine).changed,
            )
            images = 1 if use == ONE else self.batch
            shape = (images, self.side, self.side, 3)
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            name = choosing.quickest(started, pixels, streams)
            choosing.remember(key, name)
        self._chosen[use] = name


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

    engine: onnxruntime, openvino, or auto: the quickest one that this machine remembers for this
    model, which it measures before a long series, else ONNX Runtime. threads: how many cores to
    use; all by default. Raises BundleError where the bundle is damaged, was changed or is of
    another format.
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
    found = in_batches(engine, golden.pixels)
    expected = golden.logits
    return compare_logits(golden.ids, expected, found, bundle.shape, bundle.tolerance)


def in_batches(engine: Engine, pixels: np.ndarray) -> np.ndarray:
    """An engine's logits for uint8 (n, side, side, 3), a few images at a time."""
    return np.concatenate([engine.run(pixels[i : i + 8]) for i in range(0, len(pixels), 8)])


def compare_logits(
    ids: np.ndarray,
    expected: np.ndarray,
    found: np.ndarray,
    shape: Shape,
    tolerance: float,
) -> Comparison:
    """Logits (n, classes) beside the expected ones, as calibrated probabilities."""
    apart = np.abs(shape.probabilities(found) - shape.probabilities(expected)).max(axis=1)
    apart[~np.isfinite(found).all(axis=1)] = np.inf
    wrong = shape.differ(found, expected, tolerance / 10) | (apart > tolerance)
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
            found = decode_image(opened.read(name), opened.side, opened.framing)
        except DataError as error:
            raise BundleError(f"{opened.path / name}: {error}") from error
        largest = max(largest, int(np.abs(found.astype(int) - pixels).max()))
    if largest > 2:  # versions of libjpeg differ by one or two of 255 levels
        raise BundleError(
            f"{opened.path}: its golden images decode to other pixels here, by up to {largest} of "
            "255 levels: another version of Pillow reads them otherwise"
        )
    return load(opened, engine=engine).verify(golden)
