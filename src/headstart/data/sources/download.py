"""A download that can be interrupted at any point and continues from there."""

from __future__ import annotations

import hashlib
import http.client
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from headstart.errors import DataError

# Called with a label, the amount done, and the total where it is known.
Progress = Callable[[str, int, int | None], None]

CONNECT_SECONDS = 5.0  # in all: name lookup, connection, first line of the answer
STALL_SECONDS = 20.0  # a connection without a byte for so long counts as broken
ATTEMPTS = 4  # attempts in a row that bring no byte
_CHUNK_BYTES = 1 << 18
_NETWORK_ERRORS = (OSError, http.client.HTTPException)


class UnreachableError(DataError):
    """A server that did not send anything: another source may be tried."""


def download(
    url: str,
    path: Path,
    *,
    md5: str,
    progress: Progress | None = None,
    pause_s: float = 0.5,
) -> Path:
    """Fetch `url` to `path`, through `PATH.partial`, which is kept when the connection breaks.

    `path` appears only after its MD5 is checked. Two processes must not fetch the same path at the
    same time: the caller holds a lock. Raises UnreachableError within seconds where the server
    cannot be reached, and DataError where it stopped for good or sent another file.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    _receive_all(url, partial, progress or _quiet, pause_s)
    if (actual := md5_of(partial)) != md5:
        size = partial.stat().st_size
        partial.unlink()
        raise DataError(
            f"{url}: {size} bytes came with MD5 {actual}, not {md5}: removed; try again"
        )
    partial.replace(path)
    return path


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _receive_all(url: str, partial: Path, progress: Progress, pause_s: float) -> None:
    """Request the file, then the rest of it, until it is complete."""
    begun, idle = False, 0
    while True:
        before = _size(partial)
        problem = "the connection broke"
        try:
            if _receive(url, partial, progress):
                return
            begun = True
        except _NoAnswerError as error:
            # The first request fails quickly; only a server that has answered is asked again.
            if not begun:
                raise UnreachableError(f"{_host(url)} cannot be reached: {error}") from error
            problem = str(error)
        idle = 0 if _size(partial) > before else idle + 1
        if idle >= ATTEMPTS:
            raise DataError(
                f"{url}: {problem} after {_size(partial)} bytes; they are kept: "
                "run the same command again to go on from there"
            )
        time.sleep(pause_s * (idle + 1))


class _NoAnswerError(Exception):
    """The request brought no data."""


def _receive(url: str, partial: Path, progress: Progress) -> bool:
    """Append what one request brings to `partial`; True where the file is then complete."""
    have = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = _open_within(request, CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing is left to send: the checksum decides
            return True
        raise _NoAnswerError(f"HTTP {error.code} {error.reason}") from error
    except _NETWORK_ERRORS as error:
        reason = getattr(error, "reason", None) or error
        raise _NoAnswerError(str(reason)) from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _NoAnswerError("a web page came in place of the file")
        start = _range_start(response.headers.get("Content-Range"))
        length = response.headers.get("Content-Length")
        done = have if response.status == 206 and start == have else 0
        total = done + int(length) if length else None
        with partial.open("ab" if done else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)  # not in the try for network errors: a full disk is no such error
                done += len(chunk)
                progress(partial.name.removesuffix(".partial"), done, total)
    return total is None or done >= total


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    """Blocks of bytes until the end, or until the connection breaks."""
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except _NETWORK_ERRORS:
            return
        if not chunk:
            return
        yield chunk


def _open_within(request: urllib.request.Request, seconds: float) -> http.client.HTTPResponse:
    """urlopen with a limit on its whole time; its own timeout does not cover the name lookup."""
    outcome: list[http.client.HTTPResponse | BaseException] = []

    def attempt() -> None:
        try:
            outcome.append(urllib.request.urlopen(request, timeout=STALL_SECONDS))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _range_start(content_range: str | None) -> int | None:
    match = re.match(r"bytes (\d+)-", content_range or "")
    return int(match[1]) if match else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _quiet(_what: str, _done: int, _total: int | None) -> None:
    pass
