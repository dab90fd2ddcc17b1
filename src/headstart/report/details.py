"""One run as the page shows it: curves, confusion, classes, mistakes, recipe, identity.

Each part is made from the file that holds it and left out where that file is missing, so that a
failed or interrupted run still shows everything it got to.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from PIL import Image

from headstart.errors import HeadstartError
from headstart.report import formats, plots
from headstart.rundir import Run

MATRIX_CLASSES = 20  # beyond this many, a confusion matrix says less than its largest entries
PAIRS = 12
MISTAKES = 12
SAMPLES = 30
_LARGEST_SIDE = 128  # of a picture in the page, pixels

Measure = Literal["loss", "accuracy"]
_NAMES: dict[Measure, str] = {"loss": "Loss", "accuracy": "Accuracy"}


def optional(read: Callable[[], Any], default: Any) -> Any:
    """What `read` gives, or `default` where the run has not got that far."""
    try:
        return read()
    except (HeadstartError, KeyError):
        return default


def manifest_of(run: Run) -> dict[str, Any]:
    return dict(optional(lambda: run.manifest, {}))


def describe_run(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template needs to draw one run's section."""
    manifest = manifest_of(run)
    scores = optional(lambda: run.metrics, {}).get("test") or {}
    confusion = np.asarray(scores.get("confusion", []), dtype=np.int64)
    names = class_names(run, classes=len(confusion))
    return {
        "phases": _phases(run),
        "figures": figures(run.log),
        "fitted": any(event["event"] == "epoch" for event in run.log),
        "classes": _class_rows(scores.get("per_class", []), names),
        "macro_f1": scores.get("macro_f1"),
        "matrix": _matrix(confusion, names) if 0 < len(confusion) <= MATRIX_CLASSES else None,
        "pairs": _pairs(confusion, names) if len(confusion) > MATRIX_CLASSES else [],
        "answers": _answers(run, names),
        "mistakes": _mistakes(run, names),
        "recipe": _recipe_text(run),
        "identity": _identity(manifest, run),
        "profile": optional(lambda: run.profile, {}),
        "notes": list(manifest.get("notes", [])),
        "n": scores.get("n"),
        "row": row,
    }


def class_names(run: Run, classes: int = 0) -> list[str]:
    """The run's class names, or numbers where it did not get to know them."""
    known: list[str] = [str(name) for name in optional(lambda: run.class_names, [])]
    return known + [str(k) for k in range(len(known), classes)]


def samples(run: Run) -> list[dict[str, str]]:
    """A few labelled pictures of the data, the same number of each class, in class order."""
    pictures = run.pictures
    if "sample_images" not in pictures:
        return []
    labels = pictures["sample_labels"]
    turn = np.array([np.sum(labels[:k] == label) for k, label in enumerate(labels)])
    chosen = np.lexsort((labels, turn))[:SAMPLES]
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    names = class_names(run)
    return [
        {"name": _name(names, labels[k]), "uri": data_uri(pictures["sample_images"][k])}
        for k in chosen
    ]


