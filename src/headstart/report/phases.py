"""How a run was trained, from its log: phases with their times, and the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from headstart.report import formats, lines
from headstart.report.contenders import optional
from headstart.rundir import Run

Measure = Literal["loss", "accuracy"]
_NAMES: dict[Measure, str] = {"loss": "Loss", "accuracy": "Accuracy"}


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
    drawn: list[lines.Series] = []
    for kind in ("train", "val"):
        given = [(float(s["l2"]), _value(s, kind, measure)) for s in solves]
        points = [point for point in given if math.isfinite(point[1])]
        tips = [_tip(kind, f"L2 {formats.general(px)}", py, measure) for px, py in points]
        drawn.append(lines.Series(kind, points, tips))
    if not any(line.points for line in drawn):
        return None
    return lines.path_panel(
        drawn, chosen=chosen, name=_NAMES[measure], percent=measure == "accuracy"
    )


def _curves(
    log: Sequence[Mapping[str, Any]], starts: Mapping[int, Mapping[str, Any]], measure: Measure
) -> Markup | None:
    """Epochs of all phases in a row; a solved phase is one dot: the answer it chose."""
    spans: list[lines.Span] = []
    series: list[lines.Series] = []
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
            series.append(lines.Series(kind, points, tips))
        kept = _kept(at, _done(log, phase).get("best_epoch"), series[-1].points)
        spans.append(lines.Span(at, at + width, number, title, kept))
        at += width
    if not any(line.points for line in series):
        return None
    return lines.curve_panel(series, spans, name=_NAMES[measure], percent=measure == "accuracy")


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


def describe_phases(run: Run) -> list[dict[str, Any]]:
    """A row a phase: what it trained, what it chose, what it took."""
    rows = []
    spent = {p["phase"]: p for p in optional(lambda: run.cost, {}).get("phases") or []}
    log = run.kept_log
    starts = {event["phase"]: event for event in log if event["event"] == "phase"}
    for phase in sorted(starts):
        start, done = starts[phase], _done(log, phase)
        epochs = len(_latest(log, "epoch", "epoch", phase))
        solved = len(_latest(log, "solve", "l2", phase))
        best = done.get("best_epoch")
        chosen = f"epoch {best + 1}" if best is not None else ""
        if done.get("l2") is not None:
            chosen = f"L2 {formats.general(done['l2'])}"
        if done.get("bettered") is False:
            chosen = "its start"
        length = f"{epochs} epochs" if epochs else f"{solved} solutions" if solved else ""
        if lowered := {e["lr"] for e in log if e["event"] == "restart" and e["phase"] == phase}:
            length += f", at a rate of {formats.general(min(lowered))} after higher ones"
        where = str(start.get("boundary", "")) + (", cached" if start.get("cached") else "")
        rows.append(
            {
                "number": phase + 1,
                "train": _title(start),
                "optimizer": start.get("optimizer", ""),
                "boundary": where,
                "trainable": start.get("trainable_parameters"),
                "length": length,
                "chosen": chosen,
                "val_loss": done.get("val_loss"),
                "val_accuracy": done.get("val_accuracy"),
                "seconds": done.get("seconds"),
                "extract_s": (spent.get(phase + 1) or {}).get("extract_s"),
                "train_s": (spent.get(phase + 1) or {}).get("train_s"),
            }
        )
    return rows
