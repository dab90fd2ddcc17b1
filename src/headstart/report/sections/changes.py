"""What changed what, as the page shows it: a before/after table and a picture of the steps."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.comparison.explain import Entry, Explanation, Step, explain_runs
from headstart.comparison.mistakes import Finding, find_departures
from headstart.errors import HeadstartError
from headstart.report.drawing.svg import Scale, element
from headstart.rundir.run import Run
from headstart.text.captions import captions
from headstart.text.formats import duration, interval, percent, points, shorten

WIDTH, ROW, BAR = 380, 54, 10  # of the picture, of a run in it, of its bar: about pixels
_LEFT, _RIGHT, _TOP = 4, 376, 6
_LETTERS = 62  # of the picture's small text that fit its width


@dataclass(frozen=True)
class Rung:
    """One bar of the picture, with the step that leads to it from the bar above; None at first."""

    entry: Entry
    step: Step | None


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A step of the table, its numbers as text. kind: gain, loss or even, how it is drawn."""

    step: Step
    kind: str
    before: Entry
    after: Entry
    change: str
    interval: str
    beside: str | None  # the step in another metric
    seconds: str


@dataclass(frozen=True, slots=True)
class KnownMistake:
    """A known mistake, and the names of what makes it."""

    finding: Finding
    runs: list[str]


@dataclass(frozen=True, slots=True)
class ChangesSection:
    """The steps, their picture, None without any, and what is known to cost accuracy."""

    steps: list[ChangeRow]
    figure: Markup | None
    known: list[KnownMistake]


def describe_changes(
    runs: Sequence[Run], configurations: Mapping[int, str] | None = None
) -> ChangesSection:
    """Everything the template needs: steps, their picture, and what is known to cost accuracy.

    `configurations` has the name to use for a run, by its id(): seeds make the same mistakes.

    Runs that cannot be explained (unfinished, made on other test images, or with a damaged file)
    leave the steps empty: the page does without.
    """
    explained = _explained(runs)
    steps = explained.telling if explained else ()
    entries = {entry.run: entry for entry in explained.entries} if explained else {}
    rungs = _chain(steps, entries)
    return ChangesSection(
        steps=[_row(step, entries) for step in steps],
        figure=ladder_panel(rungs) if rungs else None,
        known=_known(explained, runs, configurations or {}),
    )


def _explained(runs: Sequence[Run]) -> Explanation | None:
    try:
        return explain_runs(runs) if len(runs) > 1 else None
    except (HeadstartError, ValueError, OSError, zipfile.BadZipFile):
        return None


def _chain(steps: Sequence[Step], entries: dict[str, Entry]) -> list[Rung]:
    """The steps as bars from top to bottom: those that go on from one another stand together."""
    chains: list[list[Step]] = []
    for step in steps:
        goes_on = next((c for c in chains if c[-1].second == step.first), None)
        if goes_on is None:
            chains.append([step])
        else:
            goes_on.append(step)
    return [
        rung
        for chain in chains
        for rung in (
            Rung(entries[chain[0].first], None),
            *(Rung(entries[step.second], step) for step in chain),
        )
    ]


def _row(step: Step, entries: dict[str, Entry]) -> ChangeRow:
    first, second = entries[step.first], entries[step.second]
    return ChangeRow(
        step=step,
        kind=_kind(step),
        before=first,
        after=second,
        change=points(step.change),
        interval=f"[{points(step.interval[0])}, {points(step.interval[1])}]",
        beside=step.beside.told if step.beside else None,
        seconds=f"{duration(first.seconds)} → {duration(second.seconds)}",
    )


def _kind(step: Step) -> str:
    if not step.significant:
        return "even"
    return "gain" if step.decisive.change > 0 else "loss"


def _known(
    explained: Explanation | None, runs: Sequence[Run], configurations: Mapping[int, str]
) -> list[KnownMistake]:
    """Each known mistake once, with the runs that make it."""
    made: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    for run, name, findings in _findings(explained, runs):
        for finding in findings:
            if finding.mistake:
                key = (finding.key, finding.has, finding.why)
                made.setdefault(key, (finding, []))[1].append(configurations.get(id(run), name))
    return [KnownMistake(finding, list(dict.fromkeys(names))) for finding, names in made.values()]


def _findings(
    explained: Explanation | None, runs: Sequence[Run]
) -> list[tuple[Run, str, tuple[Finding, ...]]]:
    if explained:
        told = zip(runs, explained.entries, strict=True)
        return [(run, entry.run, entry.findings) for run, entry in told]
    found = []
    for run in runs:
        try:
            found.append((run, run.name, find_departures(run)))
        except HeadstartError:
            continue  # it did not get far enough to say what its weights expect
    return found


def ladder_panel(rungs: Sequence[Rung]) -> Markup:
    """A bar with its 95 % interval for each run, and between two what the step brought."""
    x = Scale(0, 1, _LEFT, _RIGHT)
    bottom = _TOP + ROW * len(rungs)
    marks = []
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        marks.append(element("line", class_="rule", x1=x(share), x2=x(share), y1=_TOP, y2=bottom))
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        text = element("text", percent(share, 0), x=x(share), y=bottom + 14, text_anchor=anchor)
        marks.append(text)
    named = captions([rung.entry.run for rung in rungs], 36)
    for number, (rung, name) in enumerate(zip(rungs, named, strict=True)):
        marks.append(_bar(rung, name, x, float(_TOP + ROW * number)))
    label = "Test accuracy of " + ", ".join(rung.entry.run for rung in rungs)
    view = f"0 0 {WIDTH} {bottom + 20}"
    return element("svg", *marks, class_="plot ladder", viewBox=view, role="img", aria_label=label)


def _bar(rung: Rung, name: str, x: Scale, top: float) -> Markup:
    """A step's line of text, the run's name and accuracy, and its bar with the interval."""
    entry, step = rung.entry, rung.step
    middle = top + 40
    low, high = (x(bound) for bound in entry.interval)
    parts = [element("title", f"{entry.run}: {percent(entry.accuracy)} {interval(entry.interval)}")]
    if step is not None:
        said = f"{points(step.change)} points: {step.cause.replace(' -> ', ' → ')}"
        if len(said) > _LETTERS:  # the table beside it lists the settings
            said = ": ".join(said.split(": ")[:2])
        parts.append(
            element(
                "text", shorten(said, _LETTERS), class_=f"step {_kind(step)}", x=_LEFT, y=top + 12
            )
        )
    value = f"{percent(entry.accuracy)} {interval(entry.interval)}"
    parts += [
        element("text", name, class_="label", x=_LEFT, y=top + 29),
        element("text", value, class_="label", x=_RIGHT, y=top + 29, text_anchor="end"),
        element("rect", class_="track", x=x(0), y=middle - BAR / 2, width=x(1) - x(0), height=BAR),
        element(
            "rect", class_="bar", x=x(0), y=middle - BAR / 2,
            width=x(entry.accuracy) - x(0), height=BAR,
        ),
        element("line", class_="whisker", x1=low, x2=high, y1=middle, y2=middle),
        *(
            element("line", class_="whisker", x1=end, x2=end, y1=middle - 4, y2=middle + 4)
            for end in (low, high)
        ),
    ]  # fmt: skip
    return element("g", *parts, class_="rung")
