"""What was not measured costs nothing else: reports, cards, tables and limits do without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headstart.cli.tables.comparison import comparison_to_json, format_comparison
from headstart.cli.tables.run import format_run
from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.limits import best_within
from headstart.evaluation.calibration import calibration
from headstart.files import write_json
from headstart.report import write_report
from headstart.report.card import render_card
from headstart.report.markdown import write_markdown
from headstart.report.page import render
from headstart.rundir.run import Run, open_run
from tests.fabricating import fabricate, measured, recost
from tests.unit.test_report import read

MEASURED = ("latency_ms", "throughput", "serving_rss_mb", "measured")


def unmeasured(run: Run) -> Run:
    """The run as it is before its serving cost is measured."""
    return recost(run, **dict.fromkeys(MEASURED))


@pytest.fixture
def seeds(tmp_path: Path) -> list[Run]:
    """Two configurations of two seeds, all measured."""
    runs = []
    for number, name in enumerate(("net", "wide")):
        for seed in (0, 1):
            run = fabricate(tmp_path / f"{name}-{seed}", name=f"{name}-{seed}", seed=seed,
                            backbone=name, cost=1.0 + number, skill=2.0 + number)  # fmt: skip
            runs.append(recost(run, file_mb=13.0 + number, measured=measured(None)))
    return runs


@pytest.mark.parametrize("others", [False, True])
def test_one_run_without_its_costs_still_has_everything_else(
    seeds: list[Run], others: bool, tmp_path: Path
) -> None:
    runs = [unmeasured(run) if others or not k else run for k, run in enumerate(seeds)]
    first = runs[0]
    comparison = build_comparison("costs", runs, [], tmp_path)
    limits = [best_within(comparison, runs, tmp_path, *given) for given in
              ((1e-3, None), (None, 1e-3), (1e3, 1e3), (None, 1e3))]  # fmt: skip
    assert limits[0].best is limits[1].best is None
    comparison = replace(comparison, path=tmp_path, limits=limits[2])
    text = read(write_report(runs, tmp_path / "report.html", comparison)).text
    assert "net-0" in text and "wide-1" in text
    assert "net" in write_markdown(runs, tmp_path / "r.md", comparison).read_text()
    assert "net-0" in read(write_report([first], tmp_path / "one.html")).text
    assert "# net-0" in render_card(first)
    assert "test accuracy" in format_run(first)
    assert "wide" in format_comparison(comparison)
    assert len(comparison_to_json(comparison)["runs"]) == 4


def test_an_unmeasured_run_is_said_to_be_so(seeds: list[Run], tmp_path: Path) -> None:
    first = unmeasured(seeds[0])
    assert "latency" not in render_card(first)
    assert "to serve       not measured" in format_run(first)
    comparison = build_comparison("one", [first], [], tmp_path)
    asked = best_within(comparison, [first], tmp_path, 5.0, None)
    assert asked.text == (
        "no finished run is within 5 ms: the smallest is net-0 (not timed, 13.0 MB)"
    )


def test_without_a_fitted_temperature_it_is_one_and_the_reason_is_shown(seeds: list[Run]) -> None:
    """A run that changes nothing does not say that its error goes from 5 % to 5 %."""
    reason = "no temperature lowers the loss of left-out images beyond chance"
    for run in seeds:
        calibrated = calibration(run.predictions("test"))
        test = replace(run.metrics.test, calibration=calibrated, calibrated=calibrated)
        value, note = (1.2, None) if run.name == "net-1" else (1.0, reason)
        metrics = replace(run.metrics, test=test, temperature=value, temperature_note=note)
        write_json(run.path / "metrics.json", metrics)
    runs = [open_run(run.path) for run in seeds]
    card = render_card(runs[0])
    assert f"are served as they are: {reason}. The calibration error" in card
    assert "divided by a temperature" not in card
    assert "divided by a temperature of 1.20" in render_card(runs[1])
    page = render(runs, build_comparison("two", runs, [], runs[0].path.parent))
    assert f"A temperature of 1 for wide and net (1 of 2 seeds): {reason}." in page
    assert page.count(f"1: {reason}") == 3  # of each run on its own
