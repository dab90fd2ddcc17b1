"""Tracking: what a run directory holds arrives in MLflow, once, and never costs the run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import tracking, workbench
from headstart.data import load_data
from headstart.files import to_json, write_json
from headstart.recipe import load_recipe
from headstart.rundir.history import Epoch, Extract, History, PhaseBegun, PhaseDone, Solve
from headstart.rundir.records import LatencyMs
from headstart.rundir.run import Run, open_run
from headstart.specs import DataSpec
from headstart.tracking import track
from headstart.tracking.record import epoch_points, read_record
from tests.conftest import Outcome
from tests.fabricating import fabricate
from tests.recipes import Table, log_of, recipe_text, write_recipe
from tests.tracked import error_line, tracked_runs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MLflow and of what it imports
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")

# SQLAlchemy's, of what MLflow's local store is written with.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
Command = Callable[..., Outcome]
SCRATCH = ({"train": "from_scratch", "epochs": 2}, {"train": "from_scratch", "epochs": 1})
TINY: Table = {"train": 40, "test": 20, "size": 16, "more": "batch_size = 32"}
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")
START_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server on loopback that keeps its own database and serves the artefacts."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artefacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()  # which stops its worker as well
        process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def trained(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs in two phases, with times as if it had been measured."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = load_recipe(write_recipe(folder, recipe_text("tiny", *SCRATCH, **TINY)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        run = workbench.run(recipe, out=folder / "run")
    latency = LatencyMs(4.0, 3.9, 4.1, 4.5, 30)
    write_json(run.path / "cost.json", replace(run.cost, latency_ms=latency))
    return run.path


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Run:
    """A copy of that run at a path of its own, so that no other test has tracked it."""
    return open_run(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local store as MLflow makes it, which takes seconds."""
    path = tmp_path_factory.mktemp("store") / "new.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def local(tmp_path: Path, new_store: Path) -> str:
    shutil.copy(new_store, tmp_path / "local.db")
    return f"sqlite:///{tmp_path / 'local.db'}"


@pytest.fixture
def recipe(tmp_path: Path, cache: Path) -> Path:
    return write_recipe(tmp_path, recipe_text("tiny", *SCRATCH, **TINY))


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the client that a test uses itself."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_server_gets_parameters_curves_scores_and_tags(finished: Run, server: str) -> None:
    run_id = track(finished, server, "arrival")
    client = mlflow.MlflowClient(server)
    got = client.get_run(run_id)
    assert (got.info.status, got.info.run_name) == ("FINISHED", "tiny")
    params, tags, metrics = got.data.params, got.data.tags, got.data.metrics
    manifest = to_json(finished.provenance)
    assert params["phases.0.epochs"] == "2"
    assert params["phases.1.train"] == "from_scratch"
    assert params["data.size"] == "16"
    assert params["head.hidden"] == "[]"
    assert params["data.augment.flip"] == "false"
    assert params["data.fingerprint"] == manifest["data"]["fingerprint"]
    assert params["weights.provider"] == "random"
    assert tags["versions.torch"] == manifest["versions"]["torch"]
    assert tags["machine.cores"] == str(manifest["machine"]["cores"])
    assert tags["headstart.path"] == str(finished.path)
    epochs = [event for event in log_of(finished) if event["event"] == "epoch"]
    assert len(epochs) == 3
    for name in CURVES:
        history = client.get_metric_history(run_id, f"epoch/{name}")
        assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [
            (step, epoch[name]) for step, epoch in enumerate(epochs, start=1)
        ]
        assert got.info.start_time <= history[0].timestamp <= got.info.end_time
    for split in ("val", "test"):
        for score in ("accuracy", "loss"):
            assert metrics[f"{split}/{score}"] == to_json(finished.metrics)[split][score]
    assert metrics["test/interval_low"] == finished.metrics.test.interval[0]
    assert metrics["cost/wall_s"] == finished.cost.wall_s
    assert metrics["cost/latency_ms/median"] == finished.cost.latency_ms.median
    assert metrics["temperature"] == finished.metrics.temperature
    assert metrics["test/calibrated/ece"] == finished.metrics.test.calibrated.ece
    assert not any("per_class" in name or "bins" in name for name in metrics)


