"""Selection under a budget: who was dropped when, on what evidence, and what that may have cost."""

from __future__ import annotations

from typing import Any

from headstart.comparison.records import Comparison, Judged
from headstart.text import formats


def _cell(candidate: Judged) -> dict[str, Any]:
    """A candidate's score as text: a share, or a published accuracy that is in percent already."""
    score = candidate.score
    text = formats.MISSING if score is None else formats.percent(score / (100 if score > 1 else 1))
    return {"text": text, "seconds": candidate.seconds, "kept": candidate.kept}


def describe_selection(compared: Comparison) -> dict[str, Any] | None:
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
        {
            "name": name,
            "cells": [_cell(found[name]) if name in found else None for found in scores],
            "why": why.get(name),
        }
        for name in sorted(names, key=standing)
    ]
    return {
        "rounds": selection.rounds,
        "rows": rows,
        "budget_s": selection.budget_s,
        "spent_s": selection.spent_s,
        "full_cost_s": selection.full_cost_s,
        "left": [row["name"] for row in rows if row["why"] is None],
        "baseline": selection.baseline.pick,
        "order": selection.baseline.order,
        "regret": selection.regret,
    }
