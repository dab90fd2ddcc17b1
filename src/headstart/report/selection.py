"""Selection under a budget: who was dropped when, on what evidence, and what that may have cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstart.report import formats


def _cell(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate's score as text: a share, or a published accuracy that is in percent already."""
    score = candidate.get("score")
    text = formats.MISSING if score is None else formats.percent(score / (100 if score > 1 else 1))
    return {"text": text, "seconds": candidate.get("seconds"), "kept": candidate["kept"]}


def describe_selection(compared: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rounds as columns and candidates as rows, the longest in the race first.

    None where the comparison was made without a budget.
    """
    selection = compared.get("selection")
    if not selection:
        return None
    rounds = list(selection.get("rounds") or [])
    scores = [{c["name"]: c for c in each["candidates"]} for each in rounds]
    names = dict.fromkeys(c["name"] for each in rounds for c in each["candidates"])
    why = {each["name"]: each for each in selection.get("dropped") or []}

    failed = {name: f"failed: {why}" for name, why in (selection.get("failed") or {}).items()}

    def standing(name: str) -> tuple[int, float]:
        met = [found[name] for found in scores if name in found]
        return -len(met) - met[-1]["kept"], -(met[-1].get("score") or 0.0)

    rows = [
        {
            "name": name,
            "cells": [_cell(found[name]) if name in found else None for found in scores],
            "why": (why.get(name) or {}).get("why") or failed.get(name),
        }
        for name in sorted(names, key=standing)
    ]
    baseline = selection.get("baseline") or {}
    return {
        "rounds": rounds,
        "rows": rows,
        "budget_s": selection.get("budget_s"),
        "spent_s": selection.get("spent_s"),
        "full_cost_s": selection.get("full_cost_s"),
        "left": [row["name"] for row in rows if row["why"] is None],
        "baseline": baseline.get("pick"),
        "order": list(baseline.get("order") or []),
        "regret": selection.get("regret"),
    }
