"""Rows in a file that grows a batch at a time, with a CRC-32 of each batch beside it.

A pass that was cut off goes on behind the last batch that is whole and right. A finished file is
checked when a process first reads it: a CRC-32 takes about 0.3 s a gigabyte.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_SUM = np.dtype("<u4")


class RowsFile:
    """The file `path`, open at its end behind `start` rows that are right.

    row_bytes: of a row. batch: rows of every batch but the last.
    """

    def __init__(self, path: Path, row_bytes: int, batch: int) -> None:
        good = list(right_batches(path, row_bytes * batch))
        whole = good[: len(good) - 1] if good and good[-1] < row_bytes * batch else good
        self.start = len(whole) * batch
        # Unbuffered, and the rows first: a kill leaves no sum of rows that are not there.
        self._rows = path.open("ab", buffering=0)
        self._sums = sums_of(path).open("ab", buffering=0)
        self._rows.truncate(self.start * row_bytes)
        self._sums.truncate(len(whole) * _SUM.itemsize)

    def append(self, batch: bytes) -> None:
        """Add a batch. Raises OSError where the disk does not take it."""
        left = memoryview(batch)
        while left:  # a write may take a part
            left = left[self._rows.write(left) :]
        self._sums.write(np.array(zlib.crc32(batch), _SUM).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rows.close()
        self._sums.close()


def sums_of(path: Path) -> Path:
    """Where the sums of a file of rows are."""
    return path.with_suffix(".sums")


def right_batches(path: Path, batch_bytes: int) -> Iterator[int]:
    """The bytes of each batch in turn, up to the first that is not what was written."""
    if not (path.exists() and sums_of(path).exists()):
        return
    sums = np.fromfile(sums_of(path), _SUM)
    with path.open("rb") as file:
        for known in sums:
            content = file.read(batch_bytes)
            if not content or zlib.crc32(content) != known:
                return
            yield len(content)


def is_right(path: Path, batch_bytes: int, total: int) -> bool:
    """Whether a finished file holds `total` bytes, and those that were written."""
    if not path.exists() or path.stat().st_size != total:
        return False
    return sum(right_batches(path, batch_bytes)) == total
