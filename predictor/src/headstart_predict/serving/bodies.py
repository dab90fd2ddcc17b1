"""The pictures in a request: a raw body, a form, or JSON with base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from headstart_predict.serving.problems import RequestError

FIELD = "image"
_INLINE = 2**16  # bytes of JSON that are parsed without a thread
_RAW = ("application/octet-stream", "")
_ACCEPTED = (
    f"send an image as the body, a form with images in the field '{FIELD}', or JSON with base64 in "
    "'image' or 'images'"
)
Base64 = Annotated[str, StringConstraints(strip_whitespace=True)]


class ImagesAsJSON(BaseModel):
    """One image, or several, each the content of an image file in base64."""

    model_config = ConfigDict(extra="forbid")

    image: Base64 | None = None
    images: list[Base64] | None = None


async def read_pictures(request: Request, most: int) -> list[bytes]:
    """The content of each image file, in order. most: how many are allowed. Raises RequestError."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "multipart/form-data":
        found = await _from_form(request, most)
    elif media == "application/json":
        content = await request.body()
        small = len(content) < _INLINE
        found = _from_json(content) if small else await run_in_threadpool(_from_json, content)
    elif media in _RAW or media.startswith("image/"):
        content = await request.body()
        found = [content] if content else []
    else:
        raise RequestError(415, f"a body of this content type is not read: {_ACCEPTED}")
    if not found:
        raise RequestError(422, f"there is no image in the request: {_ACCEPTED}")
    if len(found) > most:
        raise _too_many(most)
    return found


async def _from_form(request: Request, most: int) -> list[bytes]:
    body = await request.body()
    parser = MultiPartParser(request.headers, _once(body), max_files=most, max_fields=8)
    parser.spool_max_size = len(body) + 1  # nothing goes to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(most) from None
        raise RequestError(400, f"the form cannot be read: {error.message.rstrip('.')}") from None
    found = []
    for name, value in form.multi_items():
        if name != FIELD or not isinstance(value, UploadFile):
            raise RequestError(422, f"a form needs files in the field '{FIELD}', and nothing else")
        found.append(await value.read())
    await form.close()
    return found


def _too_many(most: int) -> RequestError:
    asked = "one image" if most == 1 else f"at most {most} images"
    return RequestError(422, f"too many images: send {asked} in a request")


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _from_json(content: bytes) -> list[bytes]:
    try:
        given = ImagesAsJSON.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:60]
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise RequestError(422, f"the JSON cannot be read: {reason[:200]}") from None
    if given.image is not None and given.images is not None:
        raise RequestError(422, "give 'image' or 'images', not both")
    texts = [given.image] if given.image is not None else given.images or []
    return [_decoded(number, text) for number, text in enumerate(texts)]


def _decoded(number: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(422, f"image {number} is not in base64") from None
