"""Files: where caches and data are, whole files or none, records as JSON, and one lock between
processes.

Asking for a place creates nothing; writers make the folders.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from headstart.errors import RunError

T = TypeVar("T")

PARTIAL = re.compile(r"\.(.+)\.\d+\.partial")  # as atomic_path names what is half written
LOCK = ".lock"  # in a folder that one process at a time writes


def cache_root() -> Path:
    """`$HEADSTART_CACHE`, or the platform's cache folder for headstart."""
    return _folder("HEADSTART_CACHE") or Path(platformdirs.user_cache_dir("headstart"))


def data_root() -> Path | None:
    """`$HEADSTART_DATA`, the folder in which the user keeps data sets, or None."""
    return _folder("HEADSTART_DATA")


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(value).expanduser() if value else None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def to_json(value: Any) -> Any:
    """A record, or what holds records, as plain JSON values.

    Of a dataclass: its fields, but for those whose metadata says saved=False, and the properties
    that its DERIVED names, which a reader of the file would have to compute.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = [f.name for f in fields(value) if f.metadata.get("saved", True)]
        return {name: to_json(getattr(value, name))
                for name in (*kept, *getattr(value, "DERIVED", ()))}  # fmt: skip
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a record, or plain values, as `to_json` gives them."""
    write_atomically(path, json.dumps(to_json(value), indent=2) + "\n")


def read_json(path: Path, kind: type[T]) -> T:
    """Read a record that `write_json` wrote. Raises FileNotFoundError, and RunError as `parse_json`
    does."""
    return parse_json(path.read_bytes(), kind, str(path))


def parse_json(text: bytes | str, kind: type[T], where: str) -> T:
    """A record of a dataclass, read strictly: a field that is missing, or of another type than it
    says, raises RunError, in a line that begins with `where` and names the field.

    Fields that the class does not know are passed over: a later version may add some.
    """
    from pydantic import ValidationError

    try:
        reader: Any = _reader(kind)  # type: ignore[arg-type]  # a class is hashable
        record: T = reader.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "json_invalid":
            raise RunError(f"{where}: damaged: {first['msg']}") from error
        said = "is missing" if first["type"] == "missing" else f"i{first['msg'][1:]}"
        raise RunError(f"{where}: {field or 'the whole of it'}: {said}") from error
    return record


@cache
def _reader(kind: Any) -> Any:
    """Pydantic's reader of a dataclass, made when a first file is read."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def remember(path: Path, value: Any) -> None:
    """Write JSON that only saves time: where the disk takes no more, it is not remembered."""
    with contextlib.suppress(OSError):
        write_json(path, value)


def recall(path: Path) -> Any:
    """What `remember` wrote; None where the file is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a compressed npz that loads with allow_pickle=False."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@contextlib.contextmanager
def locked(
    path: Path, *, wait: bool = True, on_wait: Callable[[], None] = lambda: None
) -> Iterator[bool]:
    """Hold the lock file `path`, which lets one process at a time into the block.

    Yields whether the lock is held: without `wait` it is not where another process holds it.
    `on_wait` is called before waiting begins. The lock ends with its process, however that ends.
    Raises OSError where the file cannot be written, or the file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            yield False
            return
        on_wait()
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()
