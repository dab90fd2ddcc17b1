"""Files: folders of caches and data, atomic writes, records as JSON, and a lock between processes.

A function that returns a folder does not create it; functions that write do.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from headstart.errors import HeadstartError, RunError
from headstart_predict.plain import shorten_middle

T = TypeVar("T")
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

PARTIAL = re.compile(r"\.(.+)\.(\d+)\.partial")  # the temporary files of partial_path
UNPACKED = 2**32  # bytes of the arrays of one file, at most
LINE = 100  # characters of JSON that stay on one line
LOCK = ".lock"  # the lock file of a folder that only one process at a time may write


def cache_root() -> Path:
    """`$HEADSTART_CACHE`, or the platform's cache folder for headstart."""
    return _folder("HEADSTART_CACHE") or Path(platformdirs.user_cache_dir("headstart"))


def data_root() -> Path | None:
    """`$HEADSTART_DATA`, the folder in which the user keeps data sets, or None."""
    return _folder("HEADSTART_DATA")


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return expand_user(value) if value else None


def expand_user(path: str | Path) -> Path:
    """A path with ~ as the home folder. Raises HeadstartError where that is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HeadstartError(f"{path}: no home folder is known for it: write it in full") from error


def partial_path(path: Path) -> Path:
    """Where this process makes what will be at `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it on success and is removed on failure.

    Those that killed processes left are removed before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(path.parent, of=path.name)
    partial = partial_path(path)
    try:
        yield partial
        publish(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, for programs that leave files of their own when they are
    killed. Those that killed processes left are removed before."""
    folder = partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(path.parent, of=path.name)
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, path: Path) -> None:
    """Move a whole file to its place. After a loss of power the place holds this one or the one
    before, never a part."""
    sync(made)
    made.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the disk take a file, or the names in a folder. Raises OSError where it cannot."""
    if os.name == "nt" and path.is_dir():  # a folder cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(handle)


def remove_partials(folder: Path, of: str | None = None) -> None:
    """Remove the temporary files that killed processes of this machine left in a folder.

    of: the name of the file that they were to become; None for any.
    """
    for path in folder.glob(".*.partial"):
        match = PARTIAL.fullmatch(path.name)
        if match and of in (None, match[1]) and not _runs(int(match[2])):
            with contextlib.suppress(OSError):
                remove(path)


def _runs(process: int) -> bool:
    """Whether a process may be at work; where the system cannot say, it may."""
    if os.name == "nt":  # there, any signal would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return process != os.getpid()


def remove(path: Path) -> None:
    """Remove a file or a folder, or whatever of it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def to_json(value: Any) -> Any:
    """A record, or a container of records, as plain JSON values.

    A dataclass gives its fields, except those with saved=False in their metadata, and the
    properties listed in its DERIVED, so that a reader of the file need not compute them.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = [f.name for f in fields(value) if f.metadata.get("saved", True)]
        return {name: to_json(getattr(value, name))
                for name in (*kept, *getattr(value, "DERIVED", ()))}  # fmt: skip
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    # Bytes of a file name that are no UTF-8 are half letters, which no reader of JSON takes.
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def write_json(path: Path, value: Any) -> None:
    """Write a record, or plain values, as `to_json` gives them."""
    write_atomically(path, _json_lines(to_json(value)) + "\n")


def _json_lines(value: Any, margin: str = "") -> str:
    """JSON with a line for each value; what is short, or a list of numbers, stays on one line."""
    text = json.dumps(value)
    short = len(text) <= LINE or not isinstance(value, dict | list)
    if short or (isinstance(value, list) and all(isinstance(v, int | float) for v in value)):
        return text
    inner = margin + "  "
    if isinstance(value, list):
        opening, closing = "[]"
        lines = [_json_lines(item, inner) for item in value]
    else:
        opening, closing = "{}"
        lines = [f"{json.dumps(str(k))}: {_json_lines(item, inner)}" for k, item in value.items()]
    body = f",\n{inner}".join(lines)
    return f"{opening}\n{inner}{body}\n{margin}{closing}"


def read_json(path: Path, kind: type[T]) -> T:
    """Read a record that `write_json` wrote. Raises FileNotFoundError; RunError as `parse_json`."""
    return parse_json(read_bytes(path), kind, str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises FileNotFoundError, and RunError where it cannot be read."""
    try:
        if is_endless(path):
            raise RunError(f"{path}: not a regular file")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error


def is_endless(path: Path) -> bool:
    """Whether a path is a named pipe, a device or a socket: to read it may take for ever.

    Raises OSError where there is nothing.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def parse_json(text: bytes | str, kind: type[T], where: str) -> T:
    """Read a record strictly. A field that is missing or of another type raises RunError; its text
    begins with `where` and names the field.

    Unknown fields are ignored: a later version may add some.
    """
    from pydantic import ValidationError

    try:
        reader: Any = _reader(kind)  # type: ignore[arg-type]  # a class is hashable
        record: T = reader.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = shorten_middle(".".join(map(str, first["loc"])), 80) or "the whole file"
        message = shorten_middle(first["msg"], 120)
        if first["type"] == "json_invalid":
            raise RunError(f"{where}: damaged: {message}") from error
        said = "is missing" if first["type"] == "missing" else f"i{message[1:]}"
        raise RunError(f"{where}: {field}: {said}") from error
    return record


@cache
def _reader(kind: Any) -> Any:
    """Pydantic's reader of a dataclass, made when the first file of this kind is read."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def remember(path: Path, value: Any) -> None:
    """Write JSON that only saves time. An error of the disk is ignored."""
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
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub claims a bool
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises FileNotFoundError, and RunError of anything else."""
    try:
        if is_endless(path):
            raise ValueError("not a regular file")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if sum(entry.file_size for entry in arrays.zip.infolist()) > UNPACKED:
                raise RunError(
                    f"{path}: damaged: its arrays would take more than {UNPACKED:,} bytes"
                )
            found = {name: arrays[name] for name in arrays.files}
    except (FileNotFoundError, RunError):
        raise
    except Exception as error:  # whatever numpy, zipfile or zlib meet first
        if isinstance(error, OSError) and error.errno:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from error
        raise RunError(f"{path}: damaged: not an archive of plain arrays") from error
    if not all(isinstance(array, np.ndarray) for array in found.values()):
        raise RunError(f"{path}: damaged: not an archive of arrays alone")
    return found


@contextlib.contextmanager
def locked(
    path: Path, *, wait: bool = True, on_wait: Callable[[], None] = lambda: None
) -> Iterator[bool]:
    """Hold the lock file `path` within the block: one process at a time.

    Yields whether the lock is held; it can be False only without `wait`, where another process
    holds it. `on_wait` is called before waiting begins. The lock ends with its process, even if
    that is killed. Raises OSError where the file cannot be written or the file system has no locks.
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
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path)) from error
    except OSError as error:  # filelock's own does not say which file
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        yield True
    finally:
        lock.release()
