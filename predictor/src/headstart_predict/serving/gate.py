"""What every request passes: an id, limits, the token, headers for browsers, a line in the log."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from headstart_predict.serving.metrics import Metrics
from headstart_predict.serving.problems import MEDIA_TYPE, RequestError, busy
from headstart_predict.serving.settings import Settings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/decisions", "/healthz", "/readyz", "/static/")  # need no token; pages ask for it
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Ids of requests that bring none: this process and a number.
_PROCESS, _numbers = secrets.token_hex(8), itertools.count(1)
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
]
_ALLOWED = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
    (b"access-control-expose-headers", b"x-request-id, retry-after"),
    (b"access-control-max-age", b"600"),
]
log = logging.getLogger("headstart.serve")


class Gate:
    """ASGI middleware around the whole application.

    admit: raises RequestError where the service is too busy for one more image; asked before a body
    is read.
    """

    def __init__(
        self, app: App, settings: Settings, metrics: Metrics, admit: Callable[[], None]
    ) -> None:
        self._app, self._settings, self._metrics, self._admit = app, settings, metrics, admit
        self._held = 0  # bytes of requests in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Passage(self, scope, receive, send).run()

    def hold(self, count: int) -> None:
        """Raises RequestError where too much is in memory already."""
        if self._held + count > self._settings.limits.held:
            raise busy(1)
        self._held += count
        self._metrics.held.set(self._held)

    def release(self, count: int) -> None:
        self._held -= count
        self._metrics.held.set(self._held)


class _Passage:
    """One request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate, self._scope, self._receive, self._send = gate, scope, receive, send
        self._settings = gate._settings
        self._headers = {name.lower(): value for name, value in scope["headers"]}
        given = self._headers.get(b"x-request-id", b"").decode("latin-1")
        self._id = given if _ID.fullmatch(given) else f"{_PROCESS}-{next(_numbers)}"
        self._began = time.perf_counter()
        self._status, self._body = 0, 0
        self._whole = False  # the body has arrived
        self._origin: bytes | None = None  # of a page elsewhere that may ask
        scope["state"]["request_id"] = self._id

    async def run(self) -> None:
        try:
            self._check()
            if self._scope["method"] == "OPTIONS" and self._origin:
                await self._answer(204, b"", {})
            else:
                await self._gate._app(self._scope, self._take, self._give)
        except RequestError as problem:
            await self._refuse(problem)
        except Exception:
            log.exception("a request failed", extra={"facts": {"request_id": self._id}})
            await self._refuse(
                RequestError(500, "the service has made a mistake; its log says which")
            )
        finally:
            self._gate.release(self._body)
            self._note()

    def _check(self) -> None:
        """Raises RequestError before anything of the body is read."""
        self._check_host()
        self._check_origin()
        path = self._scope["path"]
        is_open = any(path == o or (o != "/" and path.startswith(o)) for o in OPEN)
        if self._scope["method"] != "OPTIONS" and not is_open:
            self._check_token()
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.limits.body:
            raise self._too_large()
        if self._scope["method"] == "POST":
            self._gate._admit()

    def _check_host(self) -> None:
        """A web page can give its own name another address, such as this machine's (DNS rebinding):
        the name that was asked for tells."""
        host = self._headers.get(b"host", b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
        if self._settings.hosts and name not in self._settings.hosts:
            raise RequestError(421, "the service does not go by this name: see its option --name")

    def _check_origin(self) -> None:
        origin = self._headers.get(b"origin")
        if origin is None:
            return
        if origin.decode("latin-1") in self._settings.origins:
            self._origin = origin
        elif urlsplit(origin.decode("latin-1")).netloc.encode("latin-1") != self._headers.get(
            b"host"
        ):
            raise RequestError(403, "pages of another address may not ask: see the option --origin")

    def _check_token(self) -> None:
        if self._settings.token is None:
            return
        scheme, _, given = self._headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(given.strip(), self._settings.token.encode())
        if scheme.lower() != b"bearer" or not right:
            raise RequestError(
                401,
                "a token is needed: send the header Authorization: Bearer TOKEN",
                headers={"www-authenticate": "Bearer"},
                close=True,
            )

    def _too_large(self) -> RequestError:
        most = self._settings.limits.body / 2**20
        return RequestError(
            413, f"the request has more than {most:g} MB: send less at once", close=True
        )

    async def _take(self) -> Message:
        """The next part of the body, within the limits."""
        if self._whole:
            return await self._receive()
        left = self._settings.limits.arrival - (time.perf_counter() - self._began)
        try:
            async with asyncio.timeout(max(left, 0)):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(
                408,
                f"the request did not arrive within {self._settings.limits.arrival:g} s",
                close=True,
            ) from None
        part = len(message.get("body", b""))
        if self._body + part > self._settings.limits.body:
            raise self._too_large()
        self._gate.hold(part)
        self._body += part
        self._whole = not message.get("more_body", False)
        return message

    async def _give(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._own_headers()]
        await self._send(message)

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        found = [*_HEADERS, (b"x-request-id", self._id.encode())]
        if not self._scope["path"].startswith("/static/"):
            found.append((b"cache-control", b"no-store"))
        if self._settings.origins:
            found.append((b"vary", b"origin"))
        if self._origin:
            found += [(b"access-control-allow-origin", self._origin), *_ALLOWED]
        return found

    async def _refuse(self, problem: RequestError) -> None:
        if self._status:  # a part of the answer has gone out
            return
        headers = {"content-type": MEDIA_TYPE, **problem.headers}
        await self._answer(problem.status, problem.body(self._id), headers)

    async def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await self._give({"type": "http.response.start", "status": status, "headers": pairs})
        await self._give({"type": "http.response.body", "body": body})

    def _note(self) -> None:
        """One line of JSON, without anything of the pictures or their names."""
        seconds = time.perf_counter() - self._began
        state = self._scope["state"]
        route = state.get("route", "other")
        self._gate._metrics.requests.labels(route, str(self._status)).inc()
        self._gate._metrics.seconds.labels(route).observe(seconds)
        facts = {
            "request_id": self._id,
            "method": self._scope["method"],
            "route": route,
            "status": self._status,
            "ms": round(1e3 * seconds, 1),
            "bytes": self._body,
        }
        if "images" in state:
            facts |= {"images": state["images"], "model": state["model"]}
        log.info("request", extra={"facts": facts})


class AsJSON(logging.Formatter):
    """A record of the log as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": at,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
