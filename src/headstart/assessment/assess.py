"""Assessment of a trained model: predictions, scores and further measurements. Opens test, once.

An assessment measures one thing under one name, its key in metrics.json. A finished run can be
assessed again when its recipe asks for more. Nothing is trained then, and earlier results stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from headstart.assessment.corruptions import measure_corruptions
from headstart.assessment.few_labels import few_labels
from headstart.assessment.many import many_metrics, with_thresholds
from headstart.assessment.penultimate import Features, penultimate
from headstart.assessment.pictures import leave_pictures, mapped_rows
from headstart.assessment.repeated_folds import measure_folds
from headstart.data.check.duplicates import find_split_duplicates
from headstart.errors import RunError
from headstart.evaluation.calibration import Temperature, calibration, fit_temperature
from headstart.evaluation.duplicates import WithoutDuplicates, without_duplicates
from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.two_classes import positive_class
from headstart.files import to_json, write_arrays, write_json
from headstart.machine.host import peak_memory_mb
from headstart.models.anatomy import model_cost
from headstart.models.tensor_files import write_tensors
from headstart.plan.plan import Plan
from headstart.rundir.history import Extract, FewLabels
from headstart.rundir.records import Cost, Metrics, PhaseCost, Split, SplitScores
from headstart.rundir.run import Run
from headstart.specs import EvaluationSpec
from headstart.training.journal import Journal
from headstart.training.trainer import Trained


@dataclass(frozen=True)
class Assessment:
    """One measurement of a trained model.

    name: its key in metrics.json. asked: takes a recipe's evaluation table, returns the settings of
    this measurement, None where it is not asked for. measure: takes the model, its test
    predictions and the journal, and returns what metrics.json holds, None if nothing can be
    measured.
    """

    name: str
    asked: Callable[[EvaluationSpec], Any]
    measure: Callable[[Trained, Predictions, Journal], Any]


def _corruptions_asked(evaluation: EvaluationSpec) -> Any:
    severities = evaluation.corruptions
    return [severities, evaluation.corrupted_images] if severities else None


def _label_efficiency(trained: Trained, test: Predictions, journal: Journal) -> Any:
    """On test where the head is the only phase. Otherwise no test image passes the frozen backbone,
    and the curve is the one on validation that was logged after the first phase."""
    if len(trained.plan.phases) == 1:
        return few_labels(trained, "test")
    return journal.run.history.label_efficiency


def _folds_asked(evaluation: EvaluationSpec) -> Any:
    return [evaluation.folds, evaluation.fold_repeats] if evaluation.folds else None


ASSESSMENTS = [
    Assessment("corruptions", _corruptions_asked, measure_corruptions),
    Assessment("label_efficiency", lambda spec: spec.label_efficiency or None, _label_efficiency),
    Assessment("folds", _folds_asked, measure_folds),
]


def note_label_efficiency(number: int, trained: Trained, journal: Journal) -> None:
    """After the first of several phases, log the label-efficiency curve on validation."""
    plan = trained.plan
    if number or len(plan.phases) == 1 or not plan.recipe.evaluation.label_efficiency:
        return
    if curve := few_labels(trained, "val"):
        journal.run.append_log(FewLabels(curve))


def assess(trained: Trained, journal: Journal) -> None:
    """Predictions, metrics, pictures, the model and its cost, written to the run's directory."""
    plan, run = trained.plan, journal.run
    predictions: dict[Split, Predictions] = {"val": trained.predict("val")}
    with penultimate(trained.model, mapped_rows(plan.splits.test)) as features:
        predictions["test"] = trained.predict("test")
    if plan.recipe.many_labels:
        many = with_thresholds(predictions)
        _save_predictions(run, many)
        write_json(run.place("metrics.json"), many_metrics(many))
        _leave_model(trained, journal)
        return
    _save_predictions(run, predictions)
    results = _further(trained, predictions["test"], journal, {}, None)
    metrics = _metrics(plan, predictions, results)
    write_json(run.place("metrics.json"), metrics)
    _leave(trained, predictions["test"].tempered(metrics.temperature), features, journal)


def _save_predictions(run: Run, predictions: Mapping[Split, Predictions]) -> None:
    for split, made in predictions.items():
        arrays = {f.name: getattr(made, f.name) for f in fields(made)}
        write_arrays(run.place(f"predictions/{split}.npz"), arrays)


def joined(before: EvaluationSpec, now: EvaluationSpec) -> EvaluationSpec:
    """All that the old or the new recipe asks for, so that a finished run loses no result."""
    corrupted = now if now.corruptions else before
    folded = now if now.folds else before
    return now.model_copy(
        update={
            "label_efficiency": now.label_efficiency or before.label_efficiency,
            "corruptions": corrupted.corruptions,
            "corrupted_images": corrupted.corrupted_images,
            "folds": folded.folds,
            "fold_repeats": folded.fold_repeats,
        }
    )


def assess_again(trained: Trained, before: EvaluationSpec, journal: Journal) -> None:
    """Measure what the recipe of a finished run now asks for and did not ask for `before`."""
    run, made = journal.run, journal.run.metrics
    predictions: dict[Split, Predictions] = {
        "val": run.predictions("val"),
        "test": run.predictions("test"),
    }
    known = {**made.further, "corruptions": made.corruptions,
             "label_efficiency": made.label_efficiency, "folds": made.folds}  # fmt: skip
    known = {name: result for name, result in known.items() if result is not None}
    results = _further(trained, predictions["test"], journal, known, before)
    write_json(run.place("metrics.json"), _metrics(trained.plan, predictions, results))


