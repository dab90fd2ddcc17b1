"""The output of `predict`: a model's answers as text and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.text.cards import grid, percent
from headstart.text.plain import as_csv

if TYPE_CHECKING:
    from headstart.deployment.predictor import Answer


def format_answers(answers: Sequence[Answer]) -> str:
    rows = []
    for answer in answers:
        (_, first), *rest = list(answer.probabilities.items())
        second = f"{rest[0][0]} {percent(rest[0][1])}" if rest else ""
        rows.append([answer.image, answer.label, percent(first), second])
    return grid(["image", "class", "sure", "next"], rows, "llrl")


def answers_as_csv(answers: Sequence[Answer], class_names: Sequence[str]) -> str:
    """A line for each image. A name that a spreadsheet would compute begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "probability", *map(as_csv, class_names)])
    for answer in answers:
        own = [f"{answer.probabilities[name]:.6f}" for name in class_names]
        writer.writerow(
            [as_csv(answer.image), as_csv(answer.label), f"{answer.probability:.6f}", *own]
        )
    return text.getvalue()
