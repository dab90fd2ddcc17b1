"""Rows of a comparison and their runs: paired by place, since names and folders may be the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headstart.comparison.leaderboard import build_comparison, split_finished
from headstart.report.contenders import compare_rows, find_contenders, match_runs
from headstart.report.inputs import read_inputs
from headstart.rundir.run import Run
from tests.fabricating import fabricate, fail

SKILLS = {"a/x": 1.0, "b/x": 3.0, "b/a/x": 2.0, "c/y": 4.0}


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Runs of one recipe and one name, three of them in folders of one name."""
    return [fabricate(tmp_path / place, name="x", skill=skill) for place, skill in SKILLS.items()]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("root", ["", "elsewhere", "b", "a/x"])
def test_each_row_finds_its_own_run(
    runs: list[Run], root: str, backwards: bool, tmp_path: Path
) -> None:
    given = runs[::-1] if backwards else runs
    compared = build_comparison("places", given, [], tmp_path / root)
    # Where the root is not known, "a/x" may be of b/a/x, below b, as well as of a/x, beside it.
    unknown = () if root in ("b", "a/x") else (tmp_path / "moved", None)
    for where in (tmp_path / root, *unknown):
        matched = match_runs(compared.rows, given, where)
        assert len(matched) == len(SKILLS)
        for _, row, run in matched:
            assert row.accuracy == run.metrics.test.accuracy, row
        for contender in find_contenders(compared, matched):
            (own,) = contender.runs
            assert contender.accuracy == own.metrics.test.accuracy


def test_runs_that_failed_keep_a_name_and_a_section_of_their_own(tmp_path: Path) -> None:
    fabricate(tmp_path / "a" / "x", name="x", skill=1.0)
    fail(tmp_path / "b" / "x", "x", "first")
    fail(tmp_path / "c" / "x", "x", "second")
    fabricate(tmp_path / "d" / "y", name="y", skill=3.0)
    places = [tmp_path / name for name in ("b/x", "a/x", "c/x", "d/y")]
    given, compared = read_inputs(places, tmp_path)
    assert compared is not None
    for made in (compared, compare_rows(given)):
        matched = match_runs(made.rows, given, tmp_path)
        assert len({row.run for _, row, _ in matched}) == len(matched) == 4
        for _, row, run in matched:
            assert row.error == run.manifest.error
            assert row.accuracy == (run.metrics.test.accuracy if run.finished else None)


def test_a_run_without_a_row_is_left_out(runs: list[Run], tmp_path: Path) -> None:
    finished, failures = split_finished(runs[:2])
    rows = build_comparison("two", finished, failures, tmp_path).rows
    (only,) = match_runs(rows[:1], runs[1:], tmp_path)
    assert os.path.relpath(only[2].path, tmp_path) == only[1].path == "b/x"
