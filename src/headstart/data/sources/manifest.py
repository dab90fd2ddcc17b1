"""Manifests: a table with a row for each photo, of its path and its label.

The user has named every photo. So a path may lead out of the table's folder, hidden files are
taken, and no photo is left out as a mask.

Where a photo may have several labels (`data.labels = "many"`) they are separated by |, or are lists
of Parquet, and rows of the same photo add up. | and not ; since that separates the columns of CSV
in half of the world. A table is never taken like this unasked: | may be a part of a name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from headstart.data.sources.layout import (
    BARE,
    Layout,
    agreed_classes,
    in_order,
    split_of,
    use_val_as_test,
)
from headstart.data.sources.tables import Table, open_table
from headstart.data.splits import lacking
from headstart.errors import DataError
from headstart.text.formats import some
from headstart_predict.walking import exists

# The first name is the column's own. Another is taken where no column has that and one alone fits.
_NAMES = {
    "path": ("path", "filename", "file", "image", "filepath", "file_path", "file_name",
             "image_path", "image_name", "image_file", "img", "img_path"),
    "label": ("label", "class", "category", "target", "labels", "class_name", "label_name"),
    "split": ("split", "set", "subset", "partition"),
    "group": ("group", "groups", "group_id"),
}  # fmt: skip
_NEEDED = ("path", "label")
SEPARATOR = "|"  # of the labels of one photo


class Row(NamedTuple):
    """A row of the table. place: where it is in the file, in words."""

    place: str
    path: str
    label: str
    split: str
    group: str


@dataclass
class _Rows:
    """The rows read so far. repeated: the number of rows that say again what another said."""

    by_path: dict[str, Row] = field(default_factory=dict)
    repeated: int = 0


def read_manifest(path: Path, *, many: bool = False) -> Layout:
    """The layout that a table says. Raises DataError, one line, for a table that is unclear.

    Paths are relative to the table's folder, or absolute. A photo that does not exist is left to
    the scan, which lists it; one without a label is in `left_out`. many: whether a photo may have
    several labels, or none.
    """
    table = open_table(path, lists=SEPARATOR if many else None)
    columns = _find_columns(path, table.header)
    rows = _read_rows(path, table, columns, many)
    if not rows.by_path:
        raise DataError(f"{path}: no row but the names of the columns: add a row for each photo")
    _require_files(path, rows.by_path)
    if many:
        return _of_many(path, table.header[columns["label"]], rows, "group" in columns)
    labelled = [row for row in rows.by_path.values() if row.label]
    unlabelled = [row for row in rows.by_path.values() if not row.label]
    if not labelled:
        raise DataError(f"{path}: no row has a label in column {table.header[columns['label']]}")
    notes = _repeats(rows.repeated)
    files = _by_split(path, labelled, notes)
    if several := next((row.label for row in labelled if SEPARATOR in row.label), None):
        notes.append(
            f'{several} is taken as the name of one class: set data.labels = "many" where a photo '
            f"has several labels, separated by {SEPARATOR}"
        )
    names = in_order({row.label for row in labelled if row.split in ("", "train")})
    return Layout(
        files=files,
        class_names=agreed_classes(path, files, notes, names),
        notes=tuple(notes),
        left_out=tuple((row.path, "the table gives it no label") for row in unlabelled),
        groups={r.path: r.group for r in labelled if r.group} if "group" in columns else None,
    )


def _find_columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """The places of the columns that are there. Raises DataError where one is missing, or where two
    may be meant."""
    said = [re.sub(r"[\s-]+", "_", name.strip().casefold()) for name in header]
    found = {}
    for column, names in _NAMES.items():
        fits = [i for i, name in enumerate(said) if name == column]
        fits = fits or [i for i, name in enumerate(said) if name in names]
        if len(fits) > 1:
            raise DataError(
                f"{path}: columns {' and '.join(header[i] for i in fits)} may both be the {column}:"
                f" call one of them {column}, and no other"
            )
        if fits:
            found[column] = fits[0]
        elif column in _NEEDED:
            held = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
            raise DataError(
                f"{path}: no column {column} (there are: {held}): the first row names the columns, "
                "such as path,label or path,label,split"
            )
    return found


def _read_rows(path: Path, table: Table, columns: dict[str, int], many: bool) -> _Rows:
    rows = _Rows()
    folder = path.absolute().parent
    for place, cells in table.rows(list(columns.values())):
        given = dict(zip(columns, cells, strict=True))
        if not any(cells):
            continue
        if not given["path"]:
            raise DataError(f"{path}: {place}: no path")
        split = _split(path, place, given["split"]) if "split" in given else ""
        name = _below(folder, given["path"])
        row = Row(place, name, given["label"], split, given.get("group", ""))
        before = rows.by_path.setdefault(name, row)
        if before is row:
            continue
        if many and (before.split, before.group) == (row.split, row.group):
            rows.by_path[name] = before._replace(label=f"{before.label}{SEPARATOR}{row.label}")
            continue
        if before[1:] != row[1:]:
            raise DataError(
                f"{path}: {before.place} and {place} differ about {given['path']} "
                f"({_differing(before, row)}): keep one"
            )
        rows.repeated += 1
    return rows


def _split(path: Path, place: str, word: str) -> str:
    meaning = split_of(word)
    if meaning is None or meaning not in BARE:
        said = f"unknown split {word!r}" if word else "no split, where other rows may have one"
        raise DataError(f"{path}: {place}: {said}: write train, val or test")
    return meaning[0]


def _differing(first: Row, second: Row) -> str:
    pairs = zip(first[2:], second[2:], strict=True)
    return "; ".join(f"{a or 'nothing'} or {b or 'nothing'}" for a, b in pairs if a != b)


def _below(folder: Path, given: str) -> str:
    """The path as it is named everywhere: relative to the table's folder where it is inside."""
    if "\\" in given and not exists(folder / given):  # written on Windows
        given = given.replace("\\", "/")
    path = PurePath(given)
    if path.is_absolute() and path.is_relative_to(folder):
        path = path.relative_to(folder)
    return path.as_posix()


