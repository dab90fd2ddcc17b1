"""The scan of a folder: reads, hashes and decodes every image once, and remembers the result."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import random
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL

from headstart.data.images import PIXELS_VERSION, map_threads
from headstart.data.sources.download import Progress
from headstart.files import cache_root, recall, remember, write_atomically
from headstart_predict.colours import COLOURS_VERSION
from headstart_predict.decode import (
    Inspected,
    UnreadableImageError,
    heif_version,
    inspect_image,
    open_file,
)
from headstart_predict.limits import max_pixels

FORMAT = 5  # raise it when more is remembered about a file
CHECKED, CHECKED_BYTES = 16, 2**28  # of the files taken as unchanged, those that are read again
_IN_MEMORY = 2**26  # bytes of a file that is read at once

Digest = bytes  # which names a field below


@dataclass(frozen=True)
class Scanned:
    """The scan of one file. bytes, mtime_ns, ctime_ns, inode: by which a change is noticed; all 0
    where the file could not be opened. width, height: upright, in pixels. blank: the centre square
    has one colour. empty: all of the picture has. peak: the largest value, of 65,535, of a picture
    with 16 or 32 bits a channel; 0 for others. recoloured: whether an ICC profile changes its
    colours. reason: why the file cannot be read; empty where it can."""

    bytes: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    blank: bool = False
    empty: bool = False
    peak: int = 0
    recoloured: bool = False
    reason: str = ""

    @property
    def stamp(self) -> tuple[int, int, int, int]:
        return self.bytes, self.mtime_ns, self.ctime_ns, self.inode

    @property
    def digest(self) -> Digest:
        """SHA-256 that stands for the picture: of the file, and of the conversion of its colours.
        So cached features of unconverted pixels are not taken for it, and no other picture is
        concerned."""
        content = bytes.fromhex(self.sha256)
        if not self.recoloured:
            return content
        return hashlib.sha256(content + f"sRGB {COLOURS_VERSION}".encode()).digest()


# A folder is opened several times by one command; each time it says what the first scan has found.
_said: dict[Path, str] = {}


def scan(root: Path, paths: Sequence[str], progress: Progress | None = None) -> dict[str, Scanned]:
    """The scan of each of `paths` (below `root`), in the order given.

    A file with the size, times and inode of the last scan is taken as unchanged. A few of these are
    read again; if one has changed, all are, and `scan_notes` says so. An interrupted scan keeps its
    results so far, and any scan those of other files that are still there: a folder and the tables
    in it list different files. Raises DataError where the machine lacks memory or open files.
    """
    memory = _memory_path(root)
    known = _recall(memory)
    current = {path: entry for path, entry in known.items() if _stamp(root / path) == entry.stamp}
    scanned = {path: current[path] for path in paths if path in current}
    if changed := _changed(root, scanned):
        _said[memory] = (
            f"{changed} has changed, but not its size, time and inode: all images are scanned again"
        )
        current = scanned = {}
    todo = [path for path in paths if path not in scanned]
    fresh: dict[str, Scanned] = {}
    small: dict[bytes, np.ndarray] = {}
    try:
        for entry, thumbnail in map_threads(lambda path: _scan_file(root / path), todo):
            fresh[todo[len(fresh)]] = entry
            if thumbnail is not None:
                small[entry.digest] = thumbnail
            if progress is not None:
                progress("reading images", len(fresh), len(todo))
    finally:
        scanned = scanned | fresh
        if fresh or len(known) > len(current):
            _remember(memory, current | scanned)
            kept = {entry.digest for entry in (current | scanned).values()}
            old = recall_thumbnails(root).items()
            remember_thumbnails(root, {d: t for d, t in old if d in kept} | small)
    return {path: scanned[path] for path in paths}


def scan_notes(root: Path) -> list[str]:
    """What this process's scans of a folder have found to say."""
    said = _said.get(_memory_path(root))
    return [said] if said else []


def forget_scan(root: Path) -> None:
    """Have the next scan of a folder read every image."""
    _said.pop(_memory_path(root), None)
    for path in (_memory_path(root), _thumbnails_path(root)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _changed(root: Path, trusted: Mapping[str, Scanned]) -> str | None:
    """Of the files taken as unchanged, one whose content is another. At most CHECKED are read,
    spread over the folder, others each time."""
    paths = [path for path, entry in trusted.items() if entry.sha256]
    bounds = np.linspace(0, len(paths), min(CHECKED, len(paths)) + 1).astype(int).tolist()
    left = CHECKED_BYTES
    for first, last in itertools.pairwise(bounds):
        path = paths[random.randrange(first, last)]
        left -= trusted[path].bytes
        if left < 0:
            break
        try:
            with open_file(root / path) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != trusted[path].sha256:
                    return path
        except UnreadableImageError:
            return path
    return None


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
        return Scanned(reason="its name is not valid UTF-8"), None
    stamp = (0, 0, 0, 0)
    try:
        with open_file(path) as file:
            stamp = _stamp_of(os.fstat(file.fileno()))
            if stamp[0] > _IN_MEMORY:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                inspected = inspect_image(file, str(path))
            else:
                content = file.read()
                digest = hashlib.sha256(content).hexdigest()
                inspected = inspect_image(content, str(path))
    except UnreadableImageError as error:
        return Scanned(*stamp, reason=error.reason), None
    return _scanned(stamp, digest, inspected), inspected.thumbnail


def _scanned(stamp: tuple[int, int, int, int], digest: str, inspected: Inspected) -> Scanned:
    width, height, blank, empty, peak, _, recoloured = inspected
    return Scanned(*stamp, digest, width, height, blank, empty, peak, recoloured)


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """By what a change of a file is noticed; None where there is no file."""
    try:
        return _stamp_of(path.stat())
    except OSError:
        return None


def _stamp_of(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _memory_path(root: Path) -> Path:
    where = str(root.resolve()).encode(errors="surrogateescape")
    return cache_root() / "scans" / f"{hashlib.blake2b(where, digest_size=16).hexdigest()}.json"


def _thumbnails_path(root: Path) -> Path:
    return _memory_path(root).with_suffix(".npz")


def _version() -> str:
    """The versions that a remembered scan depends on."""
    heif = heif_version()
    readers = f"Pillow {PIL.__version__}" + (f", pillow-heif {heif}" if heif else "")
    return f"{FORMAT}, {PIXELS_VERSION}, {COLOURS_VERSION}, {max_pixels()}, {readers}"


def _recall(memory: Path) -> dict[str, Scanned]:
    try:
        content = recall(memory) or {}
        if content["version"] != _version():
            return {}
        return {path: Scanned(**entry) for path, entry in content["files"].items()}
    except (KeyError, TypeError):
        return {}


def _remember(memory: Path, scanned: dict[str, Scanned]) -> None:
    # A file that could not be opened has no stamp; the next scan reads it again.
    files = {path: asdict(entry) for path, entry in scanned.items() if any(entry.stamp)}
    remember(memory, {"version": _version(), "files": files})
