"""What was not measured costs nothing else: reports, cards, tables and limits do without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headstart import tables
from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.limits import best_within
from headstart.evaluation.calibration import calibration
from headstart.report import write_report
from headstart.report.card import render_card
from headstart.report.markdown import write_markdown
from headstart.report.page import render
from headstart.rundir import Run, open_run, write_json
from tests.fabricating import fabricate
from tests.unit.test_report import read

MEASURED = ("latency_ms", "throughput", "serving_rss_mb", "measured")


def without(run: Run, keys: Sequence[str] | None) -> Run:
    """The run as it is where these of its costs are not known; None: it has no cost.json."""
    if keys is None:
        (run.path / "cost.json").unlink()
    else:
        write_json(run.path / "cost.json", {k: v for k, v in run.cost.items() if k not in keys})
    return open_run(run.path)


@pytest.fixture
def seeds(tmp_path: Path) -> list[Run]:
    """Two configurations of two seeds, all measured."""
    runs = []
    for number, name in enumerate(("net", "wide")):
        for seed in (0, 1):
            run = fabricate(tmp_path / f"{name}-{seed}", name=f"{name}-{seed}", seed=seed,
                            backbone=name, cost=1.0 + number, skill=2.0 + number)  # fmt: skip
            spent = {"throughput": {"images_per_s": 90.0, "batch": 32, "n": 5},
                     "serving_rss_mb": 300.0, "file_mb": 13.0 + number,
                     "measured": {"warm_up": 3, "at": "2025-11-20T10:05:00+00:00"}}  # fmt: skip
            write_json(run.path / "cost.json", {**run.cost, **spent})
            runs.append(open_run(run.path))
    return runs


@pytest.mark.parametrize(
    ("keys", "others"),
    [
        (MEASURED, False),
        (("latency_ms",), False),
        (("throughput", "serving_rss_mb"), False),
        (MEASURED, True),
        (("size_mb", "file_mb", "wall_s", "parameters"), True),
        (None, True),
    ],
)
def test_one_run_without_its_costs_still_has_everything_else(
    seeds: list[Run], keys: Sequence[str] | None, others: bool, tmp_path: Path
) -> None:
    runs = [without(run, keys) if others or not k else run for k, run in enumerate(seeds)]
    first = runs[0]
    comparison = build_comparison("costs", runs, [], tmp_path)
    limits = [best_within(comparison, runs, tmp_path, *given) for given in
              ((1e-3, None), (None, 1e-3), (1e3, 1e3), (None, 1e3))]  # fmt: skip
    assert limits[0]["best"] is limits[1]["best"] is None
    comparison = replace(comparison, path=tmp_path, limits=limits[2])
    text = read(write_report(runs, tmp_path / "report.html", comparison.to_dict())).text
    assert "net-0" in text and "wide-1" in text
    assert "net" in write_markdown(runs, tmp_path / "r.md", comparison.to_dict()).read_text()
    assert "net-0" in read(write_report([first], tmp_path / "one.html")).text
    assert "# net-0" in render_card(first)
    assert "test accuracy" in tables.run(first)
    assert "wide" in tables.comparison(comparison)
    assert len(tables.comparison_as_dict(comparison)["runs"]) == 4


def test_an_unmeasured_run_is_said_to_be_so(seeds: list[Run], tmp_path: Path) -> None:
    first = without(seeds[0], (*MEASURED, "file_mb", "size_mb"))
    assert "latency" not in render_card(first)
    assert "to serve       not measured" in tables.run(first)
    comparison = build_comparison("one", [first], [], tmp_path)
    asked = best_within(comparison, [first], tmp_path, 5.0, None)
    assert asked["text"] == "no finished run is within 5 ms: nothing was measured of them"


def test_a_temperature_that_nothing_told_is_one_and_the_reason_is_shown(seeds: list[Run]) -> None:
    """A run that changes nothing does not say that its error goes from 5 % to 5 %."""
    reason = "no temperature lowers the loss of left-out images beyond chance"
    for run in seeds:
        told = calibration(run.predictions("test")).to_dict()
        test = {**run.metrics["test"], "calibration": told, "calibrated": told}
        fitted = {"temperature": 1.2} if run.name == "net-1" else {
            "temperature": 1.0, "temperature_note": reason}  # fmt: skip
        write_json(run.path / "metrics.json", {**run.metrics, "test": test, **fitted})
    runs = [open_run(run.path) for run in seeds]
    card = render_card(runs[0])
    assert f"are served as they are: {reason}. The calibration error" in card
    assert "divided by a temperature" not in card
    assert "divided by a temperature of 1.20" in render_card(runs[1])
    page = render(runs, build_comparison("two", runs, [], runs[0].path.parent).to_dict())
    assert f"A temperature of 1 for wide and net (1 of 2 seeds): {reason}." in page
    assert page.count(f"1: {reason}") == 3  # of each run on its own
