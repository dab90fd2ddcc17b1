"""Tracking: a run directory logged to MLflow. The directory stays the truth; this only reads it.

One run directory is one MLflow run, however often it is tracked: a tag made of the recipe's
fingerprint and the directory's path finds it again. Its artefacts hold the directory under `run/`,
with an MLmodel file beside it that names `_load_pyfunc` below as loader: MLflow loads the model
through headstart's own predictor, from safetensors, and nothing is pickled.

MLflow is imported when something is tracked, and not before. Needs no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import socket
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np

from headstart.errors import HeadstartError
from headstart.progress import Reporter
from headstart.rundir import Run, open_run

LOCAL = "mlflow.db"  # `--track local`, in the current folder, where `mlflow ui` looks as well
FOLDER = "run"  # the run directory among the artefacts
ARTEFACTS = (
    *("recipe.toml", "*.json", "log.jsonl", "error.txt", "pictures.npz", "feature_map.npz"),
    *("predictions/*.npz", "report/*.html", "checkpoints/best.safetensors"),
)
EPOCH_METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "l2")
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
KEY, SEAL = "headstart.key", "headstart.seal"
BATCH = 100  # parameters, or metrics, in one request; MLflow refuses more parameters
DATABASES, DATABASE_PACKAGES = "sqlite|postgresql|mysql|mssql", ("sqlalchemy", "alembic")
FIRST_S = 5
MISSING = (
    "--track needs MLflow ({} is not installed): pip install mlflow-skinny sqlalchemy alembic "
    "(the extra headstart[mlflow])"
)

# MLflow's own limits keep a command waiting for minutes on a server that is away. A first request
# finds out within seconds; the others have time for large files. What the user has set stands.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results
}
FIRST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(FIRST_S), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
LATER = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class TrackingError(HeadstartError):
    """A tracking server that cannot be used. The run directory is not touched by it."""


class _Point(NamedTuple):
    key: str
    value: float
    step: int
    timestamp: int  # milliseconds since 1970


@dataclass(frozen=True)
class _Record:
    """A run directory in MLflow's terms."""

    status: str
    started: int  # milliseconds since 1970, as `ended`
    ended: int
    params: dict[str, str]
    tags: dict[str, str]
    points: list[_Point]
    files: list[Path]
    seal: str  # changes whenever the run went on


def track(run: Run, uri: str, experiment: str) -> str:
    """Log a run, in whatever state it is, and return the id of its MLflow run.

    A run that was tracked in this experiment before updates its own MLflow run; one that has not
    changed since sends nothing. Raises TrackingError where MLflow is missing, cannot be reached or
    refuses.
    """
    record = _read(open_run(run.path))  # afresh: an opened run remembers what it has read
    with _connected(uri) as client:
        experiment_id = _experiment(client, uri, experiment)
        found = _find(client, experiment_id, record)
        if found and found.data.tags.get(SEAL) == record.seal:
            return str(found.info.run_id)
        if not found:
            tags = {KEY: record.tags[KEY]}
            found = client.create_run(experiment_id, record.started, tags, run.name)
        return _send(client, found, record)


class Tracker:
    """Tracks each run it is called with, and collects what failed instead of stopping a study."""

    def __init__(self, uri: str, experiment: str | None, reporter: Reporter) -> None:
        self._uri, self._experiment, self._reporter = uri, experiment, reporter
        self._tracked = 0
        self._failures: list[TrackingError] = []

    def __call__(self, run: Run) -> None:
        """Track one run. Says it where that fails: an error of the run may be on its way."""
        name = self._experiment or run.name
        try:
            found = track(run, self._uri, name)
        except TrackingError as error:
            self._failures.append(error)
            if not run.finished:
                self._reporter.warn(f"{run.path}: not tracked: {error}")
            return
        self._tracked += 1
        self._reporter.say(f"tracked in {_shown(self._uri)}, experiment {name}, run {found}")

    def close(self) -> None:
        """Raise a TrackingError that says what was not tracked, and how to do that later."""
        if self._failures:
            count = len(self._failures)
            of = f"{count} of {count + self._tracked} runs" if count + self._tracked > 1 else "run"
            raise TrackingError(
                f"{of} not tracked: {self._failures[-1]}; what was trained is kept: "
                "the same command tracks it, without training again"
            )


