"""The torch predictor: the model of a finished run, with its preprocessing, for new images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from headstart.deployment.finished import cuts_of, finished
from headstart.errors import PrecisionError
from headstart.machine.runtime import Runtime, create_runtime
from headstart.models.backbones import (
    Backbone,
    StagesError,
    build_architecture,
    compare_stages,
    without_initialization,
)
from headstart.models.classifier import Classifier, load_model
from headstart.models.heads import create_head
from headstart.rundir.run import Run
from headstart.views.transforms import Transform
from headstart_predict.answers import PictureClassifier
from headstart_predict.cards import Card
from headstart_predict.framing import CROP, Framing

BATCH = 32


class Predictor(PictureClassifier):
    """A trained model with its preprocessing, class names and temperature, run by torch."""

    batch = BATCH
    engine_name = "torch"

    def __init__(
        self,
        model: Classifier,
        transform: Transform,
        side: int,
        class_names: Sequence[str],
        runtime: Runtime,
        temperature: float = 1.0,
        thresholds: Sequence[float] | None = None,
        framing: Framing = CROP,
    ) -> None:
        super().__init__(class_names, side, temperature, thresholds, framing)
        self.model, self.transform, self._runtime = model, transform, runtime
        self._process = os.getpid()

    def _card(self) -> Card:
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        facts = [
            ("classes", f"{len(self.class_names)}: {names}"),
            ("backbone", self.model.backbone.name),
            ("pixels", f"{self.transform.preprocess.size} a side"),
            ("temperature", f"{self.temperature:.3g}"),
            ("device", str(self._runtime.device)),
        ]
        return Card("Predictor", facts)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes) for stored pixels, uint8 (n, side, side, 3); without temperature."""
        if self._process != os.getpid():
            # In a forked child OpenMP would wait for the threads of its parent.
            torch.set_num_threads(1)
            self._process = os.getpid()
        parts = []
        with torch.inference_mode(), self._runtime.autocast():
            for first in range(0, len(pixels), BATCH):
                chunk = pixels[first : first + BATCH]
                x = self.transform(self._runtime.place(chunk), np.zeros(len(chunk), np.uint64))
                parts.append(self.model(x).float().cpu().numpy())
        return np.concatenate(parts)


def load_predictor(
    source: Run | str | Path, *, device: str = "auto", precision: str | None = None
) -> Predictor:
    """The predictor of a finished run, from its directory alone: no hub, no cache, no data.

    precision: None for the run's. Raises RunError where the run is not finished or its model is
    damaged.
    """
    run = finished(source.path if isinstance(source, Run) else Path(source))
    return read_predictor(run, device=device, precision=precision)


def read_predictor(run: Run, *, device: str, precision: str | None = None) -> Predictor:
    """The predictor of a run whose model is saved. Raises RunError where that is damaged."""
    made, recipe = run.provenance, run.recipe
    with without_initialization():
        architecture = build_architecture(recipe.backbone.name, size=made.preprocess.size)
        backbone = Backbone(architecture, made.weights, made.preprocess)
        head = create_head(
            recipe.head, num_features=backbone.num_features, num_classes=len(run.class_names)
        )
    model = Classifier(backbone, head)
    load_model(run.path / "checkpoints" / "best.safetensors", model)
    try:
        compare_stages(backbone.eval(), made.preprocess.size)
    except StagesError:
        model = Classifier(Backbone(architecture, made.weights, made.preprocess), head)
    model.enter(0, 0)
    runtime = _runtime(device, precision or recipe.precision)
    runtime.adopt(model.eval())
    transform = Transform(made.preprocess, via=recipe.data.resize_via)
    names, served = run.class_names, (run.temperature, run.thresholds, recipe.data.framing)
    predictor = Predictor(model, transform, made.data.side, names, runtime, *served)
    predictor.cuts = cuts_of(run)
    return predictor


def _runtime(device: str, precision: str) -> Runtime:
    """A runtime in the run's precision where possible; int8 is for frozen passes only."""
    if precision != "int8":
        with contextlib.suppress(PrecisionError):
            return create_runtime(device, precision=precision)
    return create_runtime(device)
