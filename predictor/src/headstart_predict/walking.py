"""What is in a folder: its folders, its images, and the files that are none. For training and for
prediction alike."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from headstart_predict.decode import UnreadableImageError, open_file
from headstart_predict.errors import DataError
from headstart_predict.formats import (
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    begins_like_an_image,
)

# Besides hidden names: what systems and servers put beside the files of a user.
_NEVER_DATA = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
     "desktop.ini")
)  # fmt: skip
_NO_FILE = "not a regular file"


class Listing(NamedTuple):
    """The entries of one folder, by name, sorted.

    linked: the folders among `folders` that are links. others: suffix (or what it is) of each file
    that is no image.
    """

    folders: list[str]
    linked: frozenset[str]
    images: list[str]
    others: list[str]


@dataclass
class Found:
    """All images below a folder, and the number of other files by suffix."""

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def is_never_data(name: str) -> bool:
    """Whether a name is neither that of a class nor that of an image."""
    return name.startswith(".") or name.casefold() in _NEVER_DATA


def list_folder(folder: Path) -> Listing:
    """The entries of a folder. Raises DataError where it cannot be listed."""
    folders, linked, images, others = [], set(), [], []
    try:
        with os.scandir(folder) as entries:  # which knows the kinds without asking the disk again
            for entry in entries:
                if is_never_data(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                    if entry.is_symlink():
                        linked.add(entry.name)
                elif other := _other(entry):
                    others.append(other)
                else:
                    images.append(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    return Listing(sorted(folders), frozenset(linked), sorted(images), sorted(others))


def list_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted. Opens no file."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not is_never_data(e.name) and _is_folder(e))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def holds_images(folder: Path) -> bool:
    """Whether a folder holds an image itself. Files of unknown kinds are opened only where no
    other decides."""
    unknown = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_never_data(entry.name) or _is_folder(entry):
                    continue
                if PurePath(entry.name).suffix.casefold() not in IMAGE_SUFFIXES:
                    unknown.append(entry)
                elif not _other(entry):
                    return True
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    return any(not _other(entry) for entry in unknown)


def walk(folder: Path) -> Found:
    """Everything below a folder. Links to folders are followed, but no folder is entered twice,
    and none that holds this one."""
    found = Found()
    above = {*folder.absolute().parents, *folder.resolve().parents}
    seen = {_identity(parent) for parent in above}
    real, links = [folder], list[Path]()  # a folder is entered under its own name where it has one
    while real or links:
        here = real.pop() if real else links.pop()
        identity = _identity(here)
        if identity in seen:
            continue
        seen.add(identity)
        listing = list_folder(here)
        found.images += [here / name for name in listing.images]
        found.others.update(listing.others)
        for name in reversed(listing.folders):  # the first by name is entered first
            (links if name in listing.linked else real).append(here / name)
    return found


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The given files, and every image below the given folders, in order of their path.

    A given file is taken whatever its suffix. Raises DataError for a path that does not exist and
    for a folder without an image.
    """
    images: list[Path] = []
    for path in paths:
        if not exists(path):
            raise DataError(f"{path}: no such file or folder")
        if not path.is_dir():
            images.append(path)
            continue
        inside = sorted(walk(path).images)
        if not inside:
            raise DataError(f"{path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        images += inside
    return images


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    return found.st_dev, found.st_ino


def exists(path: Path) -> bool:
    """Whether a path leads anywhere; False too where it is no possible path."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or to where nobody may look
        return False


def _other(entry: os.DirEntry[str]) -> str:
    """The suffix of a file that is no image, or what else it is; empty for an image.

    A link that leads nowhere is an image if its suffix says so: it is reported as unreadable.
    """
    suffix = PurePath(entry.name).suffix.casefold()
    if not _is_file(entry):
        return _NO_FILE
    if suffix in IMAGE_SUFFIXES:
        return ""
    if suffix not in OTHER_SUFFIXES and begins_like_an_image(_head(Path(entry.path))):
        return ""
    return suffix or "without a suffix"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a regular file, a link to one, or a link that leads nowhere."""
    with contextlib.suppress(OSError):
        if entry.is_file():
            return True
    return entry.is_symlink() and not exists(Path(entry.path))


def _head(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(HEAD_BYTES)
    except UnreadableImageError:
        return b""


def tell_others(others: dict[str, Counter[str]], shown: int = 3) -> str:
    """One line about the files of each class that are no images; empty where there are none."""
    held = {name: counts for name, counts in sorted(others.items()) if counts}
    if not held:
        return ""
    total = sum(counts.total() for counts in held.values())
    parts = [f"{name} {counted(counts)}" for name, counts in list(held.items())[:shown]]
    if len(held) > shown:
        parts.append(f"and {len(held) - shown} more classes")
    are = "1 file is no image and is" if total == 1 else f"{total:,} files are no images and are"
    return f"{are} left out: {'; '.join(parts)}"


def counted(counts: Counter[str], shown: int = 4) -> str:
    """ "3 .txt, 1 .psd": the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(number for _, number in ordered[shown:])
    parts = [f"{number:,} {suffix}" for suffix, number in ordered[:shown]]
    return ", ".join([*parts, f"{rest:,} others"] if rest else parts)