def create_tracker(uri: str, experiment: str | None, reporter: Reporter) -> Tracker:
    """A tracker for `uri` ("local" is a SQLite file here), tried out before hours are spent.

    Each run goes to `experiment`, or to one named after itself. Raises TrackingError where MLflow
    is missing or the URI cannot be one; a server that does not answer is only warned about,
    because it may be back when the run ends.
    """
    if uri == "local":
        uri = f"sqlite:///{Path(LOCAL).resolve().as_posix()}"
    if not re.match(r"[a-z][a-z0-9+.-]*://|databricks", uri):
        raise TrackingError(f"--track {uri}: use local, sqlite:///FILE.db or http://HOST:PORT")
    # Without importing MLflow, whose memory would be counted as the run's.
    for package in ("mlflow", *(DATABASE_PACKAGES if re.match(DATABASES, uri) else ())):
        if find_spec(package) is None:
            raise TrackingError(MISSING.format(package))
    try:
        _open_sqlite(uri)
        if uri.startswith("http"):
            urlopen(_shown(uri), timeout=FIRST_S).close()
    except sqlite3.Error as error:
        raise TrackingError(_explain(error, uri)) from error
    except (OSError, ValueError, HTTPException) as error:
        if _is_away(error):  # any other is an answer, and MLflow may know what to do with it
            reporter.warn(f"{_explain(error, uri)}; tried again when the run ends")
    return Tracker(uri, experiment, reporter)


