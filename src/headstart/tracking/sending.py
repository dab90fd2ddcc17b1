"""Sends one record to MLflow: finds or creates its experiment and run, then sends what is new."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headstart.tracking.record import KEY, Point, Record
from headstart.tracking.server import open_sqlite

SEAL = "headstart.seal"
FOLDER = "run"  # the run directory among the artefacts
BATCH = 100  # parameters, or metrics, in one request; MLflow refuses more parameters
LOADER = "headstart.tracking"  # the module whose `_load_pyfunc` MLflow calls


def find_experiment(client: Any, uri: str, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment:
        return str(experiment.experiment_id)
    # By default MLflow puts the files of a local experiment into the current folder.
    database = open_sqlite(uri)
    location = (database.parent / "mlartifacts").as_uri() if database else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except Exception:
        if not (made := client.get_experiment_by_name(name)):  # by another command, just now
            raise
        return str(made.experiment_id)


def find_run(client: Any, experiment_id: str, record: Record) -> Any | None:
    """The MLflow run of this run, or None. Parameters never change, so other values mean another
    run that was in the same directory before."""
    mlflow_runs = client.search_runs([experiment_id], f"tags.`{KEY}` = '{record.tags[KEY]}'")
    for run in mlflow_runs:  # newest first
        known = run.data.params
        if all(known.get(key, value) == value for key, value in record.params.items()):
            return run
    return None


def send(client: Any, mlflow_run: Any, record: Record) -> str:
    """Send a whole record; its status and its seal come last."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.models import Model

    run_id = str(mlflow_run.info.run_id)
    client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, tags=[RunTag(k, text[:5000]) for k, text in record.tags.items()])
    known = mlflow_run.data.params
    params = [Param(*item) for item in record.params.items() if item[0] not in known]
    points = _unsent(client, run_id, record.points, set(mlflow_run.data.metrics))
    metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
    for first in range(0, max(len(params), len(metrics)), BATCH):
        chunk = slice(first, first + BATCH)
        client.log_batch(run_id, metrics=metrics[chunk], params=params[chunk])
    for file in record.files:
        folder = Path(FOLDER) / file.parent.relative_to(record.root)
        client.log_artifact(run_id, str(file), folder.as_posix())
    if record.status == "FINISHED":
        model = Model(artifact_path=FOLDER, run_id=run_id)
        python = platform.python_version()
        model.add_flavor("python_function", loader_module=LOADER, python_version=python)
        client.log_text(run_id, model.to_yaml(), f"{FOLDER}/MLmodel")
    if record.status != "RUNNING":
        client.set_terminated(run_id, record.status, record.ended)
    client.set_tag(run_id, SEAL, record.seal)
    return run_id


def _unsent(client: Any, run_id: str, points: Sequence[Point], sent: set[str]) -> Iterator[Point]:
    """The points that were not sent before: some stores would keep them twice."""
    keys = {point.key for point in points} & sent
    known = {(m.key, m.step, m.value) for k in keys for m in client.get_metric_history(run_id, k)}
    return (p for p in points if (p.key, p.step, p.value) not in known)
