"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.comparison.records import Comparison
from headstart.rundir.run import Run
from tests.fabricating import pixel_study


@pytest.fixture(scope="session")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], Comparison]:
    """Six runs with everything a report can show, and their comparison; read only."""
    return pixel_study(tmp_path_factory.mktemp("pixels"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache; for tests that ask for no path in it."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
