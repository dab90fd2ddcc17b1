"""Connections: what one may cost before it has sent a request.

uvicorn closes a connection that rests after an answer. One that never sends a whole head of a
request would stay open for ever, and its head could be of any length.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from headstart_predict.serving.problems import MEDIA_TYPE
from headstart_predict.serving.settings import Limits

HEAD_BYTES = 32 * 2**10
# Of this process: uvicorn makes the connections, and hands nothing on. most: connections at all.
limits, most = Limits(), 4000


class Connection(HttpToolsProtocol):
    """An HTTP connection. It is closed where no request begins in time, where a head is too long,
    and where it has waited the longest while too many others wait, too."""

    # Those that wait for a request, the one that has waited the longest first.
    idle: ClassVar[OrderedDict[Connection, None]] = OrderedDict()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head = 0  # bytes that have come since the last request
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > most:
            self.transport.close()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is not None:
            self._head += len(data)
        super().data_received(data)
        # What has come after the head belongs to the body, which has limits of its own.
        if self._deadline is not None and self._head > HEAD_BYTES:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        self._request_is_there()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._await_request()

    def send_400_response(self, msg: str) -> None:
        self._problem(400, "malformed-request", "this is not a request in HTTP")

    def _refuse_head(self) -> None:
        self._problem(431, "too-large", f"the head is longer than {HEAD_BYTES // 1024} kB")

    def _problem(self, status: int, kind: str, detail: str) -> None:
        body = json.dumps({"type": f"urn:headstart:{kind}", "status": status, "detail": detail})
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(STATUS_LINE[status] + f"{head}\r\n\r\n{body}".encode())
        self.transport.close()

    def _await_request(self) -> None:
        self._request_is_there()
        self._head = 0
        self._deadline = self.loop.call_later(limits.idle, self._close)
        Connection.idle[self] = None
        if len(Connection.idle) > limits.connections:
            next(iter(Connection.idle))._close()

    def _request_is_there(self) -> None:
        Connection.idle.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._request_is_there()
        if not self.transport.is_closing():
            self.transport.close()
