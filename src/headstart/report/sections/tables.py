"""Rows of the page's tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

CellT = TypeVar("CellT")


@dataclass(frozen=True, slots=True)
class TableRow(Generic[CellT]):
    """A row's heading, and what stands in each column beside it."""

    name: str
    cells: list[CellT]
