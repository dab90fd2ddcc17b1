"""Tracking: logs a run directory to MLflow. It only reads the directory.

One run directory is one MLflow run, even if it is tracked several times: a tag made of the recipe's
fingerprint and the directory's path identifies it. Its artefacts hold the directory under `run/`,
with an MLmodel file that names `_load_pyfunc` below as loader. So MLflow loads the model with
headstart's own predictor, from safetensors, and nothing is pickled.

MLflow is imported only when something is tracked. Needs no torch.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from headstart.errors import HeadstartError
from headstart.machine.progress import Reporter
from headstart.rundir.run import Run, open_run
from headstart.tracking.record import KEY, read_record
from headstart.tracking.sending import SEAL, find_experiment, find_run, send
from headstart.tracking.server import TrackingError, connected, resolve_uri, without_password


def track(run: Run, uri: str, experiment: str) -> str:
    """Log a run, in whatever state it is, and return the id of its MLflow run.

    A run that was tracked in this experiment before updates its MLflow run; an unchanged one sends
    nothing. Raises TrackingError where MLflow is missing, cannot be reached or refuses.
    """
    record = read_record(open_run(run.path))  # opened again: `run` keeps what it has read
    with connected(uri) as client:
        experiment_id = find_experiment(client, uri, experiment)
        mlflow_run = find_run(client, experiment_id, record)
        if mlflow_run and mlflow_run.data.tags.get(SEAL) == record.seal:
            return str(mlflow_run.info.run_id)
        if not mlflow_run:
            tags = {KEY: record.tags[KEY]}
            mlflow_run = client.create_run(experiment_id, record.started, tags, run.name)
        return send(client, mlflow_run, record)


class Tracker:
    """Tracks each run it is called with. Collects failures, so that they do not stop a study."""

    def __init__(self, uri: str, experiment: str | None, reporter: Reporter) -> None:
        self._uri, self._experiment, self._reporter = uri, experiment, reporter
        self._tracked = 0
        self._failures: list[HeadstartError] = []

    def __call__(self, run: Run) -> None:
        """Track one run. A failure, such as a damaged file, does not stop the others; for an
        unfinished run it is also a warning at once: the error of the run itself may end the
        command."""
        name = self._experiment or run.name
        try:
            run_id = track(run, self._uri, name)
        except HeadstartError as error:
            self._failures.append(error)
            if not run.finished:
                self._reporter.warn(f"{run.path}: not tracked: {error}")
            return
        self._tracked += 1
        self._reporter.say(
            f"tracked in {without_password(self._uri)}, experiment {name}, run {run_id}"
        )

    def close(self) -> None:
        """Raise a TrackingError if a run was not tracked; it says how to do that later."""
        if self._failures:
            count = len(self._failures)
            of = f"{count} of {count + self._tracked} runs" if count + self._tracked > 1 else "run"
            raise TrackingError(
                f"{of} not tracked: {self._failures[-1]}; the runs are kept: "
                "the same command tracks them without training again"
            )


def create_tracker(uri: str, experiment: str | None, reporter: Reporter) -> Tracker:
    """A tracker for `uri` ("local" is a SQLite file here). The URI is tested before any training.

    A run goes to `experiment`, or to an experiment named after the run. Raises TrackingError as
    `resolve_uri` does.
    """
    return Tracker(resolve_uri(uri, reporter), experiment, reporter)


def _load_pyfunc(path: str) -> Any:
    """The loader for MLflow: the model in a downloaded run directory. Its `predict` takes a list,
    column or table of image paths, and returns the output of `headstart predict --json`."""
    from headstart.deployment.predictor import load_predictor

    predictor = load_predictor(path)

    def predict(data: Any, params: Any = None) -> list[dict[str, Any]]:
        paths = [str(path) for path in np.ravel(np.asarray(data, dtype=object))]
        return [dict(vars(answer)) for answer in predictor.predict(paths)]

    return SimpleNamespace(predict=predict)