def _read(run: Run) -> _Record:
    manifest, path = run.manifest, run.path.resolve()
    files = [file for pattern in ARTEFACTS for file in sorted(path.glob(pattern))]
    recipe = run.recipe.model_dump(mode="json", exclude_none=True)
    data, weights = manifest.get("data", {}), manifest.get("weights", {})
    prints = {k: data[k] for k in ("fingerprint", "test_fingerprint") if k in data}
    described = {k: manifest.get(k) for k in ("status", "error", "fingerprint", "marks")}
    tags = {
        "headstart": {**described, "path": str(path)},
        **{part: manifest.get(part, {}) for part in ("versions", "machine")},
        "mlflow.source.name": "headstart",
        "mlflow.source.git.commit": manifest.get("commit"),
        KEY: _digest(f"{manifest['fingerprint']} {path}".encode()),
    }
    ended = int((path / "manifest.json").stat().st_mtime * 1000)
    created = manifest.get("created")
    started = int(datetime.fromisoformat(created).timestamp() * 1000) if created else ended
    changing = ("manifest.json", "log.jsonl", "cost.json")
    state = [file.read_bytes() for file in files if file.name in changing]
    return _Record(
        status=STATUS.get(run.status, "RUNNING"),
        started=started,
        ended=ended,
        params={**_flat(recipe), **_flat({"weights": weights, "data": prints})},
        tags=_flat(tags),
        points=[*_epochs(run.kept_log, started), *_finals(run, ended)],
        files=files,
        seal=_digest(b"\0".join(state)),
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _epochs(log: Sequence[Mapping[str, Any]], started: int) -> list[_Point]:
    """The curves; a step is an epoch, counted on over the phases, and a solved head is one.

    The log has durations and no clock, so a point lies at the sum of what came before it. What a
    resumed run did again replaces what it did first.
    """
    last, seconds = 0, 0.0
    before: dict[int, int] = {}  # phase to the steps of those ahead of it
    solved: dict[tuple[int, float], Mapping[str, Any]] = {}
    points: dict[tuple[str, int], _Point] = {}
    for event in log:
        kind, phase = event["event"], event.get("phase", 0)
        offset = before.setdefault(phase, last)
        values: Mapping[str, Any] = {}
        if kind == "solve":
            solved[phase, event["l2"]] = event
        elif kind in ("extract", "epoch"):
            seconds += event["seconds"]
        if kind == "epoch":
            last, values = offset + event["epoch"] + 1, event
        elif kind == "phase_done" and event["l2"] is not None:
            last, values = offset + 1, solved.get((phase, event["l2"]), {})
            seconds += event["seconds"]
        for name in EPOCH_METRICS:
            if values.get(name) is not None:
                key, stamp = f"epoch/{name}", started + int(seconds * 1000)
                points[key, last] = _Point(key, float(values[name]), last, stamp)
    return list(points.values())


def _finals(run: Run, ended: int) -> Iterator[_Point]:
    """The scores and the cost of a finished run; those of each class and bin stay in its files."""
    if not run.finished:
        return
    numbers: dict[str, Any] = {"cost": run.cost, "temperature": run.temperature}
    for split in ("val", "test"):
        scores = run.metrics[split]
        low, high = scores["interval"]
        numbers[split] = {**scores, "interval_low": low, "interval_high": high}
    for key, value in _leaves(numbers, "/"):
        if isinstance(value, int | float) and not re.search(r"/(per_class|bins)/", key):
            yield _Point(key, float(value), 0, ended)


def _flat(nested: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys to text: words as they are, other values as JSON; None is left out."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in _leaves(nested, ".")
        if value is not None
    }


def _leaves(node: Any, separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    tables = isinstance(node, list) and any(isinstance(part, dict) for part in node)
    if not isinstance(node, dict) and not tables:
        yield prefix, node
        return
    for key, value in enumerate(node) if tables else node.items():
        yield from _leaves(value, separator, f"{prefix}{separator}{key}" if prefix else str(key))


def _experiment(client: Any, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    # MLflow would put a local experiment's files where the command happens to run.
    database = _open_sqlite(uri)
    location = (database.parent / "mlartifacts").as_uri() if database else None
    return str(client.create_experiment(name, artifact_location=location))


def _find(client: Any, experiment_id: str, record: _Record) -> Any | None:
    """This run's MLflow run. Parameters never change, so another value means another run that
    was in the same place before."""
    found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{record.tags[KEY]}'")
    for run in found:  # newest first
        known = run.data.params
        if all(known.get(key, value) == value for key, value in record.params.items()):
            return run
    return None


def _send(client: Any, found: Any, record: _Record) -> str:
    """Everything of a run; its status and its seal come last."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.models import Model

    run_id = str(found.info.run_id)
    client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, tags=[RunTag(k, text[:5000]) for k, text in record.tags.items()])
    params = [Param(*item) for item in record.params.items() if item[0] not in found.data.params]
    points = _unsent(client, run_id, record.points, set(found.data.metrics))
    metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
    for first in range(0, max(len(params), len(metrics)), BATCH):
        chunk = slice(first, first + BATCH)
        client.log_batch(run_id, metrics=metrics[chunk], params=params[chunk])
    root = Path(record.tags["headstart.path"])
    for file in record.files:
        folder = Path(FOLDER) / file.parent.relative_to(root)
        client.log_artifact(run_id, str(file), folder.as_posix())
    if record.status == "FINISHED":
        model = Model(artifact_path=FOLDER, run_id=run_id)
        python = platform.python_version()
        model.add_flavor("python_function", loader_module=__name__, python_version=python)
        client.log_text(run_id, model.to_yaml(), f"{FOLDER}/MLmodel")
    if record.status != "RUNNING":
        client.set_terminated(run_id, record.status, record.ended)
    client.set_tag(run_id, SEAL, record.seal)
    return run_id


def _unsent(client: Any, run_id: str, points: Sequence[_Point], sent: set[str]) -> Iterator[_Point]:
    """The points that a resumed run has gained: not every store drops those it has already."""
    keys = {point.key for point in points} & sent
    known = {(m.key, m.step, m.value) for k in keys for m in client.get_metric_history(run_id, k)}
    return (p for p in points if (p.key, p.step, p.value) not in known)


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[Any]:
    """An MLflow client that has had an answer; whatever goes wrong inside is a TrackingError."""
    try:
        with _surroundings(QUIET):
            _open_sqlite(uri)
            from mlflow import MlflowClient

            with _surroundings(FIRST):
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
            with _surroundings(LATER):
                yield client
    except ModuleNotFoundError as error:
        raise TrackingError(MISSING.format(error.name)) from error
    except Exception as error:  # of MLflow, or of any store's own library behind it
        raise TrackingError(_explain(error, uri)) from error


def _open_sqlite(uri: str) -> Path | None:
    """The path of a SQLite file. Fails at once on one that is no database, with sqlite3.Error,
    where MLflow tries ten times, for minutes."""
    found = re.match(r"sqlite:///([^?]+)", uri)
    if not found:
        return None
    path = Path(found[1]).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")
    return path


def _is_away(error: BaseException | None) -> bool:
    while error and not isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def _explain(error: Exception, uri: str) -> str:
    if _is_away(error):
        return f"no answer from the tracking server at {_shown(uri)}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"MLflow at {_shown(uri)}: {_shown(reason)[:300]}"


def _shown(text: str) -> str:
    """Text without the passwords that a URI may hold."""
    return re.sub(r"//[^/@\s]+@", "//", text)


@contextlib.contextmanager
def _surroundings(defaults: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for MLflow, and silence: its logs and warnings are not the user's."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    level = logging.root.manager.disable
    os.environ.update(added)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        for name in added:
            os.environ.pop(name, None)


def _load_pyfunc(path: str) -> Any:
    """MLflow's entry: the model in a downloaded run directory. Its `predict` takes a list, column
    or table of image paths, and answers like `headstart predict --json`."""
    from headstart.deployment.predictor import load_predictor

    predictor = load_predictor(path)

    def predict(data: Any, params: Any = None) -> list[dict[str, Any]]:
        paths = [str(path) for path in np.ravel(np.asarray(data, dtype=object))]
        return [dict(vars(answer)) for answer in predictor.predict(paths)]

    return SimpleNamespace(predict=predict)
