"""Tables as text: CSV, TSV and Parquet files, one row at a time."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from headstart.data.sources.places import TABLES
from headstart.errors import DataError

MOST_ROWS = 5_000_000
_DELIMITERS = ",;\t"
_HEADER_CHARACTERS = 2**16


class Table(Protocol):
    """A table whose first row names its columns."""

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns, as written."""

    def rows(self, columns: Sequence[int]) -> Iterator[tuple[str, list[str]]]:
        """The place of each row, such as "line 7", and its cells in these columns as text.

        Spaces around a cell are removed. Blank rows are left out. Raises DataError for a row that
        cannot be read, and for more than MOST_ROWS.
        """


def open_table(path: Path, lists: str | None = None) -> Table:
    """A table, by the suffix of its file. Raises DataError, one line, where it is none.

    lists: what joins the texts of a cell that holds a list of them; None: such a cell is refused.
    """
    suffix = path.suffix.casefold()
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a table: write folder:{path}")
    if not path.is_file():  # a named pipe would wait for ever
        raise DataError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    if suffix not in TABLES:
        raise DataError(f"{path}: not a table: its name must end in {', '.join(TABLES)}")
    return _open_parquet(path, lists) if suffix == ".parquet" else _open_csv(path)


@dataclass(frozen=True)
class _CsvTable:
    path: Path
    header: tuple[str, ...]
    delimiter: str

    def rows(self, columns: Sequence[int]) -> Iterator[tuple[str, list[str]]]:
        with _csv_file(self.path) as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            for number in itertools.count(-1):
                with _csv_errors(self.path, reader.line_num):
                    cells = next(reader, None)
                if cells is None:
                    return
                if number < 0 or not any(map(str.strip, cells)):
                    continue
                place = f"line {reader.line_num}"
                _refuse_more_rows(self.path, number)
                if len(cells) < len(self.header) or any(cells[len(self.header) :]):
                    raise DataError(
                        f"{self.path}: {place}: {len(cells)} cells, where the header has "
                        f"{len(self.header)}: put cells that hold {self.delimiter!r} into quotes"
                    )
                yield place, [cells[column].strip() for column in columns]


def _open_csv(path: Path) -> Table:
    with _csv_file(path) as file, _csv_errors(path, 0):
        first = file.readline(_HEADER_CHARACTERS)
        if not first.strip():
            raise DataError(f"{path}: is empty, or begins with an empty line: name the columns")
        given = "\t" if path.suffix.casefold() == ".tsv" else _DELIMITERS
        # The delimiter that gives the most columns; of two that give as many, the first.
        delimiter = max(given, key=lambda d: len(next(csv.reader([first], delimiter=d))))
        header = next(csv.reader([first], delimiter=delimiter, strict=True))
    return _CsvTable(path, tuple(cell.strip() for cell in header), delimiter)


@contextmanager
def _csv_file(path: Path) -> Iterator[TextIO]:
    try:
        # Excel's "CSV UTF-8" begins with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def _csv_errors(path: Path, line: int) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8: save it with that encoding (in Excel: CSV UTF-8)"
        ) from error
    except csv.Error as error:
        raise DataError(f"{path}: line {line + 1}: not CSV: {error}") from error


@dataclass(frozen=True)
class _ParquetTable:
    path: Path
    header: tuple[str, ...]
    file: Any  # pyarrow.parquet.ParquetFile
    lists: str | None

    def rows(self, columns: Sequence[int]) -> Iterator[tuple[str, list[str]]]:
        names = [self.header[column] for column in columns]
        number = 0
        for batch in self._batches(names):
            values = [batch.column(name).to_pylist() for name in names]
            for cells in zip(*values, strict=True):
                number += 1
                _refuse_more_rows(self.path, number)
                place = f"row {number}"
                yield place, [self._text(cell, place) for cell in cells]

    def _batches(self, names: list[str]) -> Iterator[Any]:
        import pyarrow

        try:
            yield from self.file.iter_batches(columns=names)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: damaged Parquet: {_first_line(error)}") from error

    def _text(self, cell: object, place: str) -> str:
        if cell is None:
            return ""
        if isinstance(cell, float):  # whole numbers become floats where others are missing
            cell = "" if math.isnan(cell) else int(cell) if cell.is_integer() else cell
        if isinstance(cell, str | int | float):
            return str(cell).strip()
        if isinstance(cell, list) and self.lists is not None:
            return self.lists.join(self._items(cell, self.lists, place))
        raise DataError(f"{self.path}: {place}: holds {type(cell).__name__}, not text or a number")

    def _items(self, cell: list[object], joint: str, place: str) -> Iterator[str]:
        """The items of a list as text. Raises DataError for one that holds the joint."""
        for item in cell:
            text = "" if isinstance(item, list) else self._text(item, place)
            if joint in text or isinstance(item, list):
                raise DataError(f"{self.path}: {place}: a label cannot be {str(item)[:60]!r}")
            yield text


def _open_parquet(path: Path, lists: str | None) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs one more package: pip install pyarrow; or save it as CSV"
        ) from error
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Parquet, or damaged: {_first_line(error)}") from error
    return _ParquetTable(path, tuple(file.schema_arrow.names), file, lists)


def _refuse_more_rows(path: Path, number: int) -> None:
    if number > MOST_ROWS:
        raise DataError(f"{path}: more than {MOST_ROWS:,} rows are too many: split the table")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
