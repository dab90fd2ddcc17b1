"""The output of `compare` about a budgeted selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.cli.tables.common import NONE
from headstart.text.durations import format_seconds
from headstart_predict.cards import grid

if TYPE_CHECKING:
    from headstart.comparison.records import CandidateScore, Selected


def format_selection(selection: Selected) -> str:
    """The scores of each round, the dropped candidates with reasons, the time, and the regret if
    known."""
    rounds = selection.rounds
    rows = []
    for row in rounds[0].candidates:
        cells = [f"{row.score:.1f}" if row.score is not None else NONE]
        for later in rounds[1:]:
            candidate = next((c for c in later.candidates if c.name == row.name), None)
            cells.append(_cell(candidate) if candidate else "")
        estimate = selection.estimates.get(row.name)
        cells.append(NONE if estimate is None else f"{estimate:.0f}")
        taken = selection.carried_out.get(row.name)
        cells.append("" if taken is None else f"{taken:.1f}")
        rows.append([row.name, *cells])
    header = ["candidate", "ImageNet", *(each.name for each in rounds[1:])]
    header += ["full run, estimate s", "took s"]
    table = grid(header, rows, "l" + "r" * (len(header) - 1))
    kind = "balanced accuracy" if selection.balanced else "accuracy"
    spent, full = selection.spent_s, selection.full_cost_s
    budget = format_seconds(selection.budget_s)
    lines = [
        table,
        "",
        f"ImageNet: published top-1, %; rounds: held-out {kind} of a linear probe of the frozen "
        "backbone (LogME); x clearly worse",
        *(f"dropped: {d.name} ({d.round}): {d.why}" for d in selection.dropped),
        f"spent {spent:.0f} s of {budget}; the full comparison would take about {full:.0f} s",
        f"the published order alone would take {selection.baseline.pick}",
    ]
    if selection.regret and selection.baseline.regret:
        lines.append(f"regret: {selection.regret.text}")
        lines.append(f"regret of the published order: {selection.baseline.regret.text}")
    return "\n".join(lines)


def _cell(judged: CandidateScore) -> str:
    dropped = "" if judged.kept else " x"
    return f"{100 * (judged.score or 0.0):.1f} % ({judged.logme or 0.0:.3f}){dropped}"
