"""The resumable download, against a real HTTP server on the loopback that misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.server
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headstart.data.sources import download as downloading
from headstart.data.sources.download import UnreachableError, download
from headstart.errors import DataError

CONTENT = random.Random(0).randbytes(1_500_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; the attributes say how it misbehaves, `ranges` what it was asked for."""

    daemon_threads = True
    content = CONTENT
    cuts: list[int]  # bytes after which each coming answer is cut off
    honours_range = True
    status = 200
    kind = "application/x-gzip"
    delay_s = 0.0
    ranges: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        time.sleep(self.server.delay_s)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = 0
        if asked and self.server.honours_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.server.content):
                self.send_error(416)
                return
            self.send_response(206)
            end = len(self.server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{end + 1}")
        else:
            self.send_response(200)
        body = self.server.content[start:]
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.cuts, running.ranges = [], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set.tar.gz"


def partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def test_whole_file_with_progress(server: Server, target: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    download(server.url, target, md5=MD5, progress=lambda *step: seen.append(step))
    assert target.read_bytes() == CONTENT and not partial(target).exists()
    assert seen[-1] == ("set.tar.gz", len(CONTENT), len(CONTENT)) and len(seen) > 3
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_what_is_there_is_not_fetched_again(server: Server, target: Path) -> None:
    for _ in range(2):
        download(server.url, target, md5=MD5)
    assert server.ranges == [None]


def test_cut_connections_go_on_where_they_broke(server: Server, target: Path) -> None:
    server.cuts = [400_000, 0, 500_000]
    download(server.url, target, md5=MD5, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-", "bytes=400000-", "bytes=900000-"]


def test_a_later_process_goes_on_too(server: Server, target: Path) -> None:
    server.cuts = [300_000] + [0] * 10
    with pytest.raises(
        DataError, match="after 300000 bytes; they are kept: run the same"
    ) as caught:
        download(server.url, target, md5=MD5, pause_s=0)
    assert not isinstance(caught.value, UnreachableError)
    assert partial(target).stat().st_size == 300_000 and not target.exists()
    server.cuts, server.ranges = [], []
    download(server.url, target, md5=MD5)
    assert server.ranges == ["bytes=300000-"] and target.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: Server, target: Path) -> None:
    server.honours_range, server.cuts = False, [700_000]
    download(server.url, target, md5=MD5, pause_s=0)
    assert target.read_bytes() == CONTENT


def test_a_complete_partial_file_only_needs_its_checksum(server: Server, target: Path) -> None:
    target.parent.mkdir(parents=True)
    partial(target).write_bytes(CONTENT)
    download(server.url, target, md5=MD5)
    assert target.read_bytes() == CONTENT and server.ranges == [f"bytes={len(CONTENT)}-"]


def test_wrong_content_is_removed(server: Server, target: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=f"1500000 bytes came with MD5 .*, not {MD5}: removed"):
        download(server.url, target, md5=MD5)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusing_server_counts_as_unreachable(server: Server, target: Path, status: int) -> None:
    server.status = status
    with pytest.raises(UnreachableError, match=f"HTTP {status}"):
        download(server.url, target, md5=MD5)
    assert len(server.ranges) == 1 and not partial(target).exists()


def test_a_login_page_is_not_the_file(server: Server, target: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(UnreachableError, match="a web page came"):
        download(server.url, target, md5=MD5)


def test_nobody_listening_fails_at_once(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"127.0.0.1:.* cannot be reached: .*refused"):
        download(f"http://127.0.0.1:{port}/x", target, md5=MD5)
    assert time.monotonic() - started < 2


def test_a_silent_server_fails_within_the_limit(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.delay_s = 0.6
    monkeypatch.setattr(downloading, "CONNECT_SECONDS", 0.1)
    with pytest.raises(UnreachableError, match=r"no answer within 0\.1 s"):
        download(server.url, target, md5=MD5)
