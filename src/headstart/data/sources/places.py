"""Sources that are places on this machine: folders of photos, and tables that list photos."""

from __future__ import annotations

from pathlib import Path

from headstart.errors import DataError
from headstart.files import expand_user

FOLDER, MANIFEST = "folder:", "manifest:"
TABLES = (".csv", ".tsv", ".parquet")  # suffixes


def place_of(photos: str | Path) -> str:
    """The source of a folder or of a table, by its path, or as it is written in a recipe."""
    given = str(photos)
    if is_photos(given):
        return given
    return f"{MANIFEST if is_table(Path(given)) else FOLDER}{given}"


def is_photos(source: str) -> bool:
    """Whether a source is photos of the user: "folder:PATH" or "manifest:PATH"."""
    return source.startswith((FOLDER, MANIFEST))


def is_manifest(source: str) -> bool:
    return source.startswith(MANIFEST)


def is_table(path: Path) -> bool:
    """Whether a path looks like a table, by its suffix."""
    return path.suffix.casefold() in TABLES


def photos_path(source: str) -> Path:
    """The folder or the table that a source of photos names. Raises DataError where it names
    none."""
    kind, _, path = source.partition(":")
    if not path:
        what = "table" if is_manifest(source) else "folder"
        raise DataError(f"{source} names no {what}: write {kind}:PATH")
    return expand_user(path)


def photos_root(source: str) -> Path:
    """The folder that the photos' paths begin at."""
    path = photos_path(source)
    return path.parent if is_manifest(source) else path


def absolute_source(source: str) -> str:
    """The same source, also from another working directory. Names other than places stay."""
    if not is_photos(source):
        return source
    path = photos_path(source)
    if is_manifest(source):  # a table that is a link still lists photos beside the link
        return f"{MANIFEST}{path.parent.resolve() / path.name}"
    return f"{FOLDER}{path.resolve()}"
