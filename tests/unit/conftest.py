"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from headstart.comparison.records import Comparison
from headstart.rundir.run import Run
from tests.fabricating import pixel_study


@pytest.fixture(scope="session")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], Comparison]:
    """Six runs with everything a report can show, and their comparison; read only."""
    return pixel_study(tmp_path_factory.mktemp("pixels"))
