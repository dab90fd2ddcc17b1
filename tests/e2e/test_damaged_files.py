"""A run's or comparison's file that is damaged or foreign is one line that names it, and exit 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import write_comparison
from tests.conftest import Outcome
from tests.fabricating import fabricate


def without_warnings(content: dict[str, Any]) -> None:
    del content["warnings"]


def text_for_a_number(content: dict[str, Any]) -> None:
    content["wall_s"] = "long"


@pytest.mark.parametrize(
    ("file", "damage", "field"),
    [("manifest.json", without_warnings, "warnings"), ("cost.json", text_for_a_number, "wall_s")],
)
def test_a_wrong_field_is_named(
    tmp_path: Path,
    headstart: Callable[..., Outcome],
    file: str,
    damage: Callable[[dict[str, Any]], None],
    field: str,
) -> None:
    run = fabricate(tmp_path / "run", name="whole")
    content = json.loads((run.path / file).read_text())
    damage(content)
    (run.path / file).write_text(json.dumps(content))
    outcome = headstart("explain", run.path, run.path)
    assert outcome.code == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert file in line and field in line


def test_a_comparison_cut_in_half_is_named(
    tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    runs = [fabricate(tmp_path / name, name=name) for name in ("a", "b")]
    write_comparison(build_comparison("study", runs, [], tmp_path), tmp_path)
    path = tmp_path / "comparison.json"
    path.write_text(path.read_text()[: path.stat().st_size // 2])
    outcome = headstart("report", tmp_path)
    assert outcome.code == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and "comparison.json" in line
