"""Which classes are taken for which: a table of counts, a drawing where there are many, a list."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from markupsafe import Markup

from headstart.report.drawing.svg import element, panel
from headstart.report.sections.tables import TableRow
from headstart.text.captions import captions

TABLE_CLASSES = 20  # beyond this many, a table of counts is wider than a screen
PAIRS = 12
_HINTED = 150  # cells of the drawing that tell their classes when pointed at
_LEVELS = 4  # of shade
_SIDE, _ROOM, _EDGE = 400, 92, 4  # of the drawing; what its families' names take
_FAMILIES = 16


@dataclass(frozen=True, slots=True)
class Count:
    """A cell of the matrix. shade: 0 to 1, how much it stands out."""

    count: int
    right: bool
    shade: float


@dataclass(frozen=True, slots=True)
class Matrix:
    """A row for each true class, a column for each answer."""

    names: list[str]
    rows: list[TableRow[Count]]


@dataclass(frozen=True, slots=True)
class Mixup:
    """`count` of the `of` images of a class are taken for another one."""

    true: str
    predicted: str
    count: int
    of: int

    @property
    def share(self) -> float:
        return self.count / self.of


@dataclass(frozen=True, slots=True)
class Confusion:
    """A matrix of few classes; of many a drawing, and the most common mistakes."""

    matrix: Matrix | None
    grid: Markup | None
    pairs: list[Mixup]


def describe_confusion(confusion: np.ndarray, names: Sequence[str]) -> Confusion:
    """`matrix` up to TABLE_CLASSES classes; `grid` and `pairs` above. None where there is none.

    confusion: int64 (classes, classes), rows are true classes.
    """
    few = len(confusion) <= TABLE_CLASSES
    return Confusion(
        matrix=_matrix(confusion, names) if few and len(confusion) else None,
        grid=None if few else draw_grid(confusion, names),
        pairs=[] if few else _pairs(confusion, names),
    )


def _shares(confusion: np.ndarray) -> np.ndarray:
    """Each count as a share of its row: right answers as they are, wrong by the largest share."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    own = np.eye(len(shares), dtype=bool)
    largest = max(float(shares[~own].max(initial=0.0)), 0.05)
    scaled: np.ndarray = shares / np.where(own, 1.0, largest)
    return scaled


def _matrix(confusion: np.ndarray, names: Sequence[str]) -> Matrix:
    """Counts with a shade."""
    shades = np.round(_shares(confusion), 2)
    rows = [
        TableRow(
            names[true],
            [
                Count(int(n), true == predicted, float(shades[true, predicted]))
                for predicted, n in enumerate(row)
            ],
        )
        for true, row in enumerate(confusion)
    ]
    return Matrix(list(names), rows)


def _pairs(confusion: np.ndarray, names: Sequence[str]) -> list[Mixup]:
    """The classes most often taken for one another, both directions apart."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    flat = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    found = []
    for true, predicted in zip(*np.unravel_index(flat, wrong.shape), strict=True):
        n = int(wrong[true, predicted])
        total = int(confusion[true].sum())
        if n:
            found.append(Mixup(names[true], names[predicted], n, total))
    return found


def draw_grid(confusion: np.ndarray, names: Sequence[str]) -> Markup:
    """All counts as a drawing: a square a pair of classes, in class order, without names.

    A square says what it stands for when pointed at: the diagonal's, and the most common mistakes'.
    Classes in a row whose names begin with the same word are marked off, and named, as a family.
    """
    kin = families(names)
    left = _ROOM if kin else _EDGE
    step = (_SIDE - left - _EDGE) / len(names)
    marks = [
        element("path", d=d, class_=kind, stroke_width=step) for kind, d in _paths(confusion, step)
    ]
    marks += _hints(confusion, names, step)
    size = step * len(names)
    frame = element("rect", class_="around", x=0, y=0, width=size, height=size)
    lines = "".join(
        f"M{at * step:.1f} 0V{size:.1f}M0 {at * step:.1f}H{size:.1f}" for at, _, _ in kin[1:]
    )
    rules = [element("path", class_="kin", d=lines)] if lines else []
    words = [word for _, _, word in kin]
    labels = [
        element("text", element("title", word), short, x=-6,
                y=(start + end) / 2 * step + 4, text_anchor="end")
        for (start, end, word), short in zip(kin, captions(words, 14), strict=True)
    ]  # fmt: skip
    inside = element("g", *marks, frame, *rules, *labels, transform=f"translate({left} {_EDGE})")
    height = round(size + 2 * _EDGE)
    said = f"Confusion between {len(names)} classes: rows are true classes, columns are answers"
    return panel([inside], said, f"0 0 {_SIDE} {height}", "plot grid")


def families(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """Stretches of neighbours with one first word: start, end, word. [] where it groups little."""
    ends = r"\s" if any(" " in name for name in names) else r"[_\-/.\d]"
    first = [re.split(ends, name.strip(), maxsplit=1)[0] for name in names]
    found, at = [], 0
    for word, members in groupby(first):
        end = at + len(list(members))
        found.append((at, end, word))
        at = end
    grouped = 2 <= len(found) <= min(_FAMILIES, len(names) // 3) and all(w for _, _, w in found)
    return found if grouped else []


def _paths(confusion: np.ndarray, step: float) -> list[tuple[str, str]]:
    """The squares of one kind and shade as one path: lines one square long, a few bytes each."""
    shares = _shares(confusion)
    drawn: dict[str, list[str]] = defaultdict(list)
    for true, answer in np.argwhere(confusion > 0).tolist():
        level = int(np.clip(np.ceil(shares[true, answer] * _LEVELS), 1, _LEVELS))
        kind = f"cell {'right' if true == answer else 'wrong'} l{level}"
        drawn[kind].append(f"M{answer * step:.1f} {(true + 0.5) * step:.1f}h{step:.1f}")
    return [(kind, "".join(drawn[kind])) for kind in sorted(drawn)]


def _hints(confusion: np.ndarray, names: Sequence[str], step: float) -> list[Markup]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    flat = np.argsort(-wrong, axis=None, kind="stable")[:_HINTED]
    cells = [divmod(int(at), len(names)) for at in flat if wrong.flat[at]]
    cells += [(k, k) for k in range(min(len(names), _HINTED))]
    totals = confusion.sum(axis=1)
    return [
        element("rect", element("title", _said(names[true], names[answer], true == answer)
                                + f": {confusion[true, answer]} of {totals[true]}"),
                class_="hint", x=answer * step, y=true * step, width=step, height=step)
        for true, answer in cells
    ]  # fmt: skip


def _said(true: str, answer: str, right: bool) -> str:
    return f"{true}, recognised" if right else f"{true} taken for {answer}"
