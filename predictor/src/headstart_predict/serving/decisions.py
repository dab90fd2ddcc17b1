"""A log of the answers, without pictures: a table in SQLite to which rows are only added."""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart_predict.bundle import CONFIDENCE_STEPS
from headstart_predict.errors import HeadstartError

_WRITTEN_EVERY_S = 0.2
_WAITING = 50_000  # answers that may wait to be written
_SCHEMA = """
create table if not exists decisions (
    id integer primary key,
    at real not null,              -- seconds since 1970, UTC
    request_id text not null,
    image integer not null,        -- its number in the request
    model text not null,
    version text not null,         -- the first letters of the SHA-256 of bundle.json
    labels text not null,          -- a JSON list, the most probable first
    probability real not null,     -- of the most probable class
    sure integer not null          -- 0 below the threshold
);
create index if not exists decisions_at on decisions (model, at);
create trigger if not exists decisions_stay before update on decisions
    begin select raise(abort, 'decisions are not changed'); end;
create trigger if not exists decisions_remain before delete on decisions
    begin select raise(abort, 'decisions are not removed'); end;
"""
_INSERT = (
    "insert into decisions (at, request_id, image, model, version, labels, probability, sure) "
    "values (?, ?, ?, ?, ?, ?, ?, ?)"
)
log = logging.getLogger("headstart.serve")


@dataclass(frozen=True)
class Decision:
    """One answer. image: its number in the request."""

    request_id: str
    image: int
    model: str
    version: str
    labels: tuple[str, ...]
    probability: float
    sure: bool


class Decisions:
    """Writes decisions in a thread of its own, several at once. Those of the last fifth of a second
    are lost if the process is killed; a stop writes all.

    on_lost: called with the number of decisions that could not be written, such as on a full disk.
    Raises HeadstartError where the file cannot be opened.
    """

    def __init__(self, path: Path, on_lost: Callable[[int], None]) -> None:
        self.path, self._on_lost = path, on_lost
        try:
            with closing(self._connect()) as connection:
                connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise HeadstartError(
                f"{path}: not usable as a log of decisions: {error}: choose another file"
            ) from error
        self._queue: queue.Queue[tuple[Any, ...] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write, name="decisions", daemon=True)
        self._thread.start()

    def add(self, decision: Decision) -> None:
        row = (
            time.time(),
            decision.request_id,
            decision.image,
            decision.model,
            decision.version,
            json.dumps(decision.labels),
            decision.probability,
            int(decision.sure),
        )
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._on_lost(1)

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join(10)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        # Readers do not stop the writer; a write is safe from a crash of the process.
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        return connection

    def _write(self) -> None:
        last = False
        while not last:
            rows = [self._queue.get()]
            time.sleep(_WRITTEN_EVERY_S if rows[0] is not None else 0)
            while not self._queue.empty():
                rows.append(self._queue.get_nowait())
            last = None in rows
            self._insert([row for row in rows if row is not None])

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        try:
            with closing(self._connect()) as connection:
                connection.execute("begin immediate")
                connection.executemany(_INSERT, rows)
                connection.execute("commit")
        except sqlite3.Error as error:
            log.error(f"decisions cannot be written: {error}")
            self._on_lost(len(rows))


def summarise(path: Path, model: str, since: float, parts: int) -> dict[str, Any]:
    """What was answered from `since` (seconds since 1970) to now.

    images, unsure and mean_probability; classes: how often each was the first label; parts: the
    same numbers in so many equal stretches of time; confidence: how many probabilities lie in each
    of CONFIDENCE_STEPS equal steps from 0 to 1.
    """
    now = time.time()
    width = max(now - since, 1e-3) / parts
    where = "from decisions where model = ? and at >= ?"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:

        def rows(what: str, more: str = "") -> list[tuple[Any, ...]]:
            return connection.execute(f"select {what} {where} {more}", (model, since)).fetchall()

        [(images, unsure, mean)] = rows("count(*), coalesce(sum(1 - sure), 0), avg(probability)")
        first = "coalesce(json_extract(labels, '$[0]'), '')"
        classes = rows(f"{first}, count(*)", "group by 1 order by 2 desc")
        step = f"min(cast((at - {since}) / {width} as integer), {parts - 1})"
        by_time = {
            part: {"images": count, "unsure": doubted, "mean_probability": sure}
            for part, count, doubted, sure in rows(
                f"{step}, count(*), sum(1 - sure), avg(probability)", "group by 1"
            )
        }
        bar = f"min(cast(probability * {CONFIDENCE_STEPS} as integer), {CONFIDENCE_STEPS - 1})"
        confidence = dict(rows(f"{bar}, count(*)", "group by 1"))
    empty = {"images": 0, "unsure": 0, "mean_probability": None}
    return {
        "model": model,
        "since": since,
        "until": now,
        "images": images,
        "unsure": unsure,
        "mean_probability": mean,
        "classes": [{"label": label, "images": count} for label, count in classes],
        "parts": [by_time.get(part, empty) for part in range(parts)],
        "confidence": [confidence.get(step, 0) for step in range(CONFIDENCE_STEPS)],
    }
