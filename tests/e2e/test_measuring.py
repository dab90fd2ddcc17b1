"""Serving costs, measured in a process of their own after the runs."""

from __future__ import annotations

import fcntl
import json
import shutil
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import headstart as library
from headstart.deployment import measuring
from headstart.deployment.export import export
from headstart.deployment.measuring import measure_runs
from headstart.files import to_json, write_json
from headstart.machine.progress import Reporter
from headstart.recipe import load_recipe
from headstart.rundir.records import LatencyMs, Measured, Serving, Throughput
from headstart.rundir.run import Run, open_run
from tests.conftest import Outcome, measure_briefly
from tests.recipes import Table, log_of, recipe_text, write_recipe

PHASES: tuple[Table, ...] = ({"train": "from_scratch", "epochs": 1}, {"train": "head"})


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)


@pytest.fixture(scope="module")
def finished(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and exported run that nobody has measured."""
    folder = tmp_path_factory.mktemp("measuring")
    recipe = load_recipe(write_recipe(folder, recipe_text("tiny", *PHASES)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        run = library.run(recipe, out=folder / "run")
        export(run, whole_test=False)
        return run.path


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
    cost = to_json(open_run(finished).cost)
    assert cost["measured"] is None
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
    recipe = load_recipe(write_recipe(tmp_path, recipe_text("tiny", *PHASES)))
    cold, warm = (library.run(recipe, out=tmp_path / name) for name in ("cold", "warm"))
    passes = [e for e in log_of(cold) if e["event"] == "extract"]
    seconds = sum(e["entry_seconds"] for e in passes)
    assert len(passes) > 1
    assert not any(e["cached"] for e in passes)
    assert cold.cost.spared_s == 0.0
    assert warm.cost.extract_s == 0.0
    assert warm.cost.spared_s == pytest.approx(seconds)
    for run in (cold, warm):
        assert run.cost.alone_s == pytest.approx(seconds + run.cost.train_s)
    compared = library.compare([cold, warm], out=tmp_path / "compared")
    assert {c.alone_s for c in compared.configurations} == {
        run.cost.alone_s for run in (cold, warm)
    }


MEASURED = Measured("its own", 3, "float32", 2, "a CPU", "2026-01-01T00:00:00", "s", 5, 1.0, None)


def answer(ms: float, session: str, busy: str | None = None) -> measuring.Answer:
    """What the measuring process says of a run in the end."""
    return measuring.Answer(
        Serving(
            LatencyMs(ms, ms, ms, ms, 30),
            Throughput(200.0, None, None, 32, 5),
            100.0,
            replace(MEASURED, session=session, busy=busy),
            None,
        ),
        None,
    )


def test_a_busy_machine_is_reported_and_measured_again_and_replaces_no_quiet_one(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [answer(90.0, "first", "others had the cores")]
    asked: list[int] = []

    def answers(left: list[Run], device: str, reporter: Reporter) -> list[measuring.Answer]:
        asked.append(len(left))
        return said * len(left)

    monkeypatch.setattr(measuring, "_answers", answers)
    listener = Listener()
    (run,) = measure_runs(runs[:1], reporter=listener)
    assert sum("too busy to time models (others had the cores)" in x for x in listener.lines) == 1
    assert run.cost.latency_ms.median == 90.0
    said[:] = [answer(10.0, "second")]
    (run,) = measure_runs([run], reporter=listener)
    assert run.cost.latency_ms.median == 10.0
    assert measure_runs([run]) == [run]
    assert asked == [1, 1]
    # Beside a run that nobody has measured, both are measured together.
    said[:] = [answer(80.0, "third", "others had the cores")]
    both = measure_runs([run, runs[1]])
    assert asked == [1, 1, 2]
    assert [each.cost.measured.session for each in both] == ["second", "third"]
    said[:] = [answer(9.0, "fourth")]
    both = measure_runs(both)
    assert {each.cost.measured.session for each in both} == {"fourth"}


def test_runs_are_measured_once_and_keep_what_was_measured(
    runs: list[Run], headstart: Callable[..., Outcome], measured: None
) -> None:
    notified: list[Path] = []
    listener = Listener()
    both = measure_runs(runs, reporter=listener, on_measured=lambda run: notified.append(run.path))
    assert notified == [run.path for run in runs]
    for run in both:
        assert run.cost.measured, listener.lines
        cost = to_json(run.cost)
        one, many = cost["latency_ms"], cost["throughput"]
        assert 0 < one["median"] <= one["p95"]
        assert one["low"] <= one["median"] <= one["high"]
        assert one["n"] >= 6
        assert many["batch"] > 1
        assert many["images_per_s"] > 0
        assert 50 < cost["serving_rss_mb"] < 300  # its own: small_cnn, without torch
        assert "its own, after the runs, by o" in cost["measured"]["process"]  # not by torch
        assert cost["wall_s"] > 0  # what was there stays
        assert f"{one['median']:.1f}" in (run.path / "report" / "report.html").read_text()
    # They are copies of one network, timed together and as one.
    assert both[0].cost.latency_ms == both[1].cost.latency_ms
    assert both[0].cost.measured.session == both[1].cost.measured.session
    for run in both:  # however busy the machine was
        assert run.cost.measured is not None
        write_json(
            run.path / "cost.json",
            replace(run.cost, measured=replace(run.cost.measured, busy=None)),
        )
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
    recipe = write_recipe(tmp_path, recipe_text("tiny"))
    outcome = headstart("run", recipe, "--out", tmp_path / "run", "--json")
    assert json.loads(outcome.out)["cost"]["measured"]["warm_up"] > 0
    study = write_recipe(tmp_path, recipe_text("tiny", grid={"seed": [0, 1]}))
    outcome = headstart("compare", study, "--out", tmp_path / "study", "--json")
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
    assert first.cost.not_measured == "the measuring process was killed (SIGKILL)"
    assert first.cost.latency_ms is None
    assert second.cost.measured is not None
    assert any("SIGKILL" in line for line in listener.lines)
    again = measure_runs([first, second])[0]
    assert again.cost.measured is not None
    assert again.cost.not_measured is None


def test_a_model_that_cannot_be_loaded_is_said_and_the_others_are_measured(
    runs: list[Run],
) -> None:
    (runs[0].path / "checkpoints" / "best.safetensors").write_bytes(b"nothing")
    first, second = measure_runs(runs)
    assert "best.safetensors: damaged" in (first.cost.not_measured or "")
    assert second.cost.measured is not None


def test_two_commands_do_not_measure_at_once(runs: list[Run], cache: Path) -> None:
    listener = Listener()
    with (cache / "measuring.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker = threading.Thread(target=lambda: measure_runs(runs[:1], reporter=listener))
        worker.start()
        assert listener.waits.wait(60)
        assert open_run(runs[0].path).cost.measured is None
    worker.join()
    assert open_run(runs[0].path).cost.measured is not None


def set_cost(run: Run, accuracy: float, ms: float | None, mb: float) -> None:
    """Give a run another validation accuracy, latency and size."""
    cost = replace(run.cost, file_mb=mb)
    if ms is not None:
        cost = replace(cost, latency_ms=LatencyMs(ms, None, None, ms, 10), measured=MEASURED)
    write_json(run.path / "cost.json", cost)
    val = replace(run.metrics.val, accuracy=accuracy)
    write_json(run.path / "metrics.json", replace(run.metrics, val=val))


def test_the_best_within_limits_is_named(
    runs: list[Run], tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    big, small = runs
    set_cost(big, 0.9, 12.0, 30.0)
    set_cost(small, 0.8, 5.0, 10.0)
    fingerprint = big.manifest.fingerprint
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
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["limits"] is None


def test_noise_on_either_side_of_a_limit_is_reported(runs: list[Run], tmp_path: Path) -> None:
    for run, ms in zip(runs, (9.8, 10.3), strict=True):
        set_cost(run, 0.9, ms, 30.0)
        latency = LatencyMs(ms, ms - 0.1, ms + 0.1, ms, 10)
        cost = replace(open_run(run.path).cost, latency_ms=latency, measured=MEASURED)
        write_json(run.path / "cost.json", cost)
    fresh = [open_run(run.path) for run in runs]

    def asked(max_ms: float) -> Any:
        limits = library.compare(fresh, out=tmp_path / "c", max_ms=max_ms).limits
        assert limits is not None
        return to_json(limits)

    limits = asked(10.0)
    assert str(limits["best"]).endswith("-1")
    assert [str(run)[-2:] for run in limits["uncertain"]] == ["-1", "-2"]
    assert "noise does not tell" in str(limits["text"])
    assert asked(20.0)["uncertain"] == []
    busy = replace(MEASURED, busy="others had the cores")
    write_json(fresh[0].path / "cost.json", replace(fresh[0].cost, measured=busy))
    fresh = [open_run(run.path) for run in runs]
    assert "the machine was too busy to time them" in str(asked(20.0)["text"])


def test_limits_work_on_the_library_too(runs: list[Run], tmp_path: Path) -> None:
    set_cost(runs[0], 0.9, None, 30.0)  # not measured: fits no milliseconds
    set_cost(runs[1], 0.8, 5.0, 10.0)
    fresh = [open_run(run.path) for run in runs]
    compared = library.compare(fresh, out=tmp_path / "c", max_ms=100.0)
    assert compared.limits is not None
    assert compared.limits is not None
    assert str(compared.limits.best).endswith("-2")
