"""Start-up: help is instant, and what needs no tensor loads no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import headstart

LIGHT = [
    "headstart",
    "headstart.cli",
    "headstart.errors",
    "headstart.openmp",
    "headstart.recipe",
    "headstart.rundir",
    "headstart.tables",
    "headstart.tables_selection",
    "headstart.tracking",
    "headstart.data",
    "headstart.evaluation.feature_map",
    "headstart.evaluation.metrics",
    "headstart.evaluation.statistics",
    "headstart.evaluation.notable",
    "headstart.evaluation.transferability",
    "headstart.comparison.explain",
    "headstart.comparison.leaderboard",
    "headstart.comparison.limits",
    "headstart.comparison.measuring",
    "headstart.comparison.selection",
    "headstart.report",
    "headstart.models.catalogue",
]
HEAVY = ("torch", "timm", "openvino")


def loaded_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", LIGHT)
def test_module_loads_no_torch(module: str) -> None:
    assert loaded_after(f"import {module}") == set()


def test_help_loads_no_torch() -> None:
    code = (
        "from headstart.cli import main\nsys.argv[1:] = ['--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert loaded_after(code) == set()


def test_public_names_resolve() -> None:
    assert len(headstart.__all__) >= 20
    for name in headstart.__all__:
        assert callable(getattr(headstart, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = headstart.nothing
