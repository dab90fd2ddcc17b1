"""The manifest: the pictures of a folder as a CSV file, with faults left out and decisions applied.

No photo is touched. Without decisions only what is surely right is done: files that cannot be read
are left out, and so are training pictures that are also in another split.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from headstart.auditing.records import Audit, Pair, Picture
from headstart.errors import DataError, HeadstartError, did_you_mean
from headstart.files import read_bytes, write_atomically

COLUMNS = ("path", "label", "split")
DECIDED = ("path", "label", "action")
ACTIONS = ("keep", "relabel", "remove")
_ORDER = {"train": 0, "val": 1, "test": 2}


def require_new(path: Path, overwrite: bool) -> None:
    """Raises HeadstartError where `path` exists, unless it may be overwritten."""
    if path.is_dir():
        raise HeadstartError(f"{path}: is a folder: name a file")
    if path.exists() and not overwrite:
        raise HeadstartError(f"{path}: exists: choose another name, or add --overwrite")


def require_csv(path: Path) -> None:
    """Raises HeadstartError of a name that is not that of a CSV file, as a photo's."""
    if path.suffix.lower() != ".csv":
        raise HeadstartError(f"{path}: a manifest's name ends with .csv")


def write_manifest(
    audit: Audit, path: Path, decisions: Mapping[str, tuple[str, str]] | None = None
) -> int:
    """Write the manifest with columns path, label and split, and return its number of pictures.

    Paths are relative to the manifest's folder where the photos are below it, else absolute.
    decisions: of `read_decisions`.
    """
    root = Path(audit.folder).absolute()
    above = path.absolute().parent
    below = root.is_relative_to(above)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = list(fixed(audit, decisions or {}))
    for picture in rows:
        place = root / picture.path
        shown = place.relative_to(above) if below else place
        writer.writerow((_harmless(shown.as_posix()), picture.label, picture.split))
    write_atomically(path, text.getvalue())
    return len(rows)


def fixed(audit: Audit, decisions: Mapping[str, tuple[str, str]]) -> Iterator[Picture]:
    """The pictures that stay, with their labels. A decision counts more than what is done without
    one, so that a duplicate can be kept."""
    doubled = {_earlier(pair) for pair in audit.duplicates if pair.across and pair.kind == "exact"}
    for picture in audit.pictures:
        action, label = decisions.get(picture.path, ("", picture.label))
        if action == "remove" or (not action and picture.path in doubled):
            continue
        yield Picture(picture.path, label, picture.split)


def read_decisions(path: Path, audit: Audit) -> dict[str, tuple[str, str]]:
    """By path, the action and the label after it.

    Raises DataError, one line, of a file that is no such table, and of a path, a class or an action
    that the folder does not know.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8") from error
    known = {picture.path: picture.label for picture in audit.pictures}
    known |= dict.fromkeys((f.path for f in audit.unreadable if not f.readable), "")
    decisions: dict[str, tuple[str, str]] = {}
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        if list(reader.fieldnames or ()) != list(DECIDED):
            raise DataError(f"{path}: its first line is not {','.join(DECIDED)}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            name, action, label = _decision(where, row, known, audit.class_names)
            if name in decisions and decisions[name] != (action, label):
                raise DataError(f"{where}: {name} is decided twice, and differently")
            decisions[name] = action, label
    except csv.Error as error:
        raise DataError(f"{path}: not a table: {error}") from error
    return decisions


def _decision(
    where: str, row: Mapping[str, str | None], known: Mapping[str, str], classes: tuple[str, ...]
) -> tuple[str, str, str]:
    """Path, action, and label of a line."""
    path, label, action = (row.get(column) or "" for column in DECIDED)
    name = PurePosixPath(path).as_posix()  # without the ./ that keeps spreadsheets from computing
    if name not in known:
        raise DataError(
            f"{where}: {path}: no such picture in the folder{did_you_mean(name, known)}"
        )
    if action not in ACTIONS:
        raise DataError(f"{where}: unknown action {action!r}: write {', '.join(ACTIONS)}")
    if action != "relabel":
        return name, action, known[name]
    meant = label if label in classes else label.removeprefix("'")
    if meant not in classes:
        raise DataError(f"{where}: no such class: {label!r}{did_you_mean(label, classes)}")
    return name, action, meant


def _earlier(pair: Pair) -> str:
    """Of a pair in two splits, the picture that is trained on, or else chosen by."""
    first, second = (_ORDER.get(split, 0) for split in pair.splits)
    return pair.first if first < second else pair.second


def _harmless(path: str) -> str:
    """A path that no spreadsheet takes for a formula."""
    return f"./{path}" if path.startswith(("=", "+", "-", "@", "\t", "\r")) else path
