"""Selection under a budget: who was dropped when, on what evidence, and what that may have cost."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.comparison.records import CandidateScore, Comparison, Selected
from headstart.report.sections.tables import TableRow
from headstart.text import formats


@dataclass(frozen=True, slots=True)
class Score:
    """A candidate in a round. seconds: what its evidence took. kept: whether it went on."""

    text: str
    seconds: float
    kept: bool


@dataclass(frozen=True, slots=True)
class CandidateRow(TableRow[Score | None]):
    """A candidate's scores, None in rounds that it was not in. why: it is out; None if kept."""

    why: str | None


@dataclass(frozen=True, slots=True)
class SelectionSection:
    """How runs were selected under a budget; `cells` of a row are in the order of its rounds."""

    made: Selected
    rows: list[CandidateRow]


def _cell(candidate: CandidateScore) -> Score:
    """A candidate's score as text: a share, or a published accuracy that is in percent already."""
    score = candidate.score
    text = formats.MISSING if score is None else formats.percent(score / (100 if score > 1 else 1))
    return Score(text, candidate.seconds, candidate.kept)


def describe_selection(compared: Comparison) -> SelectionSection | None:
    """Rounds as columns and candidates as rows, the longest in the race first.

    None where the comparison was made without a budget.
    """
    selection = compared.selection
    if selection is None:
        return None
    scores = [{c.name: c for c in each.candidates} for each in selection.rounds]
    names = dict.fromkeys(c.name for each in selection.rounds for c in each.candidates)
    why = {name: f"failed: {reason}" for name, reason in selection.failed.items()}
    why |= {dropped.name: dropped.why for dropped in selection.dropped}

    def standing(name: str) -> tuple[int, float]:
        met = [found[name] for found in scores if name in found]
        return -len(met) - met[-1].kept, -(met[-1].score or 0.0)

    rows = [
        CandidateRow(
            name,
            [_cell(found[name]) if name in found else None for found in scores],
            why.get(name),
        )
        for name in sorted(names, key=standing)
    ]
    return SelectionSection(selection, rows)
