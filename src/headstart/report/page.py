"""The report: one self-contained HTML page, made from run directories alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from headstart.comparison.protocol import CHOSEN_ON
from headstart.comparison.records import Comparison
from headstart.files import write_atomically
from headstart.report.contenders import compare_rows, find_contenders, match_runs
from headstart.report.drawing.svg import Figure
from headstart.report.sections.balance import (
    Balance,
    TwoClassSection,
    describe_balance,
    describe_two_classes,
)
from headstart.report.sections.board import Board, describe_board
from headstart.report.sections.calibration import CalibrationSection, describe_calibration
from headstart.report.sections.changes import ChangesSection, describe_changes
from headstart.report.sections.corruptions import CorruptionsSection, describe_corruptions
from headstart.report.sections.costs import (
    LimitsSection,
    cost_panels,
    describe_limits,
    drawn_title,
)
from headstart.report.sections.definitions import Definition, definitions
from headstart.report.sections.details import RunSection, describe_run
from headstart.report.sections.facts import (
    Answer,
    DuplicatesSection,
    describe_answer,
    describe_duplicates,
    describe_facts,
    describe_warnings,
    distinct,
    quarantined,
)
from headstart.report.sections.learning import LearningSection, describe_learning
from headstart.report.sections.pairs import PairsSection, describe_pairs
from headstart.report.sections.pictures import Sample, samples, share_pictures
from headstart.report.sections.selection import SelectionSection, describe_selection
from headstart.rundir.records import LeftOut
from headstart.rundir.run import Run
from headstart.text import formats
from headstart_predict.plain import visible, without_home


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


@dataclass(frozen=True)  # no slots: the fields are the template's variables, by name
class Page:
    """Everything that the page says; None, or empty, of a section for what is not known."""

    title: str
    facts: list[tuple[str, list[str]]]
    protocol: dict[str, str]
    warnings: list[str]
    quarantined: list[LeftOut]
    mixed: bool  # whether the runs were made on different images
    versions: list[str]
    answer: Answer | None
    board: Board
    balance: Balance | None
    pairs: PairsSection | None
    panels: list[Figure]
    drawn: str  # what the panels draw
    limits: LimitsSection | None
    two_classes: TwoClassSection | None
    selection: SelectionSection | None
    calibration: CalibrationSection | None
    learning: LearningSection | None
    corruptions: CorruptionsSection | None
    duplicates: DuplicatesSection | None
    changes: ChangesSection
    samples: list[Sample]
    sections: list[RunSection]
    pictures: dict[str, str]  # the id of each picture of the sections, by its data URI
    definitions: list[Definition]
    headline: str  # the score that stands first: accuracy, or mAP
    term: str  # its entry in the definitions


def render(
    runs: Sequence[Run],
    comparison: Comparison | None = None,
    title: str | None = None,
    root: Path | None = None,
) -> str:
    """The page as text; the comparison's paths are relative to `root`.

    Hidden characters of names are shown as escapes, and the home folder as ~.
    """
    compared = comparison if comparison is not None else compare_rows(runs)
    page = _describe(runs, compared, title or _title(compared), root)
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _environment().get_template("page.html.j2").render(
        vars(page), chosen=CHOSEN_ON,
        style=Markup(style), script=Markup(script), script_digest=digest,
    )  # fmt: skip
    return without_home(visible(text))


def _title(compared: Comparison) -> str:
    name = compared.name or (compared.rows[0].run if len(compared.rows) == 1 else "")
    return f"{name}: results" if name else "Which backbone wins?"


def _describe(runs: Sequence[Run], compared: Comparison, title: str, root: Path | None) -> Page:
    matched = match_runs(compared.rows, runs, root)
    contenders = find_contenders(compared, matched)
    anchors = {row.run: f"run-{number}" for number, row, _ in matched}
    balance = describe_balance(compared, contenders)
    failed = [row for row in compared.rows if row.accuracy is None]
    many = compared.headline == "mAP"
    board = describe_board(contenders, failed, anchors, balance=balance is not None, many=many)
    sections = [describe_run(run, row, anchors[row.run]) for _, row, run in matched]
    return Page(
        title=title,
        facts=describe_facts(runs),
        protocol=compared.protocol,
        warnings=[*describe_warnings(runs), *(line for run in runs for line in run.left_out)],
        quarantined=quarantined(runs),
        mixed=len(distinct(runs, lambda made: made.data.fingerprint)) > 1,
        versions=distinct(runs, lambda made: made.versions.get("headstart")),
        answer=describe_answer(compared, contenders),
        board=board,
        balance=balance,
        pairs=describe_pairs(compared, contenders),
        panels=cost_panels(compared, contenders),
        drawn=drawn_title(compared),
        limits=describe_limits(compared, contenders),
        two_classes=describe_two_classes(contenders),
        selection=describe_selection(compared),
        calibration=describe_calibration(contenders) if len(contenders) > 1 else None,
        learning=describe_learning(contenders),
        corruptions=describe_corruptions(contenders),
        duplicates=describe_duplicates(contenders),
        changes=describe_changes(
            [run for run in runs if (run.path / "metrics.json").exists()],
            {id(run): c.name for c in contenders for run in c.runs},
        ),
        samples=next((found for run in runs if (found := samples(run))), []),
        sections=sections,
        pictures=share_pictures(tile for section in sections for tile in section.tiles),
        definitions=definitions(board.tested, many),
        headline=compared.headline,
        term="mean_ap" if many else "accuracy",
    )


@cache
def _environment() -> jinja2.Environment:
    # Kept: compiling the templates takes longer than filling them.
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
