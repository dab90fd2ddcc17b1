"""What the service does for a request, whatever its address."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from headstart_predict.decode import decode_image
from headstart_predict.engines import usable_cores
from headstart_predict.errors import DataError
from headstart_predict.occlusion import covered, grid_of
from headstart_predict.serving import answering, gate
from headstart_predict.serving.bodies import read_pictures
from headstart_predict.serving.decisions import Decision, Decisions
from headstart_predict.serving.desk import Desk, unreadable
from headstart_predict.serving.hosting import Hosted, Models
from headstart_predict.serving.metrics import Metrics
from headstart_predict.serving.problems import RequestError
from headstart_predict.serving.settings import Settings

_UNSUPPORTED = "not in a supported image format"


class Service:
    """Everything that the addresses need. Loads all models: raises BundleError."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        lost = self.metrics.unlogged.inc
        self.decisions = Decisions(Path(settings.log), lost) if settings.log else None
        threads = settings.threads or max(1, usable_cores() // settings.workers)
        paths = [Path(path) for path in settings.bundles]
        self.models = Models(paths, threads, settings.engine, settings.limits, self._swapped)
        self.desk = Desk(threads, settings.limits, self.metrics)

    def _swapped(self, before: Hosted | None, after: Hosted | None, outcome: str) -> None:
        name = (after or before).name  # type: ignore[union-attr]  # never are both missing
        if after is None:
            gate.log.error(f"a new version is refused: {outcome}", extra={"facts": {"model": name}})
            self.metrics.swaps.labels(name, "refused").inc()
            return
        facts = {"model": name, "version": after.version, "engine": after.predictor.engine_name}
        gate.log.info(f"model {outcome}", extra={"facts": facts})
        self.metrics.models.labels(name, after.version).set(1)
        if before is not None:
            self.metrics.swaps.labels(name, "swapped").inc()
            self.metrics.models.labels(name, before.version).set(0)

    def model(self, name: str | None) -> Hosted:
        found = self.models.get(name)
        if found is None:
            known = ", ".join(model.name for model in self.models.all())[:300]
            raise RequestError(404, f"there is no such model: use one of: {known}")
        return found

    async def answer(
        self,
        request: Request,
        hosted: Hosted,
        top: int,
        threshold: float | None,
        cut: str | None,
    ) -> dict[str, Any]:
        """An AnswersOut for the pictures of a request. Raises RequestError."""
        least = answering.least_of(hosted, cut)
        contents = await read_pictures(request, self.settings.limits.images)
        request.state.images, request.state.model = len(contents), hosted.name
        outcomes = await self.desk.answer(hosted, contents)
        if bad := {i: each for i, each in enumerate(outcomes) if isinstance(each, DataError)}:
            raise _unreadable(bad, len(contents))
        logits = [each for each in outcomes if not isinstance(each, DataError)]
        answers = answering.answers_of(hosted, logits, top, threshold, least)
        self.metrics.images.labels(hosted.name, hosted.version).inc(len(answers))
        identifier = request.state.request_id
        if self.decisions:
            for each in answers:
                self.decisions.add(
                    Decision(
                        identifier,
                        each["image"],
                        hosted.name,
                        hosted.version,
                        tuple(each["labels"]),
                        each["probability"],
                        each["sure"],
                    )
                )
        return {
            "request_id": identifier,
            "model": answering.name_of(hosted),
            "answers": answers,
        }

    async def explain(self, request: Request, hosted: Hosted, label: str | None) -> dict[str, Any]:
        """An ExplanationOut for the picture of a request. Raises RequestError."""
        [content] = await read_pictures(request, 1)  # it costs as much as eighty answers
        predictor = hosted.predictor
        if label is not None and label not in predictor.class_names:
            raise RequestError(404, "label: the model has no such class: see /v1/models")
        request.state.images, request.state.model = 1, hosted.name
        try:
            pixels = await run_in_threadpool(
                decode_image, content, predictor.side, predictor.framing
            )
        except DataError as error:
            raise _unreadable({0: error}, 1) from None
        parts = await run_in_threadpool(covered, pixels)
        outcomes = await self.desk.answer(hosted, [pixels, *parts])
        logits = np.stack([each for each in outcomes if isinstance(each, np.ndarray)])
        row = int(logits[0].argmax()) if label is None else predictor.class_names.index(label)
        return {
            "request_id": request.state.request_id,
            "model": answering.name_of(hosted),
            "label": predictor.class_names[row],
            "grid": grid_of(float(logits[0, row]), logits[1:, row]).round(4).tolist(),
            "square": await run_in_threadpool(_as_png, pixels),
        }

    def close(self) -> None:
        self.models.stop_watching()
        self.desk.stop()
        if self.decisions:
            self.decisions.close()


def _unreadable(bad: dict[int, DataError], asked: int) -> RequestError:
    reasons = {number: unreadable(error) for number, error in bad.items()}
    first, reason = next(iter(reasons.items()))
    foreign = all(reason.startswith(_UNSUPPORTED) for reason in reasons.values())
    which = "the image" if asked == 1 else f"image {first}"
    more = f", and {len(bad) - 1} others" if len(bad) > 1 else ""
    return RequestError(
        415 if foreign else 422,
        f"{which} cannot be read{more}: {reason}",
        images=[{"image": number, "detail": reason} for number, reason in reasons.items()],
    )


def _as_png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
