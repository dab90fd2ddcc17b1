"""How a run was trained, from its log: phases with their times, and the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from headstart.report.drawing import lines
from headstart.report.drawing.svg import Figure
from headstart.rundir.history import Fit, History, PhaseBegun, Solve
from headstart.rundir.records import Cost
from headstart.text import formats

Measure = Literal["loss", "accuracy"]
_KINDS: tuple[Literal["train", "val"], ...] = ("train", "val")
_NAMES: dict[Measure, str] = {"loss": "Loss", "accuracy": "Accuracy"}


def figures(history: History, *, many: bool = False) -> list[Figure]:
    """The plots of training that a log gives: a path for each solved head, curves over epochs.

    many: whether images may have several labels; the accuracies in the log are then not of one
    kind, and only the losses are drawn.
    """
    measures: tuple[Measure, ...] = ("loss",) if many else ("loss", "accuracy")
    drawn: list[tuple[str, Markup | None]] = []
    for phase, begun in sorted(history.begun.items()):
        solves, chosen = history.solves_of(phase), history.chosen(phase)
        if len(solves) > 1:
            where = f"phase {phase + 1}: {_title(begun)}"
            l2 = chosen.l2 if chosen else None
            drawn += [(f"{_NAMES[m]} by penalty, {where}", _path(solves, l2, m)) for m in measures]
    if history.epochs:
        drawn += [(f"{_NAMES[m]} by epoch", _curves(history, m)) for m in measures]
    return [Figure(title, svg) for title, svg in drawn if svg]


def _path(solves: Sequence[Solve], chosen: float | None, measure: Measure) -> Markup | None:
    drawn: list[lines.Series] = []
    for kind in _KINDS:
        given = [(s.l2, _value(s, kind, measure)) for s in solves]
        points = [point for point in given if math.isfinite(point[1])]
        tips = [_tip(kind, f"L2 {formats.general(px)}", py, measure) for px, py in points]
        drawn.append(lines.Series(kind, points, tips))
    if not any(line.points for line in drawn):
        return None
    return lines.path_panel(
        drawn, chosen=chosen, name=_NAMES[measure], percent=measure == "accuracy"
    )


def _curves(history: History, measure: Measure) -> Markup | None:
    """Epochs of all phases in a row; a solved phase is one dot: the answer it chose."""
    spans: list[lines.Span] = []
    series: list[lines.Series] = []
    solved_width = max(1.0, 0.08 * len(history.epochs))
    at = 0.0
    for number, (phase, begun) in enumerate(sorted(history.begun.items()), start=1):
        epochs, solved = history.epochs_of(phase), history.chosen(phase)
        width = float(len(epochs)) if epochs else solved_width
        if not epochs and solved is None:
            continue
        if not epochs and not spans:
            at = -width  # a solved head first stands left of zero, so that epochs count from there
        title = _title(begun)
        placed: list[tuple[float, Fit, str]] = [
            (at + k, e, f", epoch {k}") for k, e in enumerate(epochs, start=1)
        ]
        if solved and not placed:
            placed = [(at + width / 2, solved, ", solved")]
        for kind in _KINDS:
            shown = [
                (px, py, _tip(kind, title + where, py, measure))
                for px, event, where in placed
                if math.isfinite(py := _value(event, kind, measure))
            ]
            points, tips = [(px, py) for px, py, _ in shown], [tip for _, _, tip in shown]
            series.append(lines.Series(kind, points, tips))
        done = history.done.get(phase)
        kept = _kept(at, done.best_epoch if done else None, series[-1].points)
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


def _value(event: Fit, kind: Literal["train", "val"], measure: Measure) -> float:
    """May be NaN: a run that diverged must still have a page."""
    value: float = getattr(event, f"{kind}_{measure}")
    return value * (100 if measure == "accuracy" else 1)


def _tip(kind: str, where: str, value: float, measure: Measure) -> str:
    shown = f"{value:.1f} %" if measure == "accuracy" else f"{value:.4f}"
    return f"{kind}, {where}: {shown}"


def _title(begun: PhaseBegun) -> str:
    return begun.train.replace("_", " ")


@dataclass(frozen=True, slots=True)
class PhaseLine:
    """A phase as a table shows it: what it trained, what it chose, what it took."""

    number: int
    train: str
    optimizer: str
    boundary: str
    trainable: int
    length: str
    chosen: str
    val_loss: float | None  # None, like the next two, where it did not end
    val_accuracy: float | None
    seconds: float | None
    extract_s: float | None  # None, like the next, where the run did not end
    train_s: float | None


def describe_phases(history: History, cost: Cost | None) -> list[PhaseLine]:
    spent = {each.phase: each for each in cost.phases} if cost else {}
    rows = []
    for phase, begun in sorted(history.begun.items()):
        done, own = history.done.get(phase), spent.get(phase + 1)
        epochs, solved = len(history.epochs_of(phase)), len(history.solves_of(phase))
        length = f"{epochs} epochs" if epochs else f"{solved} solutions" if solved else ""
        if lowered := [restart.lr for restart in history.restarts if restart.phase == phase]:
            length += f", at a rate of {formats.general(min(lowered))} after higher ones"
        chosen = ""
        if done and not done.improved:
            chosen = "its start"
        elif done and done.l2 is not None:
            chosen = f"L2 {formats.general(done.l2)}"
        elif done and done.best_epoch is not None:
            chosen = f"epoch {done.best_epoch + 1}"
        rows.append(
            PhaseLine(
                number=phase + 1,
                train=_title(begun),
                optimizer=begun.optimizer,
                boundary=begun.boundary + (", cached" if begun.cached else ""),
                trainable=begun.trainable_parameters,
                length=length,
                chosen=chosen,
                val_loss=done.val_loss if done else None,
                val_accuracy=done.val_accuracy if done else None,
                seconds=done.seconds if done else None,
                extract_s=own.extract_s if own else None,
                train_s=own.train_s if own else None,
            )
        )
    return rows
