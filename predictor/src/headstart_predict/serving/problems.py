"""Errors of a request as "problem details" in JSON (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"
# What a client may do about each; the part of its `type` after the colon.
_KINDS = {
    400: "malformed-request",
    401: "token-needed",
    403: "origin-not-allowed",
    404: "not-found",
    405: "method-not-allowed",
    408: "too-slow",
    409: "not-for-this-model",
    413: "too-large",
    415: "unsupported-format",
    421: "unknown-host",
    422: "cannot-be-answered",
    429: "busy",
    500: "internal-error",
}


class RequestError(Exception):
    """A request that gets no answer. detail: one line that says what would work."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        images: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.images = status, detail, images
        self.headers = {**(headers or {}), **({"connection": "close"} if close else {})}

    def body(self, request_id: str) -> bytes:
        content: dict[str, Any] = {
            "type": f"urn:headstart:{_KINDS.get(self.status, 'problem')}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.images:
            content["images"] = list(self.images)
        return json.dumps(content).encode()


def busy(seconds: float) -> RequestError:
    """More is asked than can be answered in time: come again in so many seconds."""
    wait = max(1, round(seconds))
    return RequestError(
        429,
        f"the service is busy: ask again in {wait} s",
        headers={"retry-after": str(wait)},
    )
