"""The service as its processes and its models come and go: nothing that was accepted is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pytest

from headstart_predict import limits
from headstart_predict.bundle import open_bundle, read_golden
from headstart_predict.serving import settings
from tests.conftest import Outcome
from tests.e2e.test_damaged_bundles import flipped
from tests.serving import Reply, Server, form, served, until


class Load:
    """Clients that ask one request after the other until they are told to stop, or cannot."""

    def __init__(self, server: Server, body: bytes, media: str, clients: int = 6) -> None:
        self.replies: list[Reply] = []
        self.lost = 0  # requests without an answer
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(server, body, media)) for _ in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, server: Server, body: bytes, media: str) -> None:
        while not self._stop.is_set():
            try:
                self.replies.append(server.ask("/v1/predict", body, media))
            except ConnectionRefusedError:
                return
            except (OSError, HTTPException):
                self.lost += 1

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def asked(published: Path) -> tuple[bytes, str]:
    bundle = open_bundle(published)
    return form(*[bundle.read(name) for name in read_golden(bundle).files[:3]])


@pytest.fixture
def other(published: Path, tmp_path: Path) -> Path:
    """A newer version of the bundle: the same model with another card."""
    import hashlib

    folder = tmp_path / "newer"
    shutil.copytree(published, folder)
    (folder / "README.md").write_text("# Newer\n")
    record = json.loads((folder / "bundle.json").read_text())
    content = (folder / "README.md").read_bytes()
    record["files"]["README.md"] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (folder / "bundle.json").write_text(json.dumps(record))
    return folder


def replaced(folder: Path, by: Path) -> None:
    """Put another bundle in a folder's place, as an export does."""
    folder.rename(folder.with_name("before"))
    by.rename(folder)


def version(server: Server) -> str:
    return str(server.ask("/v1/models").content["models"][0]["version"])


def test_a_stop_answers_everything_that_was_accepted(
    published: Path, tmp_path: Path, asked: tuple[bytes, str]
) -> None:
    log = tmp_path / "decisions.db"
    with served(tmp_path / "log", published, log=log) as server:
        load = Load(server, *asked)
        until(lambda: len(load.replies) > 50)
        assert server.stop() == 0
        load.end()
    good = [reply for reply in load.replies if reply.status == 200]
    with closing(sqlite3.connect(log)) as connection:
        logged = {row[0] for row in connection.execute("select request_id from decisions")}
    # Each that the service has begun got its answer, and each answer is in the log.
    assert {reply.content["request_id"] for reply in good} == logged
    assert {reply.status for reply in load.replies} <= {200, 429}
    begun = [line for line in server.lines() if line.get("route") == "predict"]
    assert len(begun) == len(load.replies)


def test_a_decision_is_never_changed(
    published: Path, tmp_path: Path, asked: tuple[bytes, str]
) -> None:
    log = tmp_path / "decisions.db"
    with served(tmp_path / "log", published, log=log) as server:
        server.ask("/v1/predict", *asked)
        server.stop()
    with closing(sqlite3.connect(log)) as connection:
        assert connection.execute("select count(*) from decisions").fetchone() == (3,)
        for statement in ("update decisions set sure = 1", "delete from decisions"):
            with pytest.raises(sqlite3.DatabaseError, match="decisions are not"):
                connection.execute(statement)


def test_a_new_version_is_swapped_in_under_load(
    bundle: Path, tmp_path: Path, other: Path, asked: tuple[bytes, str]
) -> None:
    with served(tmp_path / "log", bundle) as server:
        before = version(server)
        load = Load(server, *asked)
        until(lambda: len(load.replies) > 20)
        replaced(bundle, by=other)
        until(lambda: version(server) != before)
        count = len(load.replies)
        until(lambda: len(load.replies) > count + 20)
        load.end()
        assert load.lost == 0
        assert {reply.status for reply in load.replies} <= {200, 429}
        versions = {r.content["model"]["version"] for r in load.replies if r.status == 200}
        assert versions == {before, version(server)}
        answers = [r.content["answers"] for r in load.replies if r.status == 200]
        first = [each["probability"] for each in answers[0]]
        for each in answers:  # of a series and of one image alone by a hair
            np.testing.assert_allclose([a["probability"] for a in each], first, atol=1e-4)
        assert server.ask("/v1/models").content["models"][0]["card"] == "# Newer\n"


