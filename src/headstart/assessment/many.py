"""What is written of a model whose images may have several labels: thresholds, predictions, scores.

The thresholds and the temperature are chosen on validation, of which a solved head has held-out
answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.many_labels import ManyPredictions
from headstart.evaluation.many_scores import score_many
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.thresholds import choose_thresholds
from headstart.rundir.records import ManyMetrics, Split


def with_thresholds(made: Mapping[Split, Predictions]) -> dict[Split, ManyPredictions]:
    """The predictions of both splits, with the thresholds that validation chooses."""
    chosen = choose_thresholds(made["val"].logits, made["val"].labels)
    return {
        split: replace(each, thresholds=chosen)
        for split, each in made.items()
        if isinstance(each, ManyPredictions)
    }


def many_metrics(made: Mapping[Split, ManyPredictions]) -> ManyMetrics:
    """The scores of both splits with the temperature that the model is served with."""
    temperature = fit_temperature(made["val"])
    return ManyMetrics(
        val=score_many(made["val"], temperature.value),
        test=score_many(made["test"], temperature.value),
        temperature=temperature.value,
        temperature_note=temperature.note,
    )
