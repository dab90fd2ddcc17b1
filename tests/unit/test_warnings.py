"""Warnings travel: what a run warned of is shown with every result, each line once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headstart.cli.tables.comparison import comparison_to_json, format_comparison
from headstart.cli.tables.run import format_run, run_to_json
from headstart.comparison.leaderboard import build_comparison
from headstart.report.card import render_card
from headstart.report.markdown import render_markdown
from headstart.report.page import render
from headstart.rundir.run import Run
from tests.fabricating import fabricate, fail

SHARED = "31 of 240 test images <again> in train"
OWN = "pixels scaled in another way"


def study(folder: Path) -> list[Run]:
    return [
        fabricate(folder / "a", name="a", warnings=(SHARED,)),
        fabricate(folder / "b", name="b", warnings=(SHARED, OWN)),
    ]


def test_a_runs_warnings_are_in_all_that_is_made_of_it(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", name="only", warnings=(SHARED,))
    assert SHARED in run.warnings
    assert run_to_json(run)["warnings"] == run.warnings
    assert f"warning: {SHARED}" in format_run(run).splitlines()
    escaped = SHARED.replace("<", "&lt;")
    assert f"- {escaped}\n" in render_card(run)
    markdown = render_markdown([run])
    assert markdown.index(SHARED.replace("<", "&lt;")) < markdown.index("| configuration |")


def test_a_studys_warnings_are_said_once_above_its_board(tmp_path: Path) -> None:
    runs = study(tmp_path)
    compared = build_comparison("study", runs, [], tmp_path)
    assert compared.warnings[1:] == (SHARED, f"{OWN} (b)")
    shown = comparison_to_json(replace(compared, path=tmp_path))
    assert shown["warnings"] == list(compared.warnings)
    assert [each["warnings"][-1] for each in shown["runs"]] in ([SHARED, OWN], [OWN, SHARED])
    page = render(runs, compared)
    expected = SHARED.replace("<", "&lt;").replace(">", "&gt;")
    assert page.count(expected) == 1
    assert page.index(expected) < page.index('id="leaderboard"')
    assert format_comparison(replace(compared, path=tmp_path)).count(SHARED) == 1
    assert render_markdown(runs, compared).count("31 of 240") == 1


def test_a_run_that_failed_early_makes_no_warning_partial(tmp_path: Path) -> None:
    runs = [*study(tmp_path), fail(tmp_path / "lost", "lost", "no network")]
    page = render(runs)
    assert "in train</li>" in page and f"{OWN} (b)</li>" in page


def test_many_warnings_are_folded_behind_the_first(tmp_path: Path) -> None:
    lines = tuple(f"fault number {k}" for k in range(6))
    run = fabricate(tmp_path / "run", name="only", warnings=lines)
    page = render([run])
    block = page.split('class="notice warnings"')[1].split("</div>")[0]
    assert (
        block.index("fault number 1<") < block.index("<details>") < block.index("fault number 2<")
    )
    assert f"<summary>{len(run.warnings) - 3} more</summary>" in block
    assert page.index("fault number 0") < page.index('class="facts"')
