"""The log of decisions: what it holds, what it sums up, and a disk that is full."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from headstart_predict.errors import HeadstartError
from headstart_predict.serving.decisions import Decision, Decisions, summarise

ONE = Decision("r1", 0, "flowers", "abc", ("daisy",), 0.9, True)


def kept(path: Path, *decisions: Decision, on_lost: Callable[[int], None] = print) -> None:
    log = Decisions(path, on_lost)
    for decision in decisions:
        log.add(decision)
    log.close()


def test_a_summary_counts_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    unsure = replace(ONE, labels=("iris", "daisy"), probability=0.3, sure=False)
    several = replace(ONE, labels=(), probability=1.0)
    kept(path, ONE, ONE, unsure, several, replace(ONE, model="cars"))
    found = summarise(path, "flowers", time.time() - 100, parts=4)
    assert (found["images"], found["unsure"]) == (4, 1)
    assert found["mean_probability"] == pytest.approx((0.9 + 0.9 + 0.3 + 1) / 4)
    assert {each["label"]: each["images"] for each in found["classes"]} == {
        "daisy": 2,
        "iris": 1,
        "": 1,
    }
    assert [part["images"] for part in found["parts"]] == [0, 0, 0, 4]
    assert (found["confidence"][6], found["confidence"][18], found["confidence"][19]) == (1, 2, 1)
    assert sum(found["confidence"]) == 4


def test_what_is_older_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    kept(path, ONE)
    found = summarise(path, "flowers", time.time() + 1, parts=3)
    assert (found["images"], found["mean_probability"]) == (0, None)


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    kept(path, ONE)
    kept(path, replace(ONE, request_id="r2"))
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("select id, request_id, labels from decisions").fetchall()
    assert rows == [(1, "r1", '["daisy"]'), (2, "r2", '["daisy"]')]


def test_decisions_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    path, lost = tmp_path / "d.db", list[int]()
    log = Decisions(path, lost.append)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("drop table decisions; vacuum;")
    for _ in range(3):
        log.add(ONE)
    log.close()
    assert sum(lost) == 3


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
def test_a_file_that_is_no_log_is_a_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "d.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(HeadstartError, match="not usable as a log of decisions"):
        Decisions(path, print)
    if content is not None:
        assert path.read_bytes() == content
