"""The output of `compare`: the leaderboard with its verdict, and the shape of its --json."""

from __future__ import annotations

import os
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.cli.tables.classes import balance_cells, balance_header, val_cell, val_header
from headstart.cli.tables.common import NONE, or_none, own_command, warning_lines
from headstart.cli.tables.run import run_to_json
from headstart.cli.tables.selection import format_selection
from headstart_predict.cards import grid, interval, percent
from headstart_predict.plain import one_line

if TYPE_CHECKING:
    from headstart.comparison.records import Comparison, Row, Standing


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """The shape of `headstart compare --json`: comparison.json, with each run as `run --json`."""
    from headstart.rundir.run import open_run

    runs, failed = [], []
    for row in comparison.rows:
        if row.path is None:
            failed.append({"name": row.run, "error": row.error})
            continue
        opened = open_run(_path(comparison, row))
        runs.append(
            {**run_to_json(opened), "within_noise": row.within_noise, "p_value": row.p_value}
        )
    return {
        **comparison.to_json(),
        "runs": runs,
        "best_run": str(_path(comparison, comparison.best_row)),
        "failed": failed,
        "report": str(comparison.report),
    }


def format_comparison(comparison: Comparison) -> str:
    """The leaderboard by configuration, the verdict, and the paths of report and chosen model."""
    from headstart.comparison.choice import Metric

    several = any(c.sd is not None for c in comparison.configurations)
    repeats = ["sd", "seeds"] if several else []
    test = f"test {comparison.headline}"
    header = ["", "group", "configuration", test, "95 % interval", *repeats]
    header[5:5] = balance_header(comparison)
    header += [val_header(comparison), "train s", "ms/image"]
    rows = [_configuration_row(c, comparison, several) for c in comparison.configurations]
    failed = [row for row in comparison.rows if row.accuracy is None]
    rows += [["x", NONE, row.run, *[NONE] * (len(header) - 3)] for row in failed]
    best = comparison.best_row
    path = _path(comparison, best)
    width = min(shutil.get_terminal_size().columns, 100)
    top = "best" if comparison.select_by == "loss" else "highest"
    legend = f"* validation's choice   group 1: the {top} and what test cannot tell from it"
    busy = any(c.busy for c in comparison.configurations)
    lines = [
        grid(header, rows, "lrl".ljust(len(header), "r")),
        "",
        legend + ("   x failed" if failed else ""),
        "train s: frozen passes and training, with an empty cache"
        + ("   ~ timed on a busy machine" if busy else ""),
        *(one_line(f"failed: {row.run}: {row.error}") for row in failed),
        "",
        textwrap.fill(comparison.verdict, width, break_on_hyphens=False, break_long_words=False),
    ]
    if comparison.detectable is not None:
        size = Metric(comparison.select_by).size(comparison.detectable)
        lines.append(f"On these test images a difference of {size} would be shown with 80 % power.")
    if comparison.limits:
        lines.append(comparison.limits.text)
    lines += [
        *warning_lines(comparison.warnings),
        "",
        f"report      {comparison.report}",
        f"chosen      {path}",
        f"use it      {own_command()} predict {path} IMAGE...",
    ]
    if comparison.selection:
        lines[:0] = [format_selection(comparison.selection), ""]
    return "\n".join(lines)


def _configuration_row(c: Standing, comparison: Comparison, several: bool) -> list[str]:
    sd = NONE if c.sd is None else f"{100 * c.sd:.2f}"
    return [
        "*" if comparison.best in c.runs else "",
        str(c.group),
        c.name + "".join(f" [{mark}]" for mark in c.marks),
        percent(c.accuracy),
        interval(c.interval),
        *balance_cells(comparison, c),
        *([sd, str(len(c.seeds))] if several else []),
        val_cell(comparison, c),
        or_none(c.alone_s, ".1f"),
        ("~" if c.busy else "") + or_none(c.latency_ms, ".1f"),
    ]


def _path(comparison: Comparison, row: Row) -> Path:
    return Path(os.path.normpath((comparison.path or Path()) / (row.path or "")))
