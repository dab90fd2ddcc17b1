"""Answers of a model: what a classifier of pictures takes and gives, whichever engine runs it."""

from __future__ import annotations

import csv
import io
import itertools
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart_predict.cards import Card, Shown, grid, percent
from headstart_predict.decode import UnreadableImageError, decode_image, describe_dark
from headstart_predict.errors import DataError, HeadstartError
from headstart_predict.framing import CROP, Framing
from headstart_predict.plain import as_csv
from headstart_predict.shapes import Cuts, ManyLabels, shape_of
from headstart_predict.walking import find_images

SECOND = 1  # the number of the positive class where nothing says another one
LONG = 500  # images; before a longer series it pays to measure what is quickest

# The kinds of images that `predict` accepts.
Picture = str | Path | bytes | Image.Image | np.ndarray
Source = Path | bytes | Image.Image
_TAKES = (
    "a path, the bytes of a file, an image of Pillow, uint8 pixels (height, width, 3) or (height, "
    "width), a folder, or a list of these"
)


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """The model's answer for one image. label: the most probable class, unless `answer_from` sets
    a threshold. probability: of the label. probabilities: class name to probability, best first."""

    image: str
    label: str
    probability: float
    probabilities: dict[str, float]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the image, the most probable first."""
        return (self.label,)

    def to_json(self) -> dict[str, Any]:
        """As plain values, for --json."""
        return dict(vars(self))

    def _card(self) -> Card:
        facts = [(name, percent(p)) for name, p in list(self.probabilities.items())[:3]]
        return Card(f"Answer for {self.image}: {', '.join(self.labels) or 'no label'}", facts)


@dataclass(frozen=True, repr=False)
class ManyAnswer(Answer):
    """The answer of a model whose images may have several labels.

    found: the labels whose probabilities reach their thresholds, the most probable first. label:
    the first of them, or "" where there is none. probability: of the most probable class, found or
    not. probabilities: of each class by itself, the highest first.
    """

    found: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.found

    def to_json(self) -> dict[str, Any]:
        own = {name: self.probabilities[name] for name in self.found}
        return {"image": self.image, "labels": own, "probabilities": self.probabilities}


class PictureClassifier(Shown):
    """What every predictor does alike: it takes pictures of any kind and gives named answers.

    side: pixels along each side of the squares that `logits` takes. temperature: logits are divided
    by it before they become probabilities, which calibrates them. It changes no answer.
    thresholds: the least probability of each label, where an image may have several; None where it
    has one. framing: how pictures become squares (`framing.py`). shape: what the logits mean. A
    subclass computes the logits; `batch` images at once are quick, and `workers` batches at a time.
    engine_name: the library that computes.
    """

    engine_name = ""
    batch = 32
    workers = 1
    cuts: Cuts | None = None  # of two classes
    _least: float | None = None

    def __init__(
        self,
        class_names: Sequence[str],
        side: int,
        temperature: float,
        thresholds: Sequence[float] | None = None,
        framing: Framing = CROP,
    ) -> None:
        self.class_names, self.side, self.temperature = tuple(class_names), side, temperature
        self.shape, self.framing = shape_of(temperature, thresholds), framing

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes) for uint8 (n, side, side, 3); without temperature."""
        raise NotImplementedError

    def logits_of_many(self, pixels: np.ndarray) -> np.ndarray:
        """The same for a batch of a long series; `workers` threads call it at once."""
        return self.logits(pixels)

    def logits_of_series(self, pixels: np.ndarray) -> np.ndarray:
        """The same for many images, in batches that share out the cores."""
        parts = [pixels[first : first + self.batch] for first in range(0, len(pixels), self.batch)]
        if len(parts) < 2:
            return self.logits(pixels)
        if self.workers == 1:
            return np.concatenate([self.logits_of_many(part) for part in parts])
        with ThreadPoolExecutor(self.workers, "predict") as pool:
            return np.concatenate(list(pool.map(self.logits_of_many, parts)))

    def prepare_for_one(self) -> None:
        """Called before images that are asked one at a time, where it pays to measure first."""

    def prepare_for_many(self) -> None:
        """Called before a series of more than LONG images."""

    def answer_from(self, threshold: float | str) -> None:
        """With two classes: answer with the positive one from this probability on, and with the
        other one below it, from now on.

        threshold: as for `least_of`, which says what is refused.
        """
        self._least = self.least_of(threshold)

    def least_of(self, threshold: float | str) -> float:
        """The least probability with which the positive one of two classes is answered.

        threshold: 0 to 1, also as text, or a name in `cuts`, such as "recall95". Without `cuts` the
        second class is the positive one. Raises HeadstartError where there are not two classes, or
        no threshold of this name.
        """
        if len(self.class_names) != 2 or isinstance(self.shape, ManyLabels):
            raise HeadstartError(
                "a threshold is for two classes that exclude each other; this model has "
                f"{len(self.class_names)}"
            )
        known = dict(self.cuts.by_name) if self.cuts else {}
        try:
            least = known[str(threshold)] if threshold in known else float(threshold)
        except ValueError:
            least = math.nan
        if not 0 <= least <= 1:
            names = f", or one of: {', '.join(known)}" if known else ""
            raise HeadstartError(f"threshold {threshold}: give a number from 0 to 1{names}")
        return least

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        on_unreadable: Callable[[DataError], None] | None = None,
        on_dark: Callable[[str], None] = warnings.warn,
    ) -> list[Answer]:
        """Answers in the order of the images; a single image gives a list of one.

        An image is a path, the bytes of an image file, an image that Pillow has opened, or pixels
        as a uint8 array: (height, width, 3) in RGB, or (height, width) in grey. A folder means
        every image below it, in the order of their paths; an array (n, height, width, 3) means n
        images. Answers are named after the file, or have the image's number, from 0.

        An image that cannot be read is left out, and `on_unreadable` is called with its DataError;
        without `on_unreadable` the error is raised. Anything that is no image raises DataError, and
        so does a lack of memory. on_dark: called with a line about pictures of 16 bits that are
        nearly black, as 12-bit values are: of these any answer is a guess.
        """
        return list(self.stream(images, on_unreadable=on_unreadable, on_dark=on_dark))

    def stream(
        self,
        images: Picture | Iterable[Picture],
        *,
        on_unreadable: Callable[[DataError], None] | None = None,
        on_dark: Callable[[str], None] = warnings.warn,
    ) -> Iterator[Answer]:
        """As `predict`, one answer after the other, for any number of images: few batches are in
        memory at a time. Decoding and computing overlap."""
        dark: dict[str, int] = {}
        yield from self._stream(images, on_unreadable, dark)
        if dark:
            on_dark(describe_dark(dark))

    def _stream(
        self,
        images: Picture | Iterable[Picture],
        on_unreadable: Callable[[DataError], None] | None,
        dark: dict[str, int],
    ) -> Iterator[Answer]:
        numbered = enumerate(_each_image(images))
        head = _look_ahead(numbered, self.batch)
        if len(head) <= self.batch:  # no thread is worth its start
            yield from _readable(self._answer_batch(head, self.logits, dark), on_unreadable)
            return
        if len(head) > LONG:
            self.prepare_for_many()
        batches = _batches(itertools.chain(head, numbered), self.batch)
        work = partial(self._answer_batch, compute=self.logits_of_many, dark=dark)
        with ThreadPoolExecutor(self.workers, "predict") as pool:
            under_way: deque[Future[list[Answer | DataError]]] = deque()
            try:
                for batch in batches:
                    under_way.append(pool.submit(work, batch))
                    if len(under_way) > 2 * self.workers:
                        yield from _readable(under_way.popleft().result(), on_unreadable)
                while under_way:
                    yield from _readable(under_way.popleft().result(), on_unreadable)
            finally:
                for left in under_way:
                    left.cancel()

    def _answer_batch(
        self,
        batch: Sequence[tuple[int, Source]],
        compute: Callable[[np.ndarray], np.ndarray],
        dark: dict[str, int],
    ) -> list[Answer | DataError]:
        """An answer for each picture, or the error of one that cannot be read. dark: takes the
        largest value of each that is nearly black."""
        found: list[DataError | None] = []
        names, pixels = [], []
        for number, source in batch:
            name = name_of(source, number)
            try:
                is_dark = partial(dark.__setitem__, name)
                pixels.append(decode_image(source, self.side, self.framing, is_dark))
            except UnreadableImageError as error:
                found.append(error)
                continue
            found.append(None)
            names.append(name)
        logits = iter(compute(np.stack(pixels)) if pixels else ())
        answers = map(self.answer, names, logits)
        return [next(answers) if error is None else error for error in found]

    def answer(self, image: str, logits: np.ndarray, least: float | None = None) -> Answer:
        """The answer that logits (classes,) mean. least: of two classes, the least probability of
        the positive one; that of `answer_from` where it is None."""
        least = self._least if least is None else least
        probabilities = self.shape.probabilities(logits.astype(np.float64))
        order = np.argsort(-logits, kind="stable")  # distinct logits may share a probability
        named = {self.class_names[i]: float(probabilities[i]) for i in order}
        best = self.class_names[order[0]]
        if isinstance(self.shape, ManyLabels):
            there = self.shape.found(logits.astype(np.float64))
            found = tuple(self.class_names[i] for i in order if there[i])
            return ManyAnswer(image, "".join(found[:1]), named[best], named, found)
        if least is not None:
            positive = self.cuts.positive if self.cuts else SECOND
            reached = probabilities[positive] >= least
            best = self.class_names[positive if reached else 1 - positive]
        return Answer(image, best, named[best], named)


