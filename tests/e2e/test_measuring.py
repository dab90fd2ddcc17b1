"""Serving costs, measured in a process of their own after the runs."""

from __future__ import annotations

import fcntl
import json
import shutil
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import headstart as library
from headstart.comparison import measuring
from headstart.comparison.measuring import measure_runs
from headstart.progress import Reporter
from headstart.recipe import load_recipe
from headstart.report.contenders import training_seconds
from headstart.rundir import Run, open_run
from tests.conftest import Outcome, leave_unmeasured

RECIPE = """\
name = "tiny"
[data]
source = "cifar10-mini"
train_limit = 100
test_limit = 40
size = 32
[backbone]
name = "small_cnn"
weights = "random"
[[phases]]
train = "from_scratch"
epochs = 1
[[phases]]
train = "head"
"""


@pytest.fixture(scope="module")
def finished(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody has measured."""
    folder = tmp_path_factory.mktemp("measuring")
    (folder / "tiny.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        leave_unmeasured(patch)
        return library.run(load_recipe(folder / "tiny.toml"), out=folder / "run").path


@pytest.fixture
def runs(finished: Path, tmp_path: Path, cache: Path) -> list[Run]:
    """Two finished runs without a measurement."""
    return [open_run(shutil.copytree(finished, tmp_path / name)) for name in ("a", "b")]


class Listener(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.waits = threading.Event()

    def say(self, line: str) -> None:
        self.lines.append(line)
        if "waiting" in line:
            self.waits.set()

    warn = say


def test_a_finished_run_says_what_it_costs_by_phase(finished: Path) -> None:
    cost = open_run(finished).cost
    assert "measured" not in cost
    assert [(phase["phase"], phase["train"]) for phase in cost["phases"]] == [
        (1, "from_scratch"),
        (2, "head"),
    ]
    assert sum(phase["train_s"] for phase in cost["phases"]) == pytest.approx(cost["train_s"])
    assert cost["phases"][1]["extract_s"] == pytest.approx(cost["extract_s"])
    file = finished / "checkpoints" / "best.safetensors"
    assert cost["file_mb"] == file.stat().st_size / 1e6
    assert cost["file_mb"] > cost["size_mb"]  # and its header


def test_a_run_that_finds_its_features_costs_what_it_would_alone(
    tmp_path: Path, cache: Path
) -> None:
    """Two runs of one recipe, the second with a warm cache: nothing that is compared differs but
    the training itself."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "tiny.toml")
    cold, warm = (library.run(recipe, out=tmp_path / name) for name in ("cold", "warm"))
    passes = [e for e in cold.log if e["event"] == "extract"]
    seconds = sum(e["entry_seconds"] for e in passes)
    assert len(passes) > 1
    assert not any(e["cached"] for e in passes)
    assert cold.cost["spared_s"] == 0.0
    assert warm.cost["extract_s"] == 0.0
    assert warm.cost["spared_s"] == pytest.approx(seconds)
    for run in (cold, warm):
        assert run.cost["alone_s"] == pytest.approx(seconds + run.cost["train_s"])
        row = {"cost": run.cost}
        assert training_seconds(row) == run.cost["alone_s"]
    compared = library.compare([cold, warm], out=tmp_path / "compared")
    assert {c["alone_s"] for c in compared.configurations} == {
        run.cost["alone_s"] for run in (cold, warm)
    }


def answer(ms: float, session: str, busy: str | None = None) -> dict[str, object]:
    """What the measuring process says of a run in the end."""
    return {
        "latency_ms": {"median": ms, "low": ms, "high": ms, "p95": ms, "n": 30},
        "throughput": {"batch": 32, "images_per_s": 200.0},
        "measured": {"session": session, "busy": busy},
    }


def test_a_busy_machine_is_told_and_measured_again_and_replaces_no_quiet_one(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [answer(90.0, "first", "others had the cores")]
    asked: list[int] = []

    def answers(left: list[Run], device: str, reporter: Reporter) -> list[dict[str, object]]:
        asked.append(len(left))
        return said * len(left)

    monkeypatch.setattr(measuring, "_answers", answers)
    listener = Listener()
    (run,) = measure_runs(runs[:1], reporter=listener)
    assert sum("too busy to time models (others had the cores)" in x for x in listener.lines) == 1
    assert run.cost["latency_ms"]["median"] == 90.0
    said[:] = [answer(10.0, "second")]
    (run,) = measure_runs([run], reporter=listener)
    assert run.cost["latency_ms"]["median"] == 10.0
    assert measure_runs([run]) == [run]
    assert asked == [1, 1]
    # Beside a run that nobody has measured, both are measured together.
    said[:] = [answer(80.0, "third", "others had the cores")]
    both = measure_runs([run, runs[1]])
    assert asked == [1, 1, 2]
    assert [each.cost["measured"]["session"] for each in both] == ["second", "third"]
    said[:] = [answer(9.0, "fourth")]
    both = measure_runs(both)
    assert {each.cost["measured"]["session"] for each in both} == {"fourth"}


def test_runs_are_measured_once_and_keep_what_was_measured(
    runs: list[Run], headstart: Callable[..., Outcome], measured: None
) -> None:
    told: list[Path] = []
    both = measure_runs(runs, on_measured=lambda run: told.append(run.path))
    assert told == [run.path for run in runs]
    for run in both:
        cost = run.cost
        one, many = cost["latency_ms"], cost["throughput"]
        assert 0 < one["median"] <= one["p95"]
        assert one["low"] <= one["median"] <= one["high"]
        assert one["n"] >= 6
        assert many["batch"] > 1
        assert many["images_per_s"] > 0
        assert cost["serving_rss_mb"] > 50
        assert cost["measured"]["process"] == "its own, after the runs"
        assert cost["wall_s"] > 0  # what was there stays
        assert f"{one['median']:.1f}" in (run.path / "report" / "report.html").read_text()
    # They are copies of one network, timed together and as one.
    assert both[0].cost["latency_ms"] == both[1].cost["latency_ms"]
    assert both[0].cost["measured"]["session"] == both[1].cost["measured"]["session"]
    for run in both:  # however busy the machine was
        measured_then = {**run.cost["measured"], "busy": None}
        (run.path / "cost.json").write_text(json.dumps({**run.cost, "measured": measured_then}))
    both = [open_run(run.path) for run in both]
    before = [(run.path / "cost.json").read_bytes() for run in both]
    listener = Listener()
    assert measure_runs(both, reporter=listener) == both
    assert listener.lines == []
    outcome = headstart("compare", *(run.path for run in both), "--out", runs[0].path.parent / "c")
    assert outcome.code == 0, outcome.err
    assert [(run.path / "cost.json").read_bytes() for run in both] == before


def test_a_run_and_a_study_are_measured_at_their_end(
    cache: Path, tmp_path: Path, headstart: Callable[..., Outcome], measured: None
) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    outcome = headstart("run", tmp_path / "tiny.toml", "--out", tmp_path / "run", "--json")
    assert json.loads(outcome.out)["cost"]["measured"]["warm_up"] > 0
    (tmp_path / "study.toml").write_text(RECIPE + "[grid]\nseed = [0, 1]\n")
    outcome = headstart("compare", tmp_path / "study.toml", "--out", tmp_path / "study", "--json")
    assert outcome.err.count("measuring what 2 runs cost") == 1
    costs = [run["cost"] for run in json.loads(outcome.out)["runs"]]
    assert all(cost["latency_ms"]["median"] > 0 for cost in costs)
    rows = json.loads((tmp_path / "study" / "comparison.json").read_text())["rows"]
    assert all(row["cost"]["latency_ms"]["median"] > 0 for row in rows)


def test_a_killed_measurement_costs_one_run_its_measurement(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first measuring process kills itself; the next goes on with the run after."""
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/killed ] || {{ touch {tmp_path}/killed; kill -9 $$; }}\n"
        f'exec {sys.executable} "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with monkeypatch.context() as patch:
        patch.setattr(measuring.sys, "executable", str(program))
        listener = Listener()
        first, second = measure_runs(runs, reporter=listener)
    assert first.finished
    assert first.cost["not_measured"] == "the measuring process was killed (SIGKILL)"
    assert "latency_ms" not in first.cost
    assert "measured" in second.cost
    assert any("SIGKILL" in line for line in listener.lines)
    again = measure_runs([first, second])[0]
    assert "measured" in again.cost
    assert "not_measured" not in again.cost


def test_a_model_that_cannot_be_loaded_is_said_and_the_others_are_measured(
    runs: list[Run],
) -> None:
    (runs[0].path / "checkpoints" / "best.safetensors").write_bytes(b"nothing")
    first, second = measure_runs(runs)
    assert "cannot be loaded" in first.cost["not_measured"]
    assert "measured" in second.cost


def test_two_commands_do_not_measure_at_once(runs: list[Run], cache: Path) -> None:
    listener = Listener()
    with (cache / "measuring.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker = threading.Thread(target=lambda: measure_runs(runs[:1], reporter=listener))
        worker.start()
        assert listener.waits.wait(60)
        assert "measured" not in open_run(runs[0].path).cost
    worker.join()
    assert "measured" in open_run(runs[0].path).cost


def set_cost(run: Run, accuracy: float, ms: float | None, mb: float) -> None:
    """Give a run another validation accuracy, latency and size."""
    cost = {**run.cost, "file_mb": mb, "measured": {}}
    if ms is not None:
        cost["latency_ms"] = {"median": ms, "p95": ms, "n": 10}
    (run.path / "cost.json").write_text(json.dumps(cost))
    metrics = run.metrics
    metrics["val"]["accuracy"] = accuracy
    (run.path / "metrics.json").write_text(json.dumps(metrics))


def test_the_best_within_limits_is_named(
    runs: list[Run], tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    big, small = runs
    set_cost(big, 0.9, 12.0, 30.0)
    set_cost(small, 0.8, 5.0, 10.0)
    fingerprint = big.manifest["fingerprint"]
    command = ("compare", big.path, small.path, "--out", tmp_path / "c")

    def asked(*limits: str) -> tuple[dict[str, object], str]:
        outcome = headstart(*command, *limits)
        assert outcome.code == 0, outcome.err
        kept = json.loads((tmp_path / "c" / "comparison.json").read_text())
        return kept["limits"], outcome.out

    limits, text = asked("--max-ms", "10")
    assert limits["best"] == f"tiny-{fingerprint}-2"
    assert "best within 10 ms: tiny" in text
    assert asked("--max-mb", "30")[0]["best"] == f"tiny-{fingerprint}-1"
    limits, text = asked("--max-ms", "10", "--max-mb", "5")
    assert limits["best"] is None
    assert (limits["max_ms"], limits["max_mb"]) == (10.0, 5.0)
    assert "no finished run is within 10 ms and 5 MB: the least time was taken by tiny" in text
    outcome = headstart(*command, "--json", "--max-ms", "1000")
    assert json.loads(outcome.out)["limits"]["best"] == json.loads(outcome.out)["best"]
    assert headstart(*command).code == 0
    assert "limits" not in json.loads((tmp_path / "c" / "comparison.json").read_text())


def test_noise_on_either_side_of_a_limit_is_told(runs: list[Run], tmp_path: Path) -> None:
    for run, ms in zip(runs, (9.8, 10.3), strict=True):
        set_cost(run, 0.9, ms, 30.0)
        cost = json.loads((run.path / "cost.json").read_text())
        cost["latency_ms"] = {"median": ms, "low": ms - 0.1, "high": ms + 0.1, "p95": ms}
        (run.path / "cost.json").write_text(json.dumps(cost))
    fresh = [open_run(run.path) for run in runs]

    def asked(max_ms: float) -> dict[str, object]:
        limits = library.compare(fresh, out=tmp_path / "c", max_ms=max_ms).limits
        assert limits is not None
        return limits

    limits = asked(10.0)
    assert str(limits["best"]).endswith("-1")
    assert [str(run)[-2:] for run in limits["uncertain"]] == ["-1", "-2"]  # type: ignore[attr-defined]
    assert "noise does not tell" in str(limits["text"])
    assert asked(20.0)["uncertain"] == []
    busy = fresh[0].cost
    busy["measured"] = {"busy": "others had the cores"}
    (fresh[0].path / "cost.json").write_text(json.dumps(busy))
    fresh = [open_run(run.path) for run in runs]
    assert "the machine was too busy to time them" in str(asked(20.0)["text"])


def test_limits_work_on_the_library_too(runs: list[Run], tmp_path: Path) -> None:
    set_cost(runs[0], 0.9, None, 30.0)  # not measured: fits no milliseconds
    set_cost(runs[1], 0.8, 5.0, 10.0)
    fresh = [open_run(run.path) for run in runs]
    compared = library.compare(fresh, out=tmp_path / "c", max_ms=100.0)
    assert compared.limits is not None
    assert str(compared.limits["best"]).endswith("-2")
