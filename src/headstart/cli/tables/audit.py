"""The output of `data audit`: each kind of finding with its number and an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.cli.tables.common import warning_lines
from headstart_predict.cards import grid
from headstart_predict.plain import one_line

if TYPE_CHECKING:
    from headstart.auditing.records import Audit, Pair, Shortcut

LISTED = 5  # suspicious labels that are shown


def format_audit(audit: Audit) -> str:
    counts = audit.counts
    splits = ", ".join(f"{sum(n.values()):,} in {name}" for name, n in counts["classes"].items())
    lines = [
        f"{audit.folder}: {counts['pictures']:,} pictures of {len(audit.class_names)} classes"
        f" ({splits}), seen by {audit.backbone}",
        grid(("finding", "number", "for example"), _rows(audit), "lrl"),
    ]
    if audit.likely:
        rows = [(s.path, s.label, s.suggested, f"{s.score:.2f}") for s in audit.likely[:LISTED]]
        lines += ["", grid(("suspicious label", "is", "rather", "score"), rows, "lllr")]
    lines += ["", *warning_lines(audit.notes)] if audit.notes else []
    lines += ["", *(f"wrong: {one_line(line)}" for line in audit.wrong)] if audit.wrong else []
    return "\n".join(lines)


def _rows(audit: Audit) -> list[tuple[str, str, str]]:
    bad = [f"{f.path}: {f.reason}" for f in audit.unreadable if not f.readable]
    lying = [f"{f.path}: {f.reason}" for f in audit.unreadable if f.readable]
    suspects = [f"{s.path}: {s.label}, rather {s.suggested}" for s in audit.likely]
    across = [_pair(pair) for pair in audit.duplicates if pair.across]
    torn = [_pair(pair) for pair in audit.duplicates if pair.contradicting]
    rows = [
        _row("cannot be read", bad),
        _row("suffix of another format", lying),
        _row("labels likely wrong", suspects),
        _row("pairs of one picture", [_pair(pair) for pair in audit.duplicates]),
        _row("... in two splits", across),
        _row("... in two classes", torn),
        _row("belong to no class", [f"{f.path} ({f.label})" for f in audit.foreign]),
    ]
    kinds = dict.fromkeys(flaw.kind for flaw in audit.quality)
    rows += [
        _row(kind.replace("_", " "), [f.path for f in audit.quality if f.kind == kind])
        for kind in kinds
    ]
    for level, name in (("alarm", "shortcuts"), ("note", "fields above chance")):
        rows.append(_row(name, [_cut(cut) for cut in audit.shortcuts if cut.level == level]))
    return rows


def _row(name: str, found: Sequence[str]) -> tuple[str, str, str]:
    return name, f"{len(found):,}", found[0] if found else ""


def _pair(pair: Pair) -> str:
    return f"{pair.first} = {pair.second} ({pair.kind})"


def _cut(cut: Shortcut) -> str:
    return f"{cut.field} predicts {cut.accuracy:.1%} (chance {cut.chance:.1%}), {cut.example}"
