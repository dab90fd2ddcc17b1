"""Clients of a service, in a process of their own: they ask as fast as answers come, or at a rate.

    python bench/load.py < job.json

A job has host, port, path, field (of the form), photos (a folder of JPEG files), seconds, and
either clients or rate. Each client asks its next request when it has the answer to the last, or a
second after a refusal with 429. At a rate, requests a second come at random times, whether or not
others are answered. Prints one line of JSON: for each request the second at which it was due, how
long its answer took, and its status (0: none).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

_EDGE = "headstart-edge"
_BUSY = 429


class Client(asyncio.Protocol):
    """A connection that stays open, with one request at a time."""

    def __init__(self) -> None:
        self._buffer, self._status, self._left = b"", 0, -1
        self._answer: asyncio.Future[int] | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._left < 0:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._status = int(head[9:12])
            at = head.lower().index(b"content-length:")
            self._left = int(head[at + 15 :].split(b"\r\n", 1)[0])
            self._buffer = rest
        if len(self._buffer) >= self._left:
            self._buffer, self._left = b"", -1
            self._settle(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._settle(0)

    def _settle(self, status: int) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(status)

    def close(self) -> None:
        self._transport.close()


def requests(host: str, path: str, field: str, photos: Sequence[bytes]) -> list[bytes]:
    """Each photo as a whole request with a form."""
    found = []
    for photo in photos:
        body = (
            f'--{_EDGE}\r\nContent-Disposition: form-data; name="{field}"; filename="p.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n".encode()
            + photo
            + f"\r\n--{_EDGE}--\r\n".encode()
        )
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: multipart/form-data; boundary={_EDGE}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


async def run(job: dict[str, Any]) -> list[tuple[float, float, int]]:
    photos = [path.read_bytes() for path in sorted(Path(job["photos"]).rglob("*.jpg"))[:200]]
    asked = requests(job["host"], job["path"], job["field"], photos)
    found: list[tuple[float, float, int]] = []
    began = time.perf_counter()
    free: deque[Client] = deque()
    loop = asyncio.get_running_loop()

    async def one(number: int, due: float) -> int:
        client = next((c for c in iter_free(free) if not c.closed), None)
        try:
            if client is None:
                client = (await loop.create_connection(Client, job["host"], job["port"]))[1]
            status: int = await asyncio.wait_for(client.ask(asked[number % len(asked)]), 60)
            free.append(client)
        except (OSError, TimeoutError):
            status = 0
        found.append((due, time.perf_counter() - began - due, status))
        return status

    async def steadily(client: int) -> None:
        number = client
        while (now := time.perf_counter() - began) < job["seconds"]:
            if await one(number, now) == _BUSY:
                await asyncio.sleep(1)
            number += job["clients"]

    if "clients" in job:
        await asyncio.gather(*(steadily(client) for client in range(job["clients"])))
        return found
    chance, due, tasks = random.Random(0), 0.0, list[asyncio.Task[int]]()
    while (due := due + chance.expovariate(job["rate"])) < job["seconds"]:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        tasks.append(loop.create_task(one(len(tasks), due)))
    await asyncio.gather(*tasks)
    return found


def iter_free(free: deque[Client]) -> Any:
    while free:
        yield free.pop()


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