def test_the_server_gets_every_file_of_the_run(finished: Run, server: str, tmp_path: Path) -> None:
    (finished.path / "checkpoints" / "last.safetensors").write_bytes(b"what a resumed run needs")
    run_id = track(finished, server, "files")
    client = mlflow.MlflowClient(server)
    (tmp_path / "got").mkdir()
    got = files_of(Path(client.download_artifacts(run_id, "run", str(tmp_path / "got"))))
    del got["MLmodel"]
    wanted = files_of(finished.path)
    del wanted["checkpoints/last.safetensors"]
    promised = {
        *("recipe.toml", "manifest.json", "metrics.json", "cost.json", "log.jsonl"),
        *("report/report.html", "predictions/val.npz", "predictions/test.npz"),
        "checkpoints/best.safetensors",
    }
    assert promised <= got.keys()
    assert got == wanted


def test_mlflow_loads_the_model_without_pickle(
    finished: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = track(finished, server, "model")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, through MLflow
        from mlflow import pyfunc

        model = pyfunc.load_model(f"runs:/{run_id}/run")
    test = load_data(DataSpec(source="cifar10-mini", test_limit=20, size=16)).test
    saved = finished.predictions("test")
    assert list(test.ids) == list(saved.ids)
    paths = [str(tmp_path / f"{row}.png") for row in range(5)]
    for row, path in enumerate(paths):
        Image.fromarray(test.read(np.array([row]))[0]).save(path)
    answers = model.predict(paths)
    names = finished.class_names
    served = saved.tempered(finished.metrics.temperature).probabilities
    for answer, expected in zip(answers, served[:5], strict=True):
        got = [answer["probabilities"][name] for name in names]
        assert got == pytest.approx(list(expected), abs=1e-4)
        assert answer["label"] == names[int(np.argmax(expected))]


@pytest.mark.parametrize("store", ["server", "local"])
def test_a_run_tracked_twice_is_one_mlflow_run(
    finished: Run, store: str, request: pytest.FixtureRequest
) -> None:
    uri = request.getfixturevalue(store)
    first = track(finished, uri, f"twice-{store}")
    client = mlflow.MlflowClient(uri)
    before = {name: client.get_metric_history(first, name) for name in ("epoch/lr", "test/loss")}
    # Or else nothing at all would be sent; the points are a minute later, and the same.
    created = datetime.fromisoformat(finished.manifest.created) + timedelta(minutes=1)
    made = replace(finished.provenance, commit="another")
    finished.update_manifest(provenance=made, created=created.isoformat())
    assert track(finished, uri, f"twice-{store}") == first
    (run,) = tracked_runs(uri, f"twice-{store}")
    assert run.data.tags["mlflow.source.git.commit"] == "another"
    for name, history in before.items():
        assert len(client.get_metric_history(first, name)) == len(history)


def test_a_run_that_has_not_changed_sends_nothing(
    finished: Run, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(os.environ)
    first = track(finished, local, "still")
    assert dict(os.environ) == before  # the variables are set for the call alone
    monkeypatch.setattr(tracking, "send", lambda *_: pytest.fail("sent again"))
    assert track(finished, local, "still") == first


def test_another_run_at_the_same_path_is_another_mlflow_run(finished: Run, local: str) -> None:
    first = track(finished, local, "place")
    finished.update_manifest(fingerprint="of other images")
    second = track(finished, local, "place")
    assert second != first
    assert track(finished, local, "place") == second


def test_steps_count_on_over_phases_and_a_solved_head_is_one() -> None:
    def epoch(phase: int, number: int, loss: float) -> Epoch:
        return Epoch(phase, 0.0, 0.0, loss, 0.0, number, 1e-3, 2.0)

    log = [
        PhaseBegun(0, "head", "lbfgs", "head", True, None, 10),
        Extract(0, "train", 4, 1.0, False, "entry", 1.0),
        Solve(0, 0.0, 0.0, 0.9, 0.0, 1.0, 5),
        Solve(0, 0.0, 0.0, 0.8, 0.0, 0.1, 5),
        PhaseDone(0, True, 0.9, 0.0, None, 1.0, 2.0, 3.0),
        PhaseBegun(1, "all", "adamw", "stem", False, 2, 10),
        epoch(1, 0, 0.7),
        epoch(1, 1, 0.6),
        epoch(1, 1, 0.5),  # again, by a run that was resumed
        PhaseDone(1, True, 0.5, 0.0, 1, None, None, 4.0),
        epoch(2, 0, 0.4),
    ]
    history = History.of(log)
    points = [p for p in epoch_points(history, 10_000) if p.key == "epoch/val_loss"]
    assert [(p.step, p.value) for p in points] == [(1, 0.9), (2, 0.7), (3, 0.5), (4, 0.4)]
    assert [p.timestamp for p in points] == [14_000, 16_000, 20_000, 22_000]


def test_an_interrupted_run_is_killed_and_its_resumption_finishes_it(
    recipe: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, headstart: Command
) -> None:
    command = ("run", recipe, "--out", tmp_path / "run", "--track", server, "--set", "seed=7")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workbench, "assess", interrupt)
        assert "interrupted" in error_line(headstart(*command))
    (killed,) = [r for r in tracked_runs(server, "tiny") if r.data.params["seed"] == "7"]
    assert killed.info.status == "KILLED"
    assert "epoch/val_loss" in killed.data.metrics
    assert "test/accuracy" not in killed.data.metrics
    resumed = headstart(*command, "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["name"] == "tiny"  # no other word on stdout
    (whole,) = [r for r in tracked_runs(server, "tiny") if r.data.params["seed"] == "7"]
    assert (whole.info.run_id, whole.info.status) == (killed.info.run_id, "FINISHED")
    history = mlflow.MlflowClient(server).get_metric_history(whole.info.run_id, "epoch/val_loss")
    assert sorted(m.step for m in history) == [1, 2, 3]
    assert "test/accuracy" in whole.data.metrics


def test_a_study_is_an_experiment_and_its_failed_run_is_failed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, headstart: Command
) -> None:
    study = write_recipe(tmp_path, recipe_text("pair", **TINY, grid={"seed": [0, 1]}))
    monkeypatch.chdir(tmp_path)
    assess = workbench.assess

    def fail_once(trained: Any, journal: Any) -> None:
        if trained.plan.recipe.seed == 1:
            raise RuntimeError("the disk went away")
        assess(trained, journal)

    monkeypatch.setattr(workbench, "assess", fail_once)
    outcome = headstart(
        *("compare", study, "--out", "study", "--track", "local", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert len(json.loads(outcome.out)["runs"]) == 1  # stdout is for results alone
    runs = {run.info.run_name: run for run in tracked_runs("sqlite:///mlflow.db", "pair")}
    assert {name: run.info.status for name, run in runs.items()} == {"0": "FINISHED", "1": "FAILED"}
    assert "the disk went away" in runs["1"].data.tags["headstart.error"]
    root = Path(runs["0"].info.artifact_uri.removeprefix("file://"))
    assert root.is_relative_to(tmp_path / "mlartifacts")
    assert (root / "run" / "metrics.json").exists()


def test_nothing_is_imported_before_something_is_tracked(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom headstart.machine.progress import Reporter\n"
        "from headstart import cli, tracking\n"
        f"tracking.create_tracker('sqlite:///{tmp_path / 'x.db'}', None, Reporter())\n"
        "print([name for name in ('torch', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_two_first_commands_at_once_share_a_new_database(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from headstart.rundir.run import open_run; "
        "from headstart.tracking import track; track(open_run(sys.argv[1]), sys.argv[2], 'both')"
    )
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path / "cache")}
    runs = [fabricate(tmp_path / name, name=name, n=20).path for name in ("a", "b")]
    commands = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(run), uri],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for run in runs
    ]
    said = [command.communicate(timeout=120)[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("both")
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {"a", "b"}


def test_home_and_hidden_characters_are_not_in_what_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {"data": {"source": f"folder:{tmp_path}/photos\u202e"}}
    run = fabricate(tmp_path / "runs" / "a", name="a", n=20, settings=settings)
    record = read_record(run)
    texts = [*record.params.values(), *record.tags.values()]
    assert record.params["data.source"] == r"folder:~/photos\u202e"
    assert record.tags["headstart.path"] == "~/runs/a"
    assert not any(str(tmp_path) in text for text in texts)
