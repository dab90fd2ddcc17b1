"""The service under hostile requests: each is refused in a line, and memory stays flat."""

from __future__ import annotations

import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart_predict.bundle import open_bundle, read_golden
from tests.serving import Server, form, served, until
from tests.trials import WHOLE

MEGABYTES = 120  # that hostile pictures may take for a moment, beside the service's own


@pytest.fixture(scope="module")
def server(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    with served(folder, published, max_mb=4, arrival_s=1.5) as started:
        yield started


@pytest.fixture(scope="module")
def picture(published: Path) -> bytes:
    bundle = open_bundle(published)
    return bundle.read(read_golden(bundle).files[0])


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def status_of(connection: socket.socket) -> int:
    """Of the answer; 0 where the connection is closed without one."""
    head = b""
    with suppress(ConnectionError):
        while b"\r\n" not in head and (part := connection.recv(4096)):
            head += part
    return int(head.split()[1]) if head else 0


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def claimed(form: str, width: int, height: int) -> bytes:
    """A small file that says it is a large picture."""
    if form == "PNG":
        return png(width, height, bytes(1000))
    if form == "GIF":
        return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + (
            b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\2\2\x4c\1\0;"
        )  # fmt: skip
    if form == "BMP":
        return (
            b"BM" + struct.pack("<IHHIIiiHH", 200, 0, 0, 54, 40, width, height, 1, 24) + bytes(99)
        )
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, form)
    small = content.getvalue()
    if form == "TIFF":
        for tag, size in ((256, width), (257, height)):
            old, new = (struct.pack("<HHII", tag, 4, 1, value) for value in (64, size))
            assert old in small
            small = small.replace(old, new)
        return small
    if form == "WEBP":  # an extended file's canvas
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sides + small[12:]
        return b"RIFF" + struct.pack("<I", len(body)) + body
    return small.replace(struct.pack(">II", 64, 64), struct.pack(">II", width, height))


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_a_decompression_bomb_is_refused(server: Server, form: str) -> None:
    before = server.resident()
    for side in (12_000, 16_000):
        reply = server.ask("/v1/predict", claimed(form, side, side))
        assert reply.status in (415, 422), reply.content
    assert server.resident() < before + MEGABYTES


def test_a_bomb_that_is_whole_is_refused(server: Server) -> None:
    before = server.resident()
    whole = png(12_000, 12_000, bytes(12_000 * (3 * 12_000 + 1)))
    assert len(whole) < 2**20
    reply = server.ask("/v1/predict", whole)
    assert (reply.status, "pixels" in reply.content["detail"]) == (422, True)
    assert server.resident() < before + MEGABYTES


def test_a_long_body_is_not_read(server: Server) -> None:
    before = server.resident()
    with closing(connect(server)) as client:
        client.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n"
        )
        assert status_of(client) == 413
    # Without a length, it is cut off where it passes the limit.
    with closing(connect(server)) as client:
        client.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        part = b"100000\r\n" + bytes(2**20) + b"\r\n"
        with suppress(ConnectionError):
            for _ in range(100):
                client.sendall(part)
        assert status_of(client) in (0, 413)  # 0: the answer was lost with the connection
    assert server.resident() < before + 40


def test_a_slow_body_is_given_up(server: Server) -> None:
    with closing(connect(server)) as client:
        client.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\nabc"
        )
        assert status_of(client) == 408


def test_a_long_head_is_refused(server: Server, picture: bytes) -> None:
    with closing(connect(server)) as client:
        with suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000)
        assert status_of(client) in (0, 431)
    body, media = form(picture)
    long = body.replace(b"Content-Type:", b"X-Long: " + b"a" * 100_000 + b"\r\nContent-Type:")
    assert server.ask("/v1/predict", long, media).status == 400
    edge = f"multipart/form-data; boundary={'e' * 10_000}"
    assert server.ask("/v1/predict", body, edge).status == 400


def test_what_is_no_http_is_refused(server: Server) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"HELO there\r\n\r\n", b"\0" * 100):
        with closing(connect(server)) as client:
            client.sendall(sent)
            assert status_of(client) == 400
    assert server.ask("/healthz").status == 200


def test_connections_that_wait_keep_nobody_out(
    published: Path, tmp_path: Path, picture: bytes
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(10_000 if WHOLE else 2500, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients: list[socket.socket] = []
    try:
        with served(tmp_path, published) as server:
            before = server.resident()
            for _ in range(many):
                clients.append(connect(server))
            assert server.ask("/v1/predict", picture).status == 200
            assert server.resident() < before + 60
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_mutated_pictures_are_answered_or_refused(server: Server) -> None:
    """A good picture with some bytes changed, cut off or repeated, in every format."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).resize((200, 150))
    originals = []
    for form_ in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "PPM"):
        content = io.BytesIO()
        pixels.save(content, form_)
        originals.append(content.getvalue())
    before: float | None = None
    count = 10_000 if WHOLE else 300
    for number in range(count):
        content = bytearray(originals[number % len(originals)])
        for _ in range(rng.integers(1, 20)):
            content[rng.integers(0, min(len(content), 2000))] = rng.integers(0, 256)
        sent = bytes(content[: rng.integers(10, len(content) + 1)] if number % 3 else content)
        reply = server.ask("/v1/predict", sent)
        assert reply.status in (200, 415, 422), reply.content
        if number == count // 2:
            before = server.resident()
    assert before is not None
    assert server.resident() < 1.1 * before + MEGABYTES


def test_a_picture_that_is_a_page_too_is_only_a_picture(server: Server, picture: bytes) -> None:
    both = picture + b"<script>alert(1)</script>"
    reply = server.ask("/v1/predict", both, "image/png")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "script" not in json.dumps(reply.content)


def test_more_than_can_be_answered_is_refused_and_it_recovers(
    published: Path, tmp_path: Path, picture: bytes
) -> None:

    with (
        served(tmp_path, published, queue_ms=0.5, threads=1) as server,
        ThreadPoolExecutor(16) as p,
    ):
        many = form(*[picture] * 32)
        replies = list(p.map(lambda _: server.ask("/v1/predict", *many), range(64)))
        statuses = {reply.status for reply in replies}
        assert statuses == {200, 429}
        shed = next(reply for reply in replies if reply.status == 429)
        assert int(shed.headers["retry-after"]) >= 1
        assert shed.content["type"] == "urn:headstart:busy"
        until(lambda: server.ask("/readyz").status == 200, seconds=5)
        assert server.ask("/v1/predict", picture).status == 200
