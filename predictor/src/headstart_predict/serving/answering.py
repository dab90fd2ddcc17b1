"""Answers as the service gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from headstart_predict.answers import Answer
from headstart_predict.errors import HeadstartError
from headstart_predict.serving.hosting import Hosted
from headstart_predict.serving.problems import RequestError

TOP = 5

Probability = Annotated[float, Field(ge=0, le=1)]


class ModelName(BaseModel):
    """Which model has answered."""

    id: str = Field(description="Its name.")
    version: str = Field(description="The first letters of bundle_sha256.")
    bundle_sha256: str = Field(description="SHA-256 of bundle.json, which has that of every file.")


class Guess(BaseModel):
    """A class and its calibrated probability."""

    label: str
    probability: Probability


class AnswerOut(BaseModel):
    """The answer for one image."""

    image: int = Field(description="Its number in the request, from 0.")
    label: str | None = Field(description="The answer; null where no label reaches its threshold.")
    labels: list[str] = Field(description="All labels; one, unless the model is of several labels.")
    probability: Probability = Field(description="Of the label.")
    sure: bool = Field(description="Whether the probability reaches the threshold.")
    top: list[Guess] = Field(description="The most probable classes.")


class AnswersOut(BaseModel):
    """The answers for all images of a request, in their order."""

    request_id: str
    model: ModelName
    answers: list[AnswerOut]


class ExplanationOut(BaseModel):
    """Where the model looked."""

    request_id: str
    model: ModelName
    label: str = Field(description="The class that this is about.")
    grid: list[list[Probability]] = Field(
        description="How much each place of the square matters for the class: rows from the top, 1 "
        "where it matters the most."
    )
    square: str = Field(description="What the model sees: a PNG in base64.")


class ModelOut(ModelName):
    """A model, and what it can."""

    classes: list[str]
    several_labels: bool
    threshold: float | None = Field(description="From which probability on an answer is sure.")
    thresholds: list[float] | None = Field(
        description="Of several labels: the least probability of each, in the order of classes."
    )
    cuts: dict[str, float] = Field(description="Of two classes: thresholds by name.")
    positive: str | None = Field(description="Of two classes: the one that `cut` is about.")
    backbone: str
    precision: str
    framing: str
    side: int = Field(description="Pixels a side of what the model sees.")
    score: dict[str, Any] | None = Field(description="On test images, with its 95 % interval.")
    weights: dict[str, Any] = Field(description="The pretrained weights, with their licence.")
    engine: str
    validation: dict[str, Any] | None = Field(description="What its answers on validation were.")
    card: str = Field(description="The model card, in Markdown.")


class ModelsOut(BaseModel):
    """All models, the first one answers where a request names none."""

    models: list[ModelOut]


class ProblemOut(BaseModel):
    """Why there is no answer (RFC 9457)."""

    type: str
    title: str | None = None
    status: int
    detail: str = Field(description="One line that says what would work.")
    request_id: str | None = None
    images: list[dict[str, Any]] | None = Field(
        None, description="Of several images those that cannot be read: number and reason."
    )


def name_of(hosted: Hosted) -> dict[str, str]:
    return {"id": hosted.name, "version": hosted.version, "bundle_sha256": hosted.sha256}


def describe(hosted: Hosted) -> dict[str, Any]:
    """A ModelOut."""
    predictor, bundle = hosted.predictor, hosted.predictor.bundle
    cuts = bundle.cuts
    return {
        **name_of(hosted),
        "classes": list(bundle.class_names),
        "several_labels": bundle.thresholds is not None,
        "threshold": bundle.threshold,
        "thresholds": list(bundle.thresholds) if bundle.thresholds else None,
        "cuts": dict(cuts.by_name) if cuts else {},
        "positive": bundle.class_names[cuts.positive] if cuts else None,
        "backbone": bundle.backbone,
        "precision": bundle.precision,
        "framing": bundle.framing,
        "side": bundle.size,
        "score": vars(bundle.scores) if bundle.scores else None,
        "weights": vars(bundle.weights),
        "engine": predictor.engine_name,
        "validation": vars(bundle.validation) if bundle.validation else None,
        "card": hosted.card,
    }


def answers_of(
    hosted: Hosted,
    logits: Sequence[np.ndarray],
    top: int,
    threshold: float | None,
    least: float | None,
) -> list[dict[str, Any]]:
    """An AnswerOut for each row of logits. least: of two classes, that of the positive one."""
    bundle = hosted.predictor.bundle
    sure_from = bundle.threshold or 0.0 if threshold is None else threshold
    found = [hosted.predictor.answer(str(i), row, least) for i, row in enumerate(logits)]
    return [_answer(number, answer, top, sure_from) for number, answer in enumerate(found)]


def least_of(hosted: Hosted, cut: str | None) -> float | None:
    """What a cut means. Raises RequestError for one that the model has not."""
    if cut is None:
        return None
    try:
        return hosted.predictor.least_of(cut)
    except HeadstartError as error:
        raise RequestError(409, f"cut: {str(error)[:300]}") from None


def _answer(number: int, answer: Answer, top: int, sure_from: float) -> dict[str, Any]:
    guesses = list(answer.probabilities.items())[:top]
    return {
        "image": number,
        "label": answer.label or None,
        "labels": list(answer.labels),
        "probability": answer.probability,
        "sure": answer.probability >= sure_from,
        "top": [{"label": label, "probability": value} for label, value in guesses],
    }
