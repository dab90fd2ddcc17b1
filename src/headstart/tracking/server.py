"""Connects to a tracking server or database within seconds; errors are one line."""

from __future__ import annotations

import contextlib
import hashlib
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
from headstart.files import cache_root, locked
from headstart.machine.progress import Reporter

LOCAL = "mlflow.db"  # of `--track local`, in the current folder, where `mlflow ui` looks too
DATABASES, DATABASE_PACKAGES = "sqlite|postgresql|mysql|mssql", ("sqlalchemy", "alembic")
FIRST_S = 5
MISSING = (
    "--track needs MLflow ({} is not installed): pip install mlflow-skinny sqlalchemy alembic "
    "(the extra headstart[mlflow])"
)

# With MLflow's own limits a command waits for minutes if a server does not answer. Here the first
# request fails within seconds; later ones have time for large files. The user's settings win.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results
}
FIRST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(FIRST_S), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
LATER = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class TrackingError(HeadstartError):
    """A tracking server that cannot be used. The run directory is not affected."""


def resolve_uri(uri: str, reporter: Reporter) -> str:
    """The URI for MLflow, tested ("local" is a SQLite file here).

    Raises TrackingError where MLflow is missing or the URI is invalid. A server that does not
    answer gives only a warning: it may answer when the run ends.
    """
    if uri == "local":
        uri = f"sqlite:///{Path(LOCAL).resolve().as_posix()}"
    if not re.match(r"[a-z][a-z0-9+.-]*://|databricks", uri):
        raise TrackingError(f"--track {uri}: use local, sqlite:///FILE.db or http://HOST:PORT")
    # Without importing MLflow: its memory would count as the run's.
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
        if _is_away(error):  # other errors are answers, which MLflow may be able to handle
            reporter.warn(f"{_explain(error, uri)}; tried again when the run ends")
    return uri


@contextlib.contextmanager
def connected(uri: str) -> Iterator[Any]:
    """An MLflow client whose first request was answered. Any error in the block becomes a
    TrackingError. A SQLite file is one command's at a time: two would both make its tables."""
    try:
        with _alone_with(open_sqlite(uri)), _surroundings(QUIET):
            from mlflow import MlflowClient

            with _surroundings(FIRST):
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
            with _surroundings(LATER):
                yield client
    except ModuleNotFoundError as error:
        raise TrackingError(MISSING.format(error.name)) from error
    except Exception as error:  # from MLflow, or from the library of its store
        raise TrackingError(_explain(error, uri)) from error


@contextlib.contextmanager
def _alone_with(database: Path | None) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        if database:
            name = hashlib.sha256(os.fsencode(database)).hexdigest()[:16]
            with contextlib.suppress(OSError):  # without locks it is only less sure
                held.enter_context(locked(cache_root() / f"tracking-{name}.lock"))
        yield


def open_sqlite(uri: str) -> Path | None:
    """The path of a SQLite file; None for another URI. Raises sqlite3.Error at once where the file
    is no database: MLflow would try for minutes."""
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
    """Within the block, environment variables for MLflow are set, and its logs and warnings are
    silenced."""
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
