"""The scan of a folder: reads, hashes and decodes every image once, and remembers the result."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL

from headstart.data.decode import UnreadableImageError, inspect_image
from headstart.data.images import PIXELS_VERSION, map_threads
from headstart.data.sources.download import Progress
from headstart.files import cache_root, recall, remember, write_atomically

FORMAT = 2  # raise it when more is remembered about a file


@dataclass(frozen=True)
class Scanned:
    """The scan of one file. width, height: upright, in pixels. blank: the centre square has one
    colour. reason: why the file cannot be read; empty where it can."""

    bytes: int
    mtime_ns: int
    sha256: str = ""
    width: int = 0
    height: int = 0
    blank: bool = False
    reason: str = ""


def scan(root: Path, paths: Sequence[str], progress: Progress | None = None) -> dict[str, Scanned]:
    """The scan of each of `paths` (below `root`), in the order given.

    Files with the size and time of the last scan are not read again. An interrupted scan keeps its
    results so far.
    """
    memory = _memory_path(root)
    known = _recall(memory)
    scanned: dict[str, Scanned] = {}
    todo = []
    for path in paths:
        entry = known.get(path)
        if entry is not None and _stamp(root / path) == (entry.bytes, entry.mtime_ns):
            scanned[path] = entry
        else:
            todo.append(path)
    fresh: dict[str, Scanned] = {}
    small: dict[bytes, np.ndarray] = {}
    try:
        for entry, thumbnail in map_threads(lambda path: _scan_file(root / path), todo):
            fresh[todo[len(fresh)]] = entry
            if thumbnail is not None:
                small[bytes.fromhex(entry.sha256)] = thumbnail
            if progress is not None:
                progress("reading images", len(fresh), len(todo))
    finally:
        scanned |= fresh
        if fresh or len(known) > len(scanned):
            _remember(memory, scanned)
            kept = {bytes.fromhex(entry.sha256) for entry in scanned.values()}
            old = recall_thumbnails(root).items()
            remember_thumbnails(root, {d: t for d, t in old if d in kept} | small)
    return {path: scanned[path] for path in paths}


def recall_thumbnails(root: Path) -> dict[bytes, np.ndarray]:
    """The thumbnails of the folder's scan, by the SHA-256 of the file: uint8 (THUMBNAIL_SIDE,
    THUMBNAIL_SIDE, 3). {} where they have been removed."""
    try:
        with np.load(_thumbnails_path(root), allow_pickle=False) as arrays:
            if str(arrays["version"]) != _version():
                return {}
            digests, pixels = arrays["digests"], arrays["thumbnails"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    return {digest.tobytes(): square for digest, square in zip(digests, pixels, strict=True)}


def remember_thumbnails(root: Path, thumbnails: Mapping[bytes, np.ndarray]) -> None:
    """Keep thumbnails for `recall_thumbnails`, in place of those kept before."""
    if not thumbnails:
        return
    buffer = io.BytesIO()
    np.savez(
        buffer,
        version=np.array(_version()),
        digests=np.frombuffer(b"".join(thumbnails), np.uint8).reshape(len(thumbnails), -1),
        thumbnails=np.stack(list(thumbnails.values())),
    )
    with contextlib.suppress(OSError):
        write_atomically(_thumbnails_path(root), buffer.getvalue())


def _scan_file(path: Path) -> tuple[Scanned, np.ndarray | None]:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Scanned(0, 0, reason="its name is not valid UTF-8"), None
    try:
        size, mtime_ns = _stamp(path) or (0, 0)
        content = path.read_bytes()
    except OSError as error:
        return Scanned(0, 0, reason=str(error.strerror)), None
    try:
        inspected = inspect_image(content)
    except UnreadableImageError as error:
        return Scanned(size, mtime_ns, reason=error.reason), None
    digest = hashlib.sha256(content).hexdigest()
    scanned = Scanned(size, mtime_ns, digest, inspected.width, inspected.height, inspected.blank)
    return scanned, inspected.thumbnail


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _memory_path(root: Path) -> Path:
    where = str(root.resolve()).encode(errors="surrogateescape")
    return cache_root() / "scans" / f"{hashlib.blake2b(where, digest_size=16).hexdigest()}.json"


def _thumbnails_path(root: Path) -> Path:
    return _memory_path(root).with_suffix(".npz")


def _version() -> str:
    """The versions that a remembered scan depends on."""
    return f"{FORMAT}, {PIXELS_VERSION}, Pillow {PIL.__version__}"


def _recall(memory: Path) -> dict[str, Scanned]:
    try:
        content = recall(memory) or {}
        if content["version"] != _version():
            return {}
        return {path: Scanned(**entry) for path, entry in content["files"].items()}
    except (KeyError, TypeError):
        return {}


def _remember(memory: Path, scanned: dict[str, Scanned]) -> None:
    # A file that could not be opened has no time; the next scan reads it again.
    files = {path: asdict(entry) for path, entry in scanned.items() if entry.mtime_ns}
    remember(memory, {"version": _version(), "files": files})
