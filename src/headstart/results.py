"""Results: what a trained run leaves behind. Test is opened here, once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from safetensors.torch import save_file

from headstart.comparison.cost import model_cost
from headstart.data.leakage import find_overlap
from headstart.evaluation.calibration import calibration, fit_temperature
from headstart.evaluation.leakage import without_duplicates
from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.two_classes import positive_class
from headstart.pictures import leave_pictures, mapped_rows
from headstart.profiling import active_profile, section
from headstart.report import write_report
from headstart.rundir import Run, atomic_path, write_arrays, write_json
from headstart.runtime import peak_memory_mb
from headstart.training.penultimate import penultimate
from headstart.training.phases import Training
from headstart.training.robustness import measure_robustness


def finish_run(training: Training) -> None:
    """Predictions, metrics, cost, pictures and the model; the status is written last."""
    current, recipe, model = training.run, training.recipe, training.model
    predictions = {"val": training.predict("val")}
    with penultimate(model, mapped_rows(training.splits.test)) as features:
        predictions["test"] = training.predict("test")
    for split, made in predictions.items():
        arrays = {f.name: getattr(made, f.name) for f in fields(Predictions)}
        write_arrays(current.path / "predictions" / f"{split}.npz", arrays)
    positive = positive_class(training.splits.class_names, recipe.evaluation.positive)
    metrics = _metrics(predictions, positive)
    overlap = find_overlap(training.splits, "test")
    if overlap.kept.any():
        metrics["test"]["without_duplicates"] = without_duplicates(
            predictions["test"], overlap.leaking, overlap.source, overlap.kept
        )
    if recipe.evaluation.corruptions:
        metrics["robustness"] = measure_robustness(training, predictions["test"])
    if curve := training.label_efficiency():
        metrics["label_efficiency"] = curve
    write_json(current.path / "metrics.json", metrics)
    leave_pictures(training, predictions["test"].tempered(metrics["temperature"]), features)
    model.enter(0, 0)
    training.runtime.adopt(model)
    best = current.path / "checkpoints" / "best.safetensors"
    with atomic_path(best) as partial:
        state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, partial)
    # What it costs to serve is measured afterwards, in a process that has nothing else to do.
    cost = {
        **_times(current, training.started),
        **model_cost(model, training.transform.preprocess.size),
        "file_mb": best.stat().st_size / 1e6,
        "trainable_parameters": max(
            (e["trainable_parameters"] for e in current.log if e["event"] == "phase"), default=0
        ),
        "device": training.runtime.device.type,
        "threads": torch.get_num_threads(),
    }
    write_json(current.path / "cost.json", cost)
    (current.path / "profile.json").unlink(missing_ok=True)  # of an attempt that was cut off
    report = current.path / "report" / "report.html"
    with section("report"):
        write_report([current], report, title=recipe.name)
    if profile := active_profile():
        # It has to hold the report's own time, and the report has to show it.
        write_json(current.path / "profile.json", profile.as_dict())
        write_report([current], report, title=recipe.name)
    current.update_manifest(status="finished")
    training.checkpoint.unlink(missing_ok=True)


def _metrics(predictions: Mapping[str, Predictions], positive: int) -> dict[str, Any]:
    """Scores of each split as the model is served, and the temperature that it is served with.

    It is fitted on validation: what it does there is flattered, what it does on test is not.
    """
    temperature = fit_temperature(predictions["val"])
    metrics: dict[str, Any] = {
        split: {
            **score(made.tempered(temperature.value), positive=positive).to_dict(),
            "calibration": calibration(made).to_dict(),
            "calibrated": calibration(made.tempered(temperature.value)).to_dict(),
        }
        for split, made in predictions.items()
    }
    metrics["temperature"] = temperature.value
    if temperature.note:
        metrics["temperature_note"] = temperature.note
    return metrics


def _times(current: Run, started: float) -> dict[str, Any]:
    """Seconds of the whole run, interrupted parts included, and what they went to.

    wall_s, extract_s and train_s were really spent. spared_s: of frozen passes that another run had
    left in the cache. alone_s: frozen passes and training as they would be with an empty cache, by
    which runs can be compared.
    """
    log = current.kept_log
    extracts = [e for e in log if e["event"] == "extract" and not e["cached"]]
    # A kill between an event and its checkpoint repeats the event: the last of its kind counts.
    done = {e["phase"]: e for e in log if e["event"] == "phase_done"}
    epochs = {(e["phase"], e["epoch"]): e for e in log if e["event"] == "epoch"}
    restarts = {(e["phase"], e["lr"]): e for e in log if e["event"] == "restart"}
    solved = [e for e in done.values() if e["l2"] is not None]
    # Heads that a phase starts from, or that are fitted to all images in the end.
    heads = {(e["event"], e["phase"]): e for e in log if e["event"] in ("start", "refit")}
    trained = [*solved, *heads.values(), *restarts.values(), *epochs.values()]
    phases = [
        {
            "phase": number + 1,
            "train": phase.train,
            "extract_s": sum(e["seconds"] for e in extracts if e["phase"] == number),
            "train_s": sum(e["seconds"] for e in trained if e["phase"] == number),
        }
        for number, phase in enumerate(current.recipe.phases)
    ]
    extract_s = sum(e["seconds"] for e in extracts)
    own = {e["entry"] for e in extracts}
    found = {e["entry"]: e["entry_seconds"] for e in log if e["event"] == "extract"}
    spared_s = sum(seconds for entry, seconds in found.items() if entry not in own)
    train_s = sum(e["seconds"] for e in trained)
    # Images that went through the backbone from their pixels: frozen passes, or training on them.
    images, seconds = sum(e["images"] for e in extracts), extract_s
    if not extracts:
        pixels = {e["phase"] for e in log if e["event"] == "phase" and not e["cached"]}
        fitted = [e for (phase, _), e in epochs.items() if phase in pixels]
        images = current.manifest["data"]["counts"]["train"] * len(fitted)
        seconds = sum(e["seconds"] for e in fitted)
    return {
        "wall_s": time.perf_counter() - started,
        "extract_s": extract_s,
        "train_s": train_s,
        "spared_s": spared_s,
        "alone_s": sum(found.values()) + train_s,
        "phases": phases,
        "images_per_s": images / seconds if seconds else None,
        "peak_rss_mb": peak_memory_mb(),
    }
