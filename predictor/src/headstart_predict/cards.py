"""Cards: results as a few lines at a Python prompt, and as a small table in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from headstart_predict.plain import one_line

MOST_ROWS = 10


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(interval: Sequence[float]) -> str:
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> str:
    """Columns of text, two spaces apart. right: "r" for a right-aligned column, "l" otherwise."""
    lines = [[one_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    aligned = right.ljust(len(header), "l")
    return "\n".join(
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(line, widths, aligned, strict=True)
        ).rstrip()
        for line in lines
    )


@dataclass(frozen=True)
class Card:
    """The summary of an object: a title, facts by name, and a table with a header.

    Hidden characters are shown as escapes. A longer table shows its first MOST_ROWS rows and the
    number of the others.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def _more(self) -> str:
        left = len(self.rows) - MOST_ROWS
        return f"and {left:,} more" if left > 0 else ""

    def text(self) -> str:
        facts = [(one_line(name), one_line(value)) for name, value in self.facts]
        width = max((len(name) for name, _ in facts), default=0)
        lines = [one_line(self.title), *(f"  {name:<{width}}  {value}" for name, value in facts)]
        if self.rows:
            table = grid(self.header, self.rows[:MOST_ROWS])
            lines += [f"  {line}" for line in table.splitlines()]
        return "\n".join([*lines, *([f"  {self._more}"] if self._more else [])])

    def html(self) -> str:
        facts = "".join(
            f"<tr><th>{_shown(name)}</th><td>{_shown(value)}</td></tr>"
            for name, value in self.facts
        )
        parts = [f"<p><strong>{_shown(self.title)}</strong></p>"]
        parts += [f"<table>{facts}</table>"] if facts else []
        if self.rows:
            head = "".join(f"<th>{_shown(name)}</th>" for name in self.header)
            body = "".join(
                f"<tr>{''.join(f'<td>{_shown(cell)}</td>' for cell in row)}</tr>"
                for row in self.rows[:MOST_ROWS]
            )
            parts.append(f"<table><tr>{head}</tr>{body}</table>")
        return "".join([*parts, f"<p>{self._more}</p>" if self._more else ""])


def _shown(text: str) -> str:
    return escape(one_line(text))


class Shown:
    """Base of objects that are shown as a card. A dataclass needs repr=False."""

    def _card(self) -> Card:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._card_or_reason().text()

    def _repr_html_(self) -> str:
        """The card in a notebook."""
        return self._card_or_reason().html()

    def _card_or_reason(self) -> Card:
        """The card, or the error: a repr must not fail, and an interrupted run lacks some facts."""
        try:
            return self._card()
        except Exception as error:
            return Card(f"{type(self).__name__}: {error}")
