"""A tracking server or database: connected to within seconds, its errors told in a line."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from headstart.errors import HeadstartError
from headstart.machine.progress import Reporter

LOCAL = "mlflow.db"  # `--track local`, in the current folder, where `mlflow ui` looks as well
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


def resolve_uri(uri: str, reporter: Reporter) -> str:
    """The URI that MLflow takes ("local" is a SQLite file here), tried out.

    Raises TrackingError where MLflow is missing or the URI cannot be one; a server that does not
    answer is only warned about, because it may be back when the run ends.
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
        open_sqlite(uri)
        if uri.startswith("http"):
            urlopen(without_password(uri), timeout=FIRST_S).close()
    except sqlite3.Error as error:
        raise TrackingError(_explain(error, uri)) from error
    except (OSError, ValueError, HTTPException) as error:
        if _is_away(error):  # any other is an answer, and MLflow may know what to do with it
            reporter.warn(f"{_explain(error, uri)}; tried again when the run ends")
    return uri


@contextlib.contextmanager
def connected(uri: str) -> Iterator[Any]:
    """An MLflow client that has had an answer; whatever goes wrong inside is a TrackingError."""
    try:
        with _surroundings(QUIET):
            open_sqlite(uri)
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


def open_sqlite(uri: str) -> Path | None:
    """The path of a SQLite file. Fails at once on one that is no database, with sqlite3.Error,
    where MLflow tries ten times, for minutes."""
    match = re.match(r"sqlite:///([^?]+)", uri)
    if not match:
        return None
    path = Path(match[1]).resolve()
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
        return f"no answer from the tracking server at {without_password(uri)}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"MLflow at {without_password(uri)}: {without_password(reason)[:300]}"


def without_password(text: str) -> str:
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
