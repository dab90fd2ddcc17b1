"""For schemathesis: pictures where the document of the service says that there is an image."""

from __future__ import annotations

import base64
import io

import schemathesis
from hypothesis import strategies
from PIL import Image


def picture(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height)).save(content, "PNG")
    return content.getvalue()


_PICTURES = strategies.builds(picture, strategies.integers(1, 40), strategies.integers(1, 40))
schemathesis.openapi.format("binary", _PICTURES)
schemathesis.openapi.format("byte", _PICTURES.map(lambda file: base64.b64encode(file).decode()))
for media in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media, _PICTURES)
