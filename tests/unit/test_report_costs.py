"""Costs on the page and in Markdown: nothing is ranked that only noise tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headstart.comparison.records import Comparison, Limits
from headstart.report.card import render_card
from headstart.report.contenders import Contender, compare_rows, find_contenders, match_runs
from headstart.report.markdown import render_markdown
from headstart.report.sections.board import describe_board
from headstart.report.sections.costs import cost_panels, describe_limits
from headstart.rundir.records import LatencyMs
from headstart.rundir.run import Run
from tests.fabricating import fabricate, measured, recost


def timed(run: Run, ms: float, macs: int, busy: str | None = None) -> Run:
    latency = LatencyMs(ms, ms, ms, ms, 50)
    return recost(run, macs=macs, latency_ms=latency, measured=measured("one", busy))


def contenders_of(runs: Sequence[Run]) -> tuple[Comparison, list[Contender]]:
    compared = compare_rows(runs)
    return compared, find_contenders(compared, match_runs(compared.rows, runs))


@pytest.fixture
def pair(tmp_path: Path) -> list[Run]:
    """Two that test cannot tell apart; the second, a little lower, has fewer operations."""
    return [
        fabricate(tmp_path / name, name=name, skill=skill)
        for name, skill in (("first", 2.3), ("second", 2.2))
    ]


def test_limits_have_no_step_that_noise_alone_makes(pair: list[Run]) -> None:
    def steps(ms: float) -> list[str]:
        runs = [timed(pair[0], 10.0, 300), timed(pair[1], ms, 200)]
        compared, contenders = contenders_of(runs)
        limits = describe_limits(compared, contenders)
        tables = {table.title: table.steps for table in limits.tables} if limits else {}
        return [step.text for step in tables.get("Latency limit", [])]

    assert len(steps(5.0)) == 2
    runs = [timed(pair[0], 10.0, 300), timed(pair[1], 5.0, 200)]
    compared, contenders = contenders_of(runs)
    asked = Limits(10.2, None, "first", ("first",), "")
    limits = describe_limits(replace(compared, limits=asked), contenders)
    assert limits is not None and limits.asked is not None
    assert limits.asked.endswith("Noise does not tell first from the limit in milliseconds.")
    assert steps(9.6) == []  # one step is no table


def test_training_is_drawn_as_it_would_be_alone(pair: list[Run]) -> None:
    """One run computed its features, the other found them: nothing else differs."""
    for run, extract_s, spared_s in zip(pair, (40.0, 0.0), (0.0, 40.0), strict=True):
        recost(run, extract_s=extract_s, train_s=1.0, spared_s=spared_s, alone_s=41.0)
    compared, contenders = contenders_of([Run(run.path) for run in pair])
    board = describe_board(contenders, [], {})
    at = next(k for k, column in enumerate(board.columns) if column.term == "training")
    assert len({line.cells[at].text for line in board.lines}) == 1
    panel = next(p for p in cost_panels(compared, contenders) if p.term == "training")
    assert panel.svg.count(": 41</title>") == 2


def test_times_of_a_busy_machine_are_marked_everywhere(pair: list[Run]) -> None:
    runs = [timed(run, 10.0, 300, "others had the cores") for run in pair]
    board = describe_board(contenders_of(runs)[1], [], {})
    at = next(k for k, column in enumerate(board.columns) if column.term == "latency")
    assert all(line.cells[at].text.startswith("~10.0") for line in board.lines)
    assert "| ~10.0 |" in render_markdown(runs)
    assert "10.0 ms [10.0, 10.0], on a machine that was too busy" in render_card(runs[0])
