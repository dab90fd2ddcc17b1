"""The comparison as Markdown, for a README: verdict, leaderboard, protocol, how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from headstart.comparison.records import Comparison
from headstart.files import write_atomically
from headstart.report.contenders import (
    Contender,
    compare_rows,
    file_mb,
    find_contenders,
    latency_ms,
    match_runs,
    training_seconds,
)
from headstart.report.sections.balance import describe_balance
from headstart.report.sections.facts import (
    describe_answer,
    describe_facts,
    describe_warnings,
    distinct,
)
from headstart.rundir.records import Provenance
from headstart.rundir.run import Run
from headstart.text import formats
from headstart_predict.plain import as_markdown, visible, without_home


def write_markdown(
    runs: Sequence[Run],
    out: Path,
    comparison: Comparison | None = None,
    title: str | None = None,
) -> Path:
    """Write the page's first screen as Markdown and return its path."""
    write_atomically(out, render_markdown(runs, comparison, title, out.parent))
    return out


def render_markdown(
    runs: Sequence[Run],
    comparison: Comparison | None = None,
    title: str | None = None,
    root: Path | None = None,
) -> str:
    """Equal runs give equal text; the comparison's paths are relative to `root`.

    Runs without a result are listed with their reason.
    """
    compared = comparison if comparison is not None else compare_rows(runs)
    contenders = find_contenders(compared, match_runs(compared.rows, runs, root))
    failed = [row for row in compared.rows if row.accuracy is None]
    name = title or compared.name or (contenders[0].name if contenders else "Results")
    parts = [f"## {as_markdown(name)}", _verdict(compared, contenders)]
    if warnings := describe_warnings(runs):
        parts.append("\n".join(["Warnings:", "", *(f"- {as_markdown(line)}" for line in warnings)]))
    if contenders:
        balance = describe_balance(compared, contenders)
        parts.append(_table(contenders, balance is not None, compared.headline))
        if balance:
            parts.append(
                f"Always answering {as_markdown(balance.classes.majority_class)} would be right on "
                f"{_plain(formats.percent(balance.classes.majority))} of the test images."
            )
        parts.append(_marks(contenders, compared.judged))
    if failed:
        reasons = (
            f"- {as_markdown(row.run)}: {as_markdown(row.error or row.status)}" for row in failed
        )
        parts.append("\n".join(["Without a result:", "", *reasons]))
    if protocol := compared.protocol:
        lines = (
            f"- {key.replace('_', ' ')}: {as_markdown(text)}" for key, text in protocol.items()
        )
        parts.append("\n".join(["### Protocol", "", *lines]))
    parts.append(_making(runs))
    return without_home(visible("\n\n".join(part for part in parts if part) + "\n"))


def _verdict(compared: Comparison, contenders: Sequence[Contender]) -> str:
    answer = describe_answer(compared, contenders)
    if answer is None:
        return "No run has finished yet."
    best = answer.best
    n = f"{answer.n:,} test images"
    reached = f"{formats.percent(best.accuracy)} {formats.interval(best.interval)} on {n}"
    if answer.verdict:
        lines = [
            f"**{as_markdown(answer.verdict)}**",
            as_markdown(answer.more),
            f"{as_markdown(best.name)} has {reached}.",
        ]
    else:
        near = formats.join_words(answer.near)
        within = f" Within noise of it: {as_markdown(near)}." if near else ""
        lines = [f"**{as_markdown(best.name)}**: {reached}.{within}"]
    if answer.detectable is not None:
        lines.append(f"Differences under about {answer.detectable} mostly stay hidden in chance.")
    return " ".join(line for line in lines if line)


def _table(contenders: Sequence[Contender], balance: bool, headline: str) -> str:
    """One line a configuration; columns that nobody has a value for are left out. headline: what
    the first score is."""
    columns: list[tuple[str, str, list[str]]] = [
        ("", "---", [_sign(c) for c in contenders]),
        ("configuration", "---", [_named(c) for c in contenders]),
        (f"test {headline}", "---:", [_plain(formats.percent(c.accuracy)) for c in contenders]),
        ("95 % interval", "---", [formats.interval(c.interval) for c in contenders]),
        *(_balance_columns(contenders) if balance else ()),
        ("seeds", "---:", [_seeds(c) for c in contenders]),
        ("val", "---:", [_plain(formats.percent(c.val_accuracy)) for c in contenders]),
        ("training", "---:",
         [_plain(formats.duration(c.mean(training_seconds))) for c in contenders]),
        ("ms an image", "---:", [_milliseconds(c) for c in contenders]),
        ("file", "---:",
         [_plain(formats.megabytes(c.mean(file_mb))) for c in contenders]),
    ]  # fmt: skip
    kept = [c for c in columns if not c[0] or any(v not in (formats.MISSING, "") for v in c[2])]
    lines = [[name for name, _, _ in kept], [rule for _, rule, _ in kept]]
    lines += [list(values) for values in zip(*(values for _, _, values in kept), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _milliseconds(contender: Contender) -> str:
    """~ marks what a busy machine took."""
    busy = "~" if contender.busy else ""
    return busy + formats.decimal(contender.mean(latency_ms), 1)


def _balance_columns(contenders: Sequence[Contender]) -> list[tuple[str, str, list[str]]]:
    balanced = [
        f"{_plain(formats.percent(c.balanced[0]))} {formats.interval(c.balanced[1])}"
        for c in contenders
    ]
    f1 = [formats.decimal(c.macro_f1) for c in contenders]
    return [("balanced accuracy", "---:", balanced), ("macro F1", "---:", f1)]


def _sign(contender: Contender) -> str:
    if contender.winner:
        return "winner"
    if contender.group is not None:
        return f"group {contender.group}{', chosen' if contender.chosen else ''}"
    return "best" if contender.chosen else "within noise" if contender.near else ""


def _named(contender: Contender) -> str:
    return as_markdown(contender.name) + "".join(
        f" ({as_markdown(mark)})" for mark in contender.marks
    )


def _seeds(contender: Contender) -> str:
    sd = "" if contender.sd is None else f", sd {formats.span(contender.sd)}"
    return f"{len(contender.rows)}{sd}"


def _marks(contenders: Sequence[Contender], grouped: bool) -> str:
    if len(contenders) < 2:
        return ""
    if grouped:
        return (
            "Group 1: the highest on test and all that cannot be told from it; "
            "group 2: the same of the rest."
        )
    return "“Within noise”: it cannot be told from the best on these test images."


def _making(runs: Sequence[Run]) -> str:
    """Data, machine, versions, and the way to make the same again."""
    lines = [
        f"- {label.lower()}: {as_markdown('; '.join(values))}"
        for label, values in describe_facts(runs)
    ]
    for package in ("headstart", "torch", "timm"):
        if found := distinct(runs, partial(_version, package)):
            lines.append(f"- {package}: {as_markdown(', '.join(found))}")
    if commits := distinct(runs, lambda made: made.commit):
        lines.append(f"- commit: {as_markdown(', '.join(commits))}")
    lines.append("- again: `headstart run recipe.toml` with the recipe in each run's directory")
    return "\n".join(["### How it was made", "", *lines])


def _line(fact: tuple[str, str]) -> str:
    """A fact in a list: its name, and what is told."""
    return f"- {as_markdown(fact[0])}: {as_markdown(fact[1])}"


def _version(package: str, made: Provenance) -> str | None:
    return made.versions.get(package)


def _plain(text: str) -> str:
    return text.replace("\u202f", " ")