@pytest.mark.parametrize("damage", ["model.onnx", "golden.npz", "bundle.json"])
def test_a_damaged_new_version_is_refused(
    bundle: Path, tmp_path: Path, other: Path, asked: tuple[bytes, str], damage: str
) -> None:
    if damage == "bundle.json":
        (other / damage).write_text("{")
    else:
        flipped(other / damage)
    with served(tmp_path / "log", bundle) as server:
        before = version(server)
        replaced(bundle, by=other)
        until(lambda: any("refused" in line["message"] for line in server.lines()))
        assert version(server) == before
        assert server.ask("/v1/predict", *asked).status == 200
        [refused] = [line for line in server.lines() if line["level"] == "error"]
        assert damage in refused["message"]


def test_a_model_that_answers_otherwise_is_refused(
    bundle: Path, tmp_path: Path, other: Path, asked: tuple[bytes, str]
) -> None:
    """Sound files of another model: its golden images have other answers."""
    import hashlib
    import io

    with np.load(other / "golden.npz") as arrays:
        changed = dict(arrays) | {"logits": np.flip(arrays["logits"], axis=1)}
    content = io.BytesIO()
    np.savez(content, **changed)
    (other / "golden.npz").write_bytes(content.getvalue())
    record = json.loads((other / "bundle.json").read_text())
    record["files"]["golden.npz"] = {
        "bytes": len(content.getvalue()),
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
    }
    (other / "bundle.json").write_text(json.dumps(record))
    with served(tmp_path / "log", bundle) as server:
        before = version(server)
        replaced(bundle, by=other)
        until(lambda: any("golden images" in line["message"] for line in server.lines()))
        assert version(server) == before
        assert server.ask("/v1/predict", *asked).status == 200


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers in /proc")
def test_the_death_of_a_worker_costs_its_requests_alone(
    published: Path, tmp_path: Path, asked: tuple[bytes, str]
) -> None:
    log = tmp_path / "decisions.db"
    with served(tmp_path / "log", published, workers=2, threads=1, log=log) as server:
        until(lambda: len(workers(server)) == 2 and server.ask("/readyz").status == 200, 60)
        load = Load(server, *asked)
        until(lambda: len(load.replies) > 30)
        os.kill(workers(server)[0], signal.SIGKILL)
        count = len(load.replies)
        until(lambda: len(load.replies) > count + 30)
        until(lambda: len(workers(server)) == 2, 60)
        load.end()
        assert load.lost <= 6  # no more than were under way
        assert {reply.status for reply in load.replies} <= {200, 429}
        text = server.ask("/metrics").content.decode()
        assert 'headstart_requests_total{route="predict",status="200"}' in text
        assert server.stop() == 0


def workers(server: Server) -> list[int]:
    """Processes that the service has started and that load no interpreter's tracker."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == server.process.pid and b"spawn_main" in command:
            found.append(int(status.parent.name))
    return sorted(found)


def test_the_command_explains_what_is_missing(
    headstart: Callable[..., Outcome],
    published: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in (settings.VARIABLE, limits.VARIABLE):  # which the command sets for its workers
        monkeypatch.setenv(variable, settings.MAX_PIXELS)
    flipped(bundle / "model.onnx")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            ((tmp_path / "none",), "none: "),
            ((bundle, "--port", "0"), "SHA-256"),
            ((published, "--port", port), "cannot listen there"),
            ((published, "--host", "256.1.1.1"), "cannot listen there"),
            ((published, "--port", "70000"), "--port"),
            ((published, "--workers", "0"), "--workers"),
            ((published, published, "--port", "0"), "a second model that is called exported"),
            ((published, "--token-file", tmp_path / "none"), "token"),
            ((published, "--origin", "friend"), "--origin"),
            ((published, "--port", "0", "--log", tmp_path), "log of decisions"),
            ((published, "--max-images", "0"), "above zero"),
        ]
        for arguments, says in cases:
            found = headstart("serve", *arguments)
            assert (found.code, says in found.err) == (2, True), found.err
            assert found.err.count("\n") == 1