def _readable(
    found: Sequence[Answer | DataError], on_unreadable: Callable[[DataError], None] | None
) -> Iterator[Answer]:
    for each in found:
        if isinstance(each, Answer):
            yield each
        elif on_unreadable is None:
            raise each
        else:
            on_unreadable(each)


def _look_ahead(numbered: Iterator[tuple[int, Source]], few: int) -> list[tuple[int, Source]]:
    """The first images: more than LONG if there are so many paths, else more than `few`, since
    pictures that are open take memory."""
    head = []
    for number, source in numbered:
        head.append((number, source))
        if len(head) > (LONG if isinstance(source, Path) else few):
            break
    return head


def _batches(
    numbered: Iterable[tuple[int, Source]], size: int
) -> Iterator[list[tuple[int, Source]]]:
    rest = iter(numbered)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _each_image(images: Any) -> Iterator[Source]:
    """The arguments of `predict`, image by image. Raises DataError for anything else."""
    single = isinstance(images, Picture) and getattr(images, "ndim", 0) < 4
    if not single and not isinstance(images, Iterable):
        raise DataError(f"predict() takes {_TAKES}, not {type(images).__name__}")
    for number, image in enumerate([images] if single else images):
        if isinstance(image, str | Path):
            yield from find_images([Path(image)])
        elif isinstance(image, np.ndarray):
            yield _from_array(image, number)
        elif isinstance(image, bytes | Image.Image):
            yield image
        else:
            raise DataError(f"image {number}: predict() takes {_TAKES}, not {type(image).__name__}")


