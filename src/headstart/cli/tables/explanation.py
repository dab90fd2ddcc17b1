"""The output of `explain`: runs side by side, the gain of each change, and known mistakes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.cli.tables.classes import balanced_rows
from headstart.cli.tables.common import or_none, own_command
from headstart_predict.cards import grid, interval, percent

if TYPE_CHECKING:
    from headstart.comparison.explain import Entry, Explanation, Step


def format_explanation(explanation: Explanation) -> str:
    """Runs side by side, the change of each step, and known mistakes in the runs."""
    entries, single = explanation.entries, len(explanation.entries) == 1
    rows = [[key, *values] for key, values in explanation.settings.items()]
    rows += [
        ["test accuracy", *(percent(entry.accuracy) for entry in entries)],
        ["95 % interval", *(interval(entry.interval) for entry in entries)],
        *balanced_rows(explanation),
        ["seconds to train", *(or_none(entry.seconds, ".1f") for entry in entries)],
        ["parameters trained", *(or_none(entry.trained_parameters, ",") for entry in entries)],
    ]
    parts = [grid(["", *(entry.run for entry in entries)], rows)]
    if len(made := {(entry.backbone, entry.weights) for entry in entries}) == 1:
        ((backbone, weights),) = made
        parts.insert(0, f"{backbone}, weights: {weights}")
    if explanation.steps:
        ladder = "a ladder: one group of settings changes at a time"
        kind = ladder if explanation.ladder else "each from its nearest"
        head = f"Steps ({kind}; the same {entries[0].n:,} test images, paired):"
        parts.append("\n".join([head, *map(step_line, explanation.steps)]))
    if single:
        parts.append(_departures(explanation))
    elif wrong := _mistake_lines(entries):
        parts.append("\n".join(["Known to cost accuracy:", *wrong]))
    parts += [f"left out: {line}" for line in explanation.skipped]
    return "\n\n".join(parts)


def step_line(step: Step) -> str:
    """ "a -> b: +31.2 points [27.1, 35.2], p < 0.001 (data.normalize unit -> weights)"."""
    low, high = (100 * bound for bound in step.interval)
    said = f"{100 * step.change:+.1f} points [{low:+.1f}, {high:+.1f}]"
    doubt = "" if step.significant else ", not told from chance"
    if step.beside is None:
        return (
            f"{step.first} -> {step.second}: {said}, {p_text(step.p_value)}{doubt} ({step.cause})"
        )
    beside = step.beside.told
    first = f"{said} of accuracy, {p_text(step.p_value)}"
    parts = [beside + doubt, first] if step.beside.decides else [first + doubt, beside]
    return f"{step.first} -> {step.second}: {'; '.join(parts)} ({step.cause})"


def p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def _mistake_lines(entries: Sequence[Entry]) -> list[str]:
    """One line for each mistake, with the runs that make it."""
    made: dict[str, list[str]] = {}
    for entry in entries:
        for finding in entry.findings:
            if finding.mistake:
                line = f"({finding.key} = {finding.has}): {finding.why}"
                made.setdefault(line, []).append(entry.run)
    return [f"{', '.join(runs)} {line}" for line, runs in made.items()]


def _departures(explanation: Explanation) -> str:
    """The settings in which a run departs from known good ones, and commands that correct them."""
    entry, rights = explanation.entries[0], explanation.siblings
    if not entry.findings:
        return "It preprocesses its images as its weights expect, and has no known mistake."
    rows = [[finding.key, finding.has, finding.wants] for finding in entry.findings]
    lines = [grid(["departs from what is known to work", "has", "should be"], rows)]
    lines += [f"{finding.key}: {finding.why}." for finding in entry.findings]
    lines += ["", "To correct them one by one, and then explain the runs side by side:"]
    lines += [right.command.replace("headstart", own_command(), 1) for right in rights]
    paths = [entry.path, *(right.path for right in rights)]
    return "\n".join([*lines, f"{own_command()} explain {shlex.join(paths)}"])
