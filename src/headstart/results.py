"""Results: what a trained run leaves behind. Test is opened here, once."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from headstart.comparison.cost import model_cost
from headstart.data import ImageSet, Splits
from headstart.evaluation.metrics import confident_mistakes, score
from headstart.evaluation.predictions import Predictions
from headstart.profiling import active_profile, section
from headstart.report import write_report
from headstart.rundir import Run, atomic_path, write_arrays, write_json
from headstart.runtime import peak_memory_mb
from headstart.training.phases import Training

SAMPLES, ANSWERS, MISTAKES, THUMBNAIL = 40, 24, 24, 96


def finish_run(training: Training) -> None:
    """Predictions, metrics, cost, pictures and the model; the status is written last."""
    current, recipe, model = training.run, training.recipe, training.model
    metrics = {}
    for split in ("val", "test"):
        predictions = training.predict(split)
        arrays = {f.name: getattr(predictions, f.name) for f in fields(predictions)}
        write_arrays(current.path / "predictions" / f"{split}.npz", arrays)
        metrics[split] = score(predictions).to_dict()
    write_json(current.path / "metrics.json", metrics)
    write_arrays(current.path / "pictures.npz", _pictures(training.splits, predictions))
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


def _times(current: Run, started: float) -> dict[str, Any]:
    """Seconds of the whole run, interrupted parts included, and what they went to."""
    log = current.log
    extracts = [e for e in log if e["event"] == "extract" and not e["cached"]]
    # A kill between an event and its checkpoint repeats the event: the last of its kind counts.
    done = {e["phase"]: e for e in log if e["event"] == "phase_done"}
    epochs = {(e["phase"], e["epoch"]): e for e in log if e["event"] == "epoch"}
    solved = [e for e in done.values() if e["l2"] is not None]
    trained = [*solved, *epochs.values()]
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
        "train_s": sum(e["seconds"] for e in trained),
        "phases": phases,
        "images_per_s": images / seconds if seconds else None,
        "peak_rss_mb": peak_memory_mb(),
    }


def _pictures(splits: Splits, test: Predictions) -> dict[str, np.ndarray]:
    """Thumbnails for the report: samples of train, answers on random test images, sure mistakes.

    The random ones are the lowest keys of each class, so that the runs of a study show the same.
    """
    samples = _balanced(splits.train, SAMPLES)
    shown = _balanced(splits.test, ANSWERS)
    wrong = confident_mistakes(test, MISTAKES)
    return {
        "sample_images": _thumbnails(splits.train, samples),
        "sample_labels": splits.train.labels[samples],
        "prediction_images": _thumbnails(splits.test, shown),
        "mistake_images": _thumbnails(splits.test, wrong),
        **_answers("prediction", test, shown),
        **_answers("mistake", test, wrong),
    }


def _answers(kind: str, test: Predictions, rows: np.ndarray) -> dict[str, np.ndarray]:
    predicted = test.predicted[rows]
    return {
        f"{kind}_ids": test.ids[rows],
        f"{kind}_labels": test.labels[rows],
        f"{kind}_predicted": predicted,
        f"{kind}_confidence": test.probabilities[rows, predicted].astype(np.float32),
    }


def _balanced(images: ImageSet, most: int) -> np.ndarray:
    """Rows of random images, as many of each class as of any other give or take one: int64.

    Random by key, and so is which classes get the one more.
    """
    order = np.argsort(images.keys, kind="stable")
    labels = images.labels[order]
    rank = np.zeros(len(order), np.int64)
    for label in np.unique(labels):
        own = labels == label
        rank[own] = np.arange(own.sum())
    return order[np.argsort(rank, kind="stable")][:most]


def _thumbnails(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    side = min(images.side, THUMBNAIL)
    if not len(rows):
        return np.zeros((0, side, side, 3), np.uint8)
    pixels = images.read(rows)
    if images.side == side:
        return pixels
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side))) for p in pixels])