def _from_array(pixels: np.ndarray, number: int) -> Image.Image:
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped or 0 in pixels.shape:
        raise DataError(
            f"image {number}: {pixels.dtype} pixels {pixels.shape}: give uint8, 0 to 255, as "
            "(height, width, 3) in RGB or (height, width) in grey"
        )
    return Image.fromarray(pixels)


def name_of(source: Source, number: int) -> str:
    if isinstance(source, Path):
        return str(source)
    return str(getattr(source, "filename", "") or number)


def format_answers(answers: Sequence[Answer]) -> str:
    """A table for people: the answer, how sure it is, and the next class; of several labels, all of
    them, and the most probable class that is not among them."""
    if any(isinstance(answer, ManyAnswer) for answer in answers):
        return _format_many(answers)
    rows = []
    for answer in answers:
        rest = [each for each in answer.probabilities.items() if each[0] != answer.label]
        second = f"{rest[0][0]} {percent(rest[0][1])}" if rest else ""
        rows.append([answer.image, answer.label, percent(answer.probability), second])
    return grid(["image", "class", "sure", "next"], rows, "llrl")


def _format_many(answers: Sequence[Answer]) -> str:
    rows = []
    for answer in answers:
        sure = [f"{name} {percent(answer.probabilities[name])}" for name in answer.labels]
        others = (name for name in answer.probabilities if name not in answer.labels)
        rest = next(others, None)
        below = f"{rest} {percent(answer.probabilities[rest])}" if rest is not None else ""
        rows.append([answer.image, ", ".join(sure) or "(no label)", below])
    return grid(["image", "labels", "next"], rows, "lll")


def csv_lines(
    answers: Iterable[Answer], class_names: Sequence[str], *, many: bool = False
) -> Iterator[str]:
    """A header, and a line for each image, with their ends. A name that a spreadsheet would compute
    begins with an apostrophe. many: whether an image may have several labels, which are then in one
    cell, separated by |."""
    own_header = ["labels"] if many else ["label", "probability"]
    yield _csv_line(["image", *own_header, *map(as_csv, class_names)])
    for answer in answers:
        own = [f"{answer.probabilities[name]:.6f}" for name in class_names]
        if many:
            yield _csv_line([as_csv(answer.image), as_csv("|".join(answer.labels)), *own])
            continue
        yield _csv_line(
            [as_csv(answer.image), as_csv(answer.label), f"{answer.probability:.6f}", *own]
        )


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
