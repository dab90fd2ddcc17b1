"""The report: one self-contained HTML page, made from run directories alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from headstart.comparison.protocol import CHOSEN_ON
from headstart.comparison.records import Comparison
from headstart.files import write_atomically
from headstart.report.contenders import (
    Contender,
    compare_rows,
    find_contenders,
    match_runs,
)
from headstart.report.sections.balance import describe_balance, describe_two_classes
from headstart.report.sections.board import describe_board
from headstart.report.sections.calibration import describe_calibration
from headstart.report.sections.changes import describe_changes
from headstart.report.sections.corruptions import describe_corruptions
from headstart.report.sections.costs import cost_panels, describe_limits, drawn_title
from headstart.report.sections.definitions import definitions
from headstart.report.sections.details import describe_run
from headstart.report.sections.facts import (
    describe_answer,
    describe_duplicates,
    describe_facts,
    describe_warnings,
    distinct,
    quarantined,
)
from headstart.report.sections.learning import describe_learning
from headstart.report.sections.pairs import describe_pairs
from headstart.report.sections.pictures import samples, share_pictures
from headstart.report.sections.selection import describe_selection
from headstart.rundir.run import Run
from headstart.text import formats


def write_report(
    runs: Sequence[Run],
    out: Path,
    comparison: Comparison | None = None,
    title: str | None = None,
) -> Path:
    """Write the report of some runs and return its path: `out`, or out/report.html for a folder.

    The page needs no network and no other file. Equal runs give equal bytes. Runs that failed or
    did not finish are shown with what they left. Without a comparison the rows come from the runs
    themselves, and "within noise" means that two intervals overlap.
    """
    path = page_path(out)
    write_atomically(path, render(runs, comparison, title, path.parent))
    return path


def page_path(out: Path) -> Path:
    """The file that `write_report` writes: `out`, or out/report.html for a folder."""
    return out if out.suffix in (".html", ".htm") else out / "report.html"


def render(
    runs: Sequence[Run],
    comparison: Comparison | None = None,
    title: str | None = None,
    root: Path | None = None,
) -> str:
    """The page as text; the comparison's paths are relative to `root`."""
    compared = comparison if comparison is not None else compare_rows(runs)
    rows = compared.rows
    matched = match_runs(rows, runs, root)
    contenders = find_contenders(compared, matched)
    anchors = {row.run: f"run-{number}" for number, row, _ in matched}
    balance = describe_balance(compared, contenders)
    board = describe_board(
        contenders,
        [row for row in rows if row.accuracy is None],
        anchors,
        balance=balance is not None,
    )
    sections = [{**describe_run(run, row), "id": anchors[row.run]} for _, row, run in matched]
    context = {
        **_frame(runs, compared, title or _title(compared)),
        "answer": describe_answer(compared, contenders),
        "board": board,
        "balance": balance,
        "pairs": describe_pairs(compared, contenders),
        **_comparisons(compared, contenders),
        "changes": describe_changes(
            [run for run in runs if (run.path / "metrics.json").exists()],
            {id(run): c.name for c in contenders for run in c.runs},
        ),
        "samples": next((found for run in runs if (found := samples(run))), []),
        "sections": sections,
        "pictures": share_pictures(sections),
        "definitions": definitions(board["tested"]),
    }
    return _environment().get_template("page.html.j2").render(context)


def _title(compared: Comparison) -> str:
    name = compared.name or (compared.rows[0].run if len(compared.rows) == 1 else "")
    return f"{name}: results" if name else "Which backbone wins?"


def _comparisons(compared: Comparison, contenders: Sequence[Contender]) -> dict[str, Any]:
    """The sections that set configurations side by side; None for what they do not have."""
    return {
        "panels": cost_panels(compared, contenders),
        "drawn": drawn_title(compared),
        "limits": describe_limits(compared, contenders),
        "two_classes": describe_two_classes(contenders),
        "selection": describe_selection(compared),
        "calibration": describe_calibration(contenders) if len(contenders) > 1 else None,
        "learning": describe_learning(contenders),
        "corruptions": describe_corruptions(contenders),
        "duplicates": describe_duplicates(contenders),
    }


def _frame(runs: Sequence[Run], compared: Comparison, title: str) -> dict[str, Any]:
    """Title, facts and protocol, and what makes the file a page."""
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "title": title,
        "facts": describe_facts(runs),
        "protocol": compared.protocol,
        "chosen": CHOSEN_ON,
        "warnings": describe_warnings(runs),
        "quarantined": quarantined(runs),
        "mixed": len(distinct(runs, lambda made: made.data.fingerprint)) > 1,
        "versions": distinct(runs, lambda made: made.versions.get("headstart")),
        "style": Markup(style),
        "script": Markup(script),
        "script_digest": digest,
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_asset),
    )  # fmt: skip
    environment.filters.update(
        percent=formats.percent, interval=formats.interval, decimal=formats.decimal,
        count=formats.count, duration=formats.duration, p_value=formats.p_value,
        points=formats.points, span=formats.span,
    )  # fmt: skip
    return environment


def _asset(name: str) -> str:
    return (resources.files("headstart.report") / "templates" / name).read_text(encoding="utf-8")
