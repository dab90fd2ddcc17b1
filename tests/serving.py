"""A service in a process of its own, for tests that ask it over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

_COMMAND = "from headstart_predict.serving.cli import main; main()"


@dataclass
class Reply:
    """An answer of the service. content: its body, parsed where it is JSON."""

    status: int
    headers: Mapping[str, str]
    content: Any


@dataclass
class Server:
    """A service that answers. lines: what it has written to stderr, once it has ended."""

    process: subprocess.Popen[str]
    address: str
    log: Path = field(default_factory=Path)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        media: str = "application/octet-stream",
        method: str | None = None,
        **headers: str,
    ) -> Reply:
        """One request on a connection of its own. headers: with _ for -."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        if body is not None:
            named.setdefault("content-type", media)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, named)
            reply = connection.getresponse()
            content: Any = reply.read()
        finally:
            connection.close()
        found = {key.lower(): value for key, value in reply.getheaders()}
        if "json" in found.get("content-type", ""):
            content = json.loads(content)
        return Reply(reply.status, found, content)

    def resident(self) -> float:
        """MB in memory, of the process that was started."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def served(folder: Path, *bundles: Path, environment: Mapping[str, str] = {}, **options: object
           ) -> Iterator[Server]:  # fmt: skip
    """A service of these bundles, with the command's options. folder: where its log goes."""
    flags = [str(part) for key, value in options.items() for part in _flag(key, value)]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "serve.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *map(str, bundles), "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **environment},
        )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "answering at " in first, log.read_text()
        address = first.partition("answering at ")[2].split()[0]
        yield Server(process, address, log)
    finally:
        if process.poll() is None:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _flag(key: str, value: object) -> Iterator[object]:
    for each in value if isinstance(value, list | tuple) else [value]:
        yield f"--{key.replace('_', '-')}"
        yield each


def until(holds: Any, seconds: float = 30) -> Any:
    """What `holds()` gives, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def form(*contents: bytes, field_name: str = "image") -> tuple[bytes, str]:
    """A multipart form with files, and its media type."""
    edge = "headstart-edge"
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{field_name}"; filename="p"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for content in contents
    ]
    return b"".join(parts) + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"