def _require_files(path: Path, given: Iterable[str]) -> None:
    """Raises DataError where no path leads to a file, as where they begin at another folder."""
    folder = path.absolute().parent
    names = list(given)
    if not any(exists(folder / name) for name in names):
        raise DataError(
            f"{path}: none of its {len(names):,} paths leads to a file, such as {names[0]}: "
            f"paths are absolute, or relative to {folder}"
        )


def _of_many(path: Path, column: str, rows: _Rows, grouped: bool) -> Layout:
    """The layout of photos with any number of labels."""
    photos = list(rows.by_path.values())
    labels = {row.path: _labels(row.label) for row in photos}
    _require_several(path, column, labels)
    files: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"": []})
    for row in photos:
        files[row.split or "train"][""].append(row.path)
    notes: list[str] = []
    if "train" not in files:
        raise DataError(f"{path}: no row of split train: only {', '.join(sorted(files))}")
    use_val_as_test(files, {split: split for split in files}, "split", notes)
    trained = in_order({name for p in files["train"][""] for name in labels[p]})
    for split, classes in files.items():
        held = {name for p in classes[""] for name in labels[p]}
        if extra := sorted(held - set(trained)):
            raise DataError(
                f"{path}: no training photo has the labels {some(extra)} of split {split}: add "
                "training photos, or remove the labels"
            )
        if missing := [name for name in trained if name not in held]:
            notes.append(lacking(split, missing))
    if len(trained) < 2:
        raise DataError(f"{path}: a single label, {trained[0]}: at least two are needed")
    if without := sum(not names for names in labels.values()):
        notes.append(f"{without:,} of {len(labels):,} photos have no label")
    number = {name: k for k, name in enumerate(trained)}
    return Layout(
        files=dict(sorted(files.items())),
        class_names=trained,
        notes=tuple(notes),
        groups={r.path: r.group for r in photos if r.group} if grouped else None,
        of_many={p: tuple(number[name] for name in names) for p, names in labels.items()},
    )


def _labels(cell: str) -> tuple[str, ...]:
    """The labels in a cell, each once."""
    parts = (part.strip() for part in cell.split(SEPARATOR))
    return tuple(dict.fromkeys(part for part in parts if part))


def _require_several(path: Path, column: str, labels: dict[str, tuple[str, ...]]) -> None:
    """Raises DataError where no photo has several labels, as with another separator."""
    if not any(labels.values()):
        raise DataError(f"{path}: no row has a label in column {column}")
    if any(len(names) > 1 for names in labels.values()):
        return
    other = next((n for names in labels.values() for n in names if re.search("[;,/+]", n)), None)
    if other is not None:
        raise DataError(
            f"{path}: no photo has several labels, but one is called {other}: separate labels by "
            f"{SEPARATOR}, as in cat{SEPARATOR}dog"
        )
    if all(labels.values()):
        raise DataError(
            f'{path}: every photo has exactly one label: leave data.labels = "many" out'
        )


def _by_split(path: Path, rows: Sequence[Row], notes: list[str]) -> dict[str, dict[str, list[str]]]:
    """The paths of each label in each split; without splits all are in train."""
    files: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        files[row.split or "train"][row.label].append(row.path)
    if "train" not in files:
        raise DataError(f"{path}: no row of split train: only {', '.join(sorted(files))}")
    use_val_as_test(files, {split: split for split in files}, "split", notes)
    return {split: dict(classes) for split, classes in sorted(files.items())}


def _repeats(count: int) -> list[str]:
    if not count:
        return []
    return [f"{count:,} row{'s' * (count > 1)} of the table repeat{'s' * (count == 1)} another: "
            "each image counts once"]  # fmt: skip