def data_uri(pixels: np.ndarray) -> str:
    """A picture as a data URI: PNG while it is tiny and every pixel counts, JPEG above."""
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    if max(image.size) <= 40:
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=86, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figures(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plots of training that a log gives: a path for each solved head, curves over epochs."""
    measures: tuple[Measure, ...] = ("loss", "accuracy")
    drawn: list[dict[str, Any]] = []
    starts = {event["phase"]: event for event in log if event["event"] == "phase"}
    for phase in sorted(starts):
        solves = _latest(log, "solve", "l2", phase)
        if len(solves) > 1:
            chosen, where = (
                _done(log, phase).get("l2"),
                f"phase {phase + 1}: {_title(starts[phase])}",
            )
            drawn += [
                {"title": f"{_NAMES[m]} by penalty, {where}", "svg": _path(solves, chosen, m)}
                for m in measures
            ]
    if any(event["event"] == "epoch" for event in log):
        drawn += [
            {"title": f"{_NAMES[m]} by epoch", "svg": _curves(log, starts, m)} for m in measures
        ]
    return [figure for figure in drawn if figure["svg"]]


def _path(
    solves: Sequence[Mapping[str, Any]], chosen: float | None, measure: Measure
) -> Markup | None:
    lines: list[plots.Series] = []
    for kind in ("train", "val"):
        given = [(float(s["l2"]), _value(s, kind, measure)) for s in solves]
        points = [point for point in given if math.isfinite(point[1])]
        tips = [_tip(kind, f"L2 {formats.general(px)}", py, measure) for px, py in points]
        lines.append(plots.Series(kind, points, tips))
    if not any(line.points for line in lines):
        return None
    return plots.path_panel(
        lines, chosen=chosen, name=_NAMES[measure], percent=measure == "accuracy"
    )


def _curves(
    log: Sequence[Mapping[str, Any]], starts: Mapping[int, Mapping[str, Any]], measure: Measure
) -> Markup | None:
    """Epochs of all phases in a row; a solved phase is one dot: the answer it chose."""
    spans: list[plots.Span] = []
    series: list[plots.Series] = []
    solved_width = max(1.0, 0.08 * sum(event["event"] == "epoch" for event in log))
    at = 0.0
    for number, phase in enumerate(sorted(starts), start=1):
        epochs, solved = _latest(log, "epoch", "epoch", phase), _chosen(log, phase)
        width = float(len(epochs)) if epochs else solved_width
        if not epochs and not solved:
            continue
        if not epochs and not spans:
            at = -width  # a solved head first stands left of zero, so that epochs count from there
        title = _title(starts[phase])
        placed = [(at + k, e, f", epoch {k}") for k, e in enumerate(epochs, start=1)]
        for kind in ("train", "val"):
            shown = [
                (px, py, _tip(kind, title + where, py, measure))
                for px, event, where in placed or [(at + width / 2, solved[0], ", solved")]
                if math.isfinite(py := _value(event, kind, measure))
            ]
            points, tips = [(px, py) for px, py, _ in shown], [tip for _, _, tip in shown]
            series.append(plots.Series(kind, points, tips))
        kept = _kept(at, _done(log, phase).get("best_epoch"), series[-1].points)
        spans.append(plots.Span(at, at + width, number, title, kept))
        at += width
    if not any(line.points for line in series):
        return None
    return plots.curve_panel(series, spans, name=_NAMES[measure], percent=measure == "accuracy")


def _kept(
    start: float, best_epoch: int | None, points: Sequence[tuple[float, float]]
) -> tuple[float, float] | None:
    """The validation point of the epoch that a fitted phase kept."""
    if best_epoch is None:
        return None
    return next((p for p in points if p[0] == start + best_epoch + 1), None)


def _chosen(log: Sequence[Mapping[str, Any]], phase: int) -> list[Mapping[str, Any]]:
    """The solution that a solved phase went on with."""
    l2 = _done(log, phase).get("l2")
    return [solve for solve in _latest(log, "solve", "l2", phase) if solve["l2"] == l2]


def _latest(
    log: Sequence[Mapping[str, Any]], event: str, key: str, phase: int
) -> list[Mapping[str, Any]]:
    """The events of a phase in the order of `key`; of two the later: a resumed run repeats."""
    found = {e[key]: e for e in log if e["event"] == event and e["phase"] == phase}
    return [found[k] for k in sorted(found)]


def _done(log: Sequence[Mapping[str, Any]], phase: int) -> Mapping[str, Any]:
    done = [e for e in log if e["event"] == "phase_done" and e["phase"] == phase]
    return done[-1] if done else {}


def _value(event: Mapping[str, Any], kind: str, measure: Measure) -> float:
    """The measured value, NaN where there is none: a run that diverged must still have a page."""
    value = event.get(f"{kind}_{measure}")
    return math.nan if value is None else float(value) * (100 if measure == "accuracy" else 1)


def _tip(kind: str, where: str, value: float, measure: Measure) -> str:
    shown = f"{value:.1f} %" if measure == "accuracy" else f"{value:.4f}"
    return f"{kind}, {where}: {shown}"


def _title(start: Mapping[str, Any]) -> str:
    return str(start.get("train", "")).replace("_", " ")


def _phases(run: Run) -> list[dict[str, Any]]:
    rows = []
    starts = {event["phase"]: event for event in run.log if event["event"] == "phase"}
    for phase in sorted(starts):
        start, done = starts[phase], _done(run.log, phase)
        epochs = len(_latest(run.log, "epoch", "epoch", phase))
        solved = len(_latest(run.log, "solve", "l2", phase))
        best = done.get("best_epoch")
        chosen = f"epoch {best + 1}" if best is not None else ""
        if done.get("l2") is not None:
            chosen = f"L2 {formats.general(done['l2'])}"
        where = str(start.get("boundary", "")) + (", cached" if start.get("cached") else "")
        rows.append(
            {
                "number": phase + 1,
                "train": _title(start),
                "optimizer": start.get("optimizer", ""),
                "boundary": where,
                "trainable": start.get("trainable_parameters"),
                "length": f"{epochs} epochs" if epochs else f"{solved} solutions" if solved else "",
                "chosen": chosen,
                "val_loss": done.get("val_loss"),
                "val_accuracy": done.get("val_accuracy"),
                "seconds": done.get("seconds"),
            }
        )
    return rows


def _class_rows(per_class: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Any]:
    return [{"name": name, **row} for name, row in zip(names, per_class, strict=False)]


def _matrix(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Counts with a shade: right answers by share of their row, wrong ones by the largest share."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    off = shares[~np.eye(len(shares), dtype=bool)]
    largest = max(float(off.max(initial=0.0)), 0.05)
    scale = np.where(np.eye(len(shares), dtype=bool), 1.0, largest)
    shades = np.round(shares / scale, 2)
    rows = [
        {
            "name": names[true],
            "cells": [
                {
                    "count": int(n),
                    "right": true == predicted,
                    "shade": float(shades[true, predicted]),
                }
                for predicted, n in enumerate(row)
            ],
        }
        for true, row in enumerate(confusion)
    ]
    return {"names": list(names), "rows": rows}


def _pairs(confusion: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The classes most often taken for one another, both directions apart."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    flat = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    found = []
    for true, predicted in zip(*np.unravel_index(flat, wrong.shape), strict=True):
        n = int(wrong[true, predicted])
        total = int(confusion[true].sum())
        if n:
            found.append(
                {"true": names[true], "predicted": names[predicted], "count": n, "of": total,
                 "share": n / total}
            )  # fmt: skip
    return found


def _mistakes(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    pictures = run.pictures
    if "mistake_images" not in pictures:
        return []
    surest = np.argsort(-pictures["mistake_confidence"], kind="stable")[:MISTAKES]
    return [_answer(pictures, "mistake", k, names) for k in surest]


def _answers(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """Random test images with their answers, in class order; older runs have none."""
    pictures = run.pictures
    if "prediction_ids" not in pictures:
        return []
    order = np.argsort(pictures["prediction_labels"], kind="stable")
    return [_answer(pictures, "prediction", k, names) for k in order]


def share_pictures(sections: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Give each answer's picture an id, and return the pictures by it.

    The runs of a study answer for the same images, so the page holds each picture once.
    """
    known: dict[str, str] = {}
    for section in sections:
        for answer in section["answers"]:
            answer["picture"] = known.setdefault(answer["uri"], f"picture-{len(known) + 1}")
    return {name: uri for uri, name in known.items()}


def _answer(
    pictures: Mapping[str, np.ndarray], kind: str, row: int, names: Sequence[str]
) -> dict[str, Any]:
    true, predicted = (pictures[f"{kind}_{part}"][row] for part in ("labels", "predicted"))
    return {
        "id": str(pictures[f"{kind}_ids"][row]),
        "uri": data_uri(pictures[f"{kind}_images"][row]),
        "true": _name(names, true),
        "predicted": _name(names, predicted),
        "right": bool(true == predicted),
        "confidence": float(pictures[f"{kind}_confidence"][row]),
    }


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _recipe_text(run: Run) -> str:
    path = run.path / "recipe.toml"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _identity(manifest: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """What it takes to tell this run from any other, and to do it again."""
    weights = manifest.get("weights") or {}
    data = manifest.get("data") or {}
    pre = manifest.get("preprocess") or {}
    cost = optional(lambda: run.cost, {})
    versions = manifest.get("versions") or {}
    named = [weights.get(key) for key in ("provider", "name", "tag")]
    shown = {
        "Run fingerprint": manifest.get("fingerprint"),
        "Weights": " / ".join(str(part) for part in named if part),
        "Weights SHA-256": weights.get("sha256"),
        "Weights licence": weights.get("licence"),
        "Weights source": weights.get("source"),
        "Data": data.get("source"),
        "Data fingerprint": data.get("fingerprint"),
        "Preprocessing": _preprocessing(pre),
        "Threads": cost.get("threads"),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": manifest.get("commit"),
        "Created": manifest.get("created"),
    }
    return [(label, str(value)) for label, value in shown.items() if value not in (None, "")]


def _preprocessing(pre: Mapping[str, Any]) -> str:
    parts = [f"{pre['size']} pixels"] if "size" in pre else []
    parts += [str(pre["interpolation"])] if pre.get("interpolation") else []
    for key in ("mean", "std"):
        if key in pre:
            values = pre[key] if isinstance(pre[key], Sequence) else [pre[key]]
            parts.append(f"{key} {', '.join(f'{v:.4g}' for v in values)}")
    return "; ".join(parts)
