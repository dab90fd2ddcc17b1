"""Paired tests between configurations, as a matrix: rows are the more accurate ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report import formats
from headstart.report.contenders import Contender


def describe_pairs(
    compared: Mapping[str, Any], contenders: Sequence[Contender]
) -> dict[str, Any] | None:
    """Each pair's difference in points, its interval and p-value; None without pairs.

    A cell is the row's accuracy minus the column's. The last configuration has no row and the
    first no column, since the other half of the matrix would repeat this one.
    """
    known = {(p["first"], p["second"]): p for p in compared.get("pairs") or []}
    names = [c.name for c in contenders]
    if not known or len(names) < 2:
        return None
    rows = [
        {"name": name, "cells": [_cell(known, name, other) if j > i else None
                                 for j, other in enumerate(names) if j > 0]}
        for i, name in enumerate(names[:-1])
    ]  # fmt: skip
    apart = sum(bool(pair["told_apart"]) for pair in known.values())
    tests = sorted({str(pair["test"]) for pair in known.values() if pair.get("test")})
    return {"columns": names[1:], "rows": rows, "apart": apart, "count": len(known),
            "tests": tests}  # fmt: skip


def _cell(known: Mapping[tuple[str, str], Mapping[str, Any]], row: str, column: str) -> Any:
    if (column, row) in known:
        pair = known[column, row]
        change, (low, high) = pair["change"], pair["interval"]
    elif (row, column) in known:
        pair = known[row, column]
        change = -pair["change"]
        high, low = (-bound for bound in pair["interval"])
    else:
        return None
    return {
        "change": formats.points(change),
        "interval": f"[{formats.points(low)}, {formats.points(high)}]",
        "p": formats.p_value(pair["p_adjusted"]),
        "apart": bool(pair["told_apart"]),
        "label": f"{row} minus {column}",
    }