def _further(
    trained: Trained,
    test: Predictions,
    journal: Journal,
    known: Mapping[str, Any],
    before: EvaluationSpec | None,
) -> dict[str, Any]:
    """Each assessment's result by name. A known result is kept where its settings are the same."""
    results = {}
    for each in ASSESSMENTS:
        asked = each.asked(trained.plan.recipe.evaluation)
        same = before is not None and (asked is None or asked == each.asked(before))
        if same and each.name in known:
            results[each.name] = known[each.name]
        elif asked is not None and (result := each.measure(trained, test, journal)) is not None:
            results[each.name] = result
    return results


def _leave(trained: Trained, test: Predictions, features: Features, journal: Journal) -> None:
    """Write the pictures, the model and the cost. test: calibrated predictions."""
    leave_pictures(trained, test, features, journal)
    _leave_model(trained, journal)


def _leave_model(trained: Trained, journal: Journal) -> None:
    """Write the model and the cost."""
    plan, model, run = trained.plan, trained.model, journal.run
    model.enter(0, 0)
    plan.runtime.adopt(model)
    state = model.state_dict()
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise RunError(f"the trained model holds NaN or infinity in {name}: lower the rate")
    best = run.place("checkpoints/best.safetensors")
    write_tensors(best, state, {})
    write_json(run.place("cost.json"), _cost(trained, journal, best))


def _cost(trained: Trained, journal: Journal, saved: Path) -> Cost:
    """The cost of the run. The cost of serving is measured later, in a process of its own."""
    plan, history = trained.plan, journal.run.history
    times, counted = _times(journal.run), model_cost(trained.model, plan.size)
    begun = history.begun.values()
    return Cost(
        wall_s=time.perf_counter() - journal.started,
        extract_s=times.extract_s,
        train_s=times.train_s,
        spared_s=times.spared_s,
        alone_s=times.alone_s,
        phases=times.phases,
        images_per_s=times.images_per_s,
        peak_rss_mb=peak_memory_mb(),
        parameters=counted.parameters,
        macs=counted.macs,
        size_mb=counted.size_mb,
        file_mb=saved.stat().st_size / 1e6,
        trainable_parameters=max((event.trainable_parameters for event in begun), default=0),
        device=plan.runtime.device.type,
        threads=torch.get_num_threads(),
        latency_ms=None,
        throughput=None,
        serving_rss_mb=None,
        measured=None,
        cuda=None,
        not_measured=None,
    )


def _metrics(
    plan: Plan, predictions: Mapping[Split, Predictions], results: Mapping[str, Any]
) -> Metrics:
    """Scores of each split with the temperature that the model is served with.

    The temperature is fitted on validation, so calibration looks too good there, but not on test.
    results: each assessment's result by name.
    """
    positive = positive_class(plan.splits.class_names, plan.recipe.evaluation.positive)
    temperature = fit_temperature(predictions["val"])
    duplicates, test = find_split_duplicates(plan.splits, "test"), predictions["test"]
    unseen = None
    if duplicates.kept.any():
        unseen = without_duplicates(test, duplicates.duplicated, duplicates.source, duplicates.kept)
    own = ("corruptions", "label_efficiency", "folds")
    return Metrics(
        val=split_scores(predictions["val"], temperature, positive),
        test=split_scores(test, temperature, positive, unseen),
        temperature=temperature.value,
        temperature_note=temperature.note,
        corruptions=results.get("corruptions"),
        label_efficiency=results.get("label_efficiency"),
        folds=results.get("folds"),
        further={name: to_json(result) for name, result in results.items() if name not in own},
    )


def split_scores(
    made: Predictions,
    temperature: Temperature,
    positive: int,
    unseen: WithoutDuplicates | None = None,
) -> SplitScores:
    """Scores of one split. unseen: scores without the images that have a duplicate in training."""
    served = made.tempered(temperature.value)
    scores = score(served, positive=positive)
    return SplitScores(
        **{f.name: getattr(scores, f.name) for f in fields(scores)},
        calibration=calibration(made),
        calibrated=calibration(served),
        without_duplicates=unseen,
    )


@dataclass(frozen=True)
class _Times:
    """Seconds, as `Cost` has them."""

    extract_s: float
    train_s: float
    spared_s: float
    alone_s: float
    phases: tuple[PhaseCost, ...]
    images_per_s: float | None


def _times(current: Run) -> _Times:
    """The seconds of the whole run by kind of work, interrupted parts included."""
    history = current.history
    passes = history.passes
    solved = [done for done in history.done.values() if done.l2 is not None]
    of_phases = [*solved, *history.heads, *history.restarts, *history.epochs]
    phases = tuple(
        PhaseCost(
            phase=number + 1,
            train=phase.train,
            extract_s=sum(each.seconds for each in passes if each.phase == number),
            train_s=sum(each.seconds for each in of_phases if each.phase == number),
        )
        for number, phase in enumerate(current.recipe.phases)
    )
    extract_s = sum(each.seconds for each in passes)
    own = {each.entry for each in passes}
    entry_seconds = {each.entry: each.entry_seconds for each in history.every(Extract)}
    spared_s = sum((seconds for entry, seconds in entry_seconds.items() if entry not in own), 0.0)
    train_s = sum(each.seconds for each in of_phases)
    # Images that passed the whole backbone: in frozen passes, or in training on pixels.
    images, seconds = sum(each.images for each in passes), extract_s
    if not passes:
        pixels = {begun.phase for begun in history.begun.values() if not begun.cached}
        fitted = [epoch for epoch in history.epochs if epoch.phase in pixels]
        images = current.provenance.data.counts.train * len(fitted)
        seconds = sum(epoch.seconds for epoch in fitted)
    return _Times(
        extract_s=extract_s,
        train_s=train_s,
        spared_s=spared_s,
        alone_s=sum(entry_seconds.values()) + train_s,
        phases=phases,
        images_per_s=images / seconds if seconds else None,
    )
