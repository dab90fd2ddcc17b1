"""The predictor: the model of a finished run, with its preprocessing, for new images."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from headstart.data import UnreadableImageError, decode_image, describe_dark, find_images
from headstart.errors import DataError, PrecisionError, RunError
from headstart.evaluation.predictions import Predictions
from headstart.machine.runtime import Runtime, create_runtime
from headstart.models.backbones import (
    Backbone,
    StagesError,
    build_architecture,
    compare_stages,
)
from headstart.models.classifier import Classifier, load_model
from headstart.models.heads import create_head
from headstart.rundir.run import Run, open_run
from headstart.text.cards import Card, Shown, percent
from headstart.views.transforms import Transform

BATCH = 32


# The kinds of images that `predict` accepts.
Picture = str | Path | bytes | Image.Image | np.ndarray
_TAKES = (
    "a path, the bytes of a file, an image of Pillow, uint8 pixels (height, width, 3) or (height, "
    "width), a folder, or a list of these"
)


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """The model's answer for one image. probabilities: class name to probability, best first."""

    image: str
    label: str
    probability: float
    probabilities: dict[str, float]

    def _card(self) -> Card:
        facts = [(name, percent(p)) for name, p in list(self.probabilities.items())[:3]]
        return Card(f"Answer for {self.image}: {self.label}", facts)


class Predictor(Shown):
    """A trained model with its preprocessing, class names and temperature.

    temperature: logits are divided by it before they become probabilities, which calibrates them.
    It changes no answer.
    """

    def __init__(
        self,
        model: Classifier,
        transform: Transform,
        side: int,
        class_names: Sequence[str],
        runtime: Runtime,
        temperature: float = 1.0,
    ) -> None:
        self._model, self._transform, self._side = model, transform, side
        self.class_names = tuple(class_names)
        self._runtime, self.temperature = runtime, temperature

    def _card(self) -> Card:
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        facts = [
            ("classes", f"{len(self.class_names)}: {names}"),
            ("backbone", self._model.backbone.name),
            ("pixels", f"{self._transform.preprocess.size} a side"),
            ("temperature", f"{self.temperature:.3g}"),
            ("device", str(self._runtime.device)),
        ]
        return Card("Predictor", facts)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes) for stored pixels, uint8 (n, side, side, 3); without temperature."""
        parts = []
        with torch.inference_mode(), self._runtime.autocast():
            for first in range(0, len(pixels), BATCH):
                chunk = pixels[first : first + BATCH]
                x = self._transform(self._runtime.place(chunk), np.zeros(len(chunk), np.uint64))
                parts.append(self._model(x).float().cpu().numpy())
        return np.concatenate(parts)

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
        sources = _each_image(images)
        answers: list[Answer] = []
        dark: dict[str, int] = {}
        for first in range(0, len(sources), BATCH):
            names, pixels = [], []
            for number, source in enumerate(sources[first : first + BATCH], start=first):
                try:
                    name = _name(source, number)
                    note = partial(dark.__setitem__, name)
                    pixels.append(decode_image(source, self._side, note))
                    names.append(name)
                except UnreadableImageError as error:
                    if on_unreadable is None:
                        raise
                    on_unreadable(error)
            if not names:
                continue
            logits = self.logits(np.stack(pixels))
            unknown = np.zeros(len(names), np.int64)
            predictions = Predictions(np.array(names), unknown, logits).tempered(self.temperature)
            answers += map(self._answer, names, logits, predictions.probabilities)
        if dark:
            on_dark(describe_dark(dark))
        return answers

    def _answer(self, image: str, logits: np.ndarray, probabilities: np.ndarray) -> Answer:
        order = np.argsort(-logits, kind="stable")  # distinct logits may share a probability
        named = {self.class_names[i]: float(probabilities[i]) for i in order}
        best = self.class_names[order[0]]
        return Answer(image, best, named[best], named)


def _each_image(images: Any) -> list[Path | bytes | Image.Image]:
    """The arguments of `predict` as a list of images. Raises DataError for anything else."""
    single = isinstance(images, Picture) and getattr(images, "ndim", 0) < 4
    if not single and not isinstance(images, Iterable):
        raise DataError(f"predict() takes {_TAKES}, not {type(images).__name__}")
    sources: list[Path | bytes | Image.Image] = []
    for number, image in enumerate([images] if single else images):
        if isinstance(image, str | Path):
            sources += find_images([Path(image)])
        elif isinstance(image, np.ndarray):
            sources.append(_from_array(image, number))
        elif isinstance(image, bytes | Image.Image):
            sources.append(image)
        else:
            raise DataError(f"image {number}: predict() takes {_TAKES}, not {type(image).__name__}")
    return sources


def _from_array(pixels: np.ndarray, number: int) -> Image.Image:
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped or 0 in pixels.shape:
        raise DataError(
            f"image {number}: {pixels.dtype} pixels {pixels.shape}: give uint8, 0 to 255, as "
            "(height, width, 3) in RGB or (height, width) in grey"
        )
    return Image.fromarray(pixels)


def _name(source: Path | bytes | Image.Image, number: int) -> str:
    if isinstance(source, Path):
        return str(source)
    return str(getattr(source, "filename", "") or number)


def load_predictor(source: Run | str | Path, *, device: str = "auto") -> Predictor:
    """The predictor of a finished run, from its directory alone: no hub, no cache, no data.

    Raises RunError where the run is not finished or its model is damaged.
    """
    run = source if isinstance(source, Run) else open_run(source)
    if not run.finished:
        raise RunError(f"{run.path}: the run is {run.status}: finish it before predicting with it")
    return read_predictor(run, device=device)


def read_predictor(run: Run, *, device: str) -> Predictor:
    """The predictor of a run whose model is saved. Raises RunError where that is damaged."""
    made, recipe = run.provenance, run.recipe
    architecture = build_architecture(recipe.backbone.name, size=made.preprocess.size)
    backbone = Backbone(architecture, made.weights, made.preprocess)
    head = create_head(
        recipe.head, num_features=backbone.num_features, num_classes=len(run.class_names)
    )
    try:
        compare_stages(backbone.eval(), made.preprocess.size)
    except StagesError:
        backbone = Backbone(architecture, made.weights, made.preprocess)
    model = Classifier(backbone, head)
    model.enter(0, 0)
    load_model(run.path / "checkpoints" / "best.safetensors", model)
    runtime = _runtime(device, recipe.precision)
    runtime.adopt(model.eval())
    transform = Transform(made.preprocess, via=recipe.data.resize_via)
    temperature = run.metrics.temperature
    return Predictor(model, transform, made.data.side, run.class_names, runtime, temperature)


def _runtime(device: str, precision: str) -> Runtime:
    """A runtime in the run's precision where possible; int8 is for frozen passes only."""
    if precision != "int8":
        with contextlib.suppress(PrecisionError):
            return create_runtime(device, precision=precision)
    return create_runtime(device)
