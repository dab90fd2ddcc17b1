"""Tracking where something is missing, wrong or silent: it never costs the run."""

from __future__ import annotations

import builtins
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headstart import tracking
from headstart.machine.progress import Reporter
from headstart.rundir.run import Run, open_run
from headstart.tracking import TrackingError, track
from headstart.tracking import server as connection
from tests.conftest import Outcome
from tests.fabricating import fabricate
from tests.recipes import recipe_text, write_recipe
from tests.tracked import error_line, tracked_runs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MLflow and of what it imports
    pytest.importorskip("mlflow", reason="needs the extra mlflow")

# SQLAlchemy's, of what MLflow's local store is written with.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
Command = Callable[..., Outcome]


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    return fabricate(tmp_path / "finished", name="finished", n=20)


@pytest.fixture
def local(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'local.db'}"


@pytest.fixture
def recipe(tmp_path: Path, cache: Path) -> Path:
    return write_recipe(tmp_path, recipe_text("tiny", train=40, test=20, size=16))


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the client that a test uses itself."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def test_an_unreachable_server_costs_seconds_and_not_the_run(
    recipe: Path, tmp_path: Path, local: str, headstart: Command
) -> None:
    with socket.socket() as held:  # bound and not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        uri = f"http://someone:secret@127.0.0.1:{held.getsockname()[1]}"
        outcome = headstart("run", recipe, "--out", tmp_path / "run", "--track", uri)
        line = error_line(outcome)
        started = time.monotonic()
        with pytest.raises(TrackingError, match="no answer"):
            track(open_run(tmp_path / "run"), uri, "away")
        assert time.monotonic() - started < 10
    assert "no answer from the tracking server at http://127.0.0.1" in line
    assert "the same command tracks them" in line
    assert "secret" not in outcome.err
    assert "test accuracy" in outcome.out  # the results are not withheld
    assert "tried again when the run ends" in outcome.err.splitlines()[0]
    assert open_run(tmp_path / "run").finished
    later = headstart("run", recipe, "--out", tmp_path / "run", "--track", local)
    assert later.code == 0
    assert "nothing to repeat" in later.err
    assert [run.info.status for run in tracked_runs(local, "tiny")] == ["FINISHED"]


def test_a_server_that_hangs_is_given_up_on(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.FIRST, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        started = time.monotonic()
        with pytest.raises(TrackingError, match="no answer"):
            track(finished, f"http://127.0.0.1:{silent.getsockname()[1]}", "away")
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("package", ["mlflow", "sqlalchemy"])
def test_a_missing_package_is_reported_before_training(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headstart: Command, package: str
) -> None:
    find = connection.find_spec
    monkeypatch.setattr(
        connection, "find_spec", lambda name: None if name == package else find(name)
    )
    outcome = headstart("run", recipe, "--out", tmp_path / "run", "--track", "sqlite:///x.db")
    line = error_line(outcome)
    assert f"{package} is not installed" in line
    assert "pip install mlflow-skinny sqlalchemy alembic" in line
    assert not (tmp_path / "run").exists()


def test_the_library_without_mlflow_says_how_to_install_it(
    finished: Run, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "mlflow":
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TrackingError, match="pip install mlflow-skinny"):
        track(finished, local, "missing")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("localhost:5000", "use local, sqlite:///FILE.db or http://HOST:PORT"),
        ("sqlite:///{}/text.db", "file is not a database"),
    ],
)
def test_a_wrong_uri_is_reported_before_training(
    recipe: Path, tmp_path: Path, headstart: Command, uri: str, says: str
) -> None:
    (tmp_path / "text.db").write_text("words, and no tables of a database in it at all" * 50)
    outcome = headstart("run", recipe, "--out", tmp_path / "run", "--track", uri.format(tmp_path))
    assert says in error_line(outcome)
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_damaged_file_stops_no_study(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "a", name="a", n=20)
    (run.path / "metrics.json").write_text("{")
    tracker = tracking.create_tracker(f"sqlite:///{tmp_path / 'x.db'}", "study", Reporter())
    tracker(Run(run.path))
    with pytest.raises(TrackingError, match=r"metrics\.json: damaged"):
        tracker.close()
