"""Options that several verbs share, and the reporter of their progress."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from headstart.machine.progress import Reporter

OutOption = Annotated[Path | None, typer.Option("--out", help="Directory of the run or study.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
CacheLimitOption = Annotated[
    float | None,
    typer.Option(
        "--cache-limit",
        metavar="GB",
        min=0,
        help="Limit of the boundary cache; a phase that needs more computes frozen stages again.",
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="A time such as 90s, 10m or 1h: cheap evidence rules out clearly worse candidates, "
        "and as many of the others as fit are run.",
    ),
]
MaxMsOption = Annotated[
    float | None,
    typer.Option(
        "--max-ms",
        metavar="MS",
        min=0,
        help="Name the best run that needs at most so many milliseconds for an image.",
    ),
]
MaxMbOption = Annotated[
    float | None,
    typer.Option(
        "--max-mb", metavar="MB", min=0, help="Name the best run whose model file is no larger."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe field; repeatable."),
]
RescanOption = Annotated[
    bool,
    typer.Option(
        "--rescan", help="Read every photo of a folder again, not only those that look changed."
    ),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print one JSON object or list.")]
TrackOption = Annotated[
    str | None,
    typer.Option(
        "--track", metavar="URI", help="Log to MLflow: its URI, or local for mlflow.db here."
    ),
]


LabelFromOption = Annotated[
    str | None,
    typer.Option(
        "--label-from",
        metavar="REGEX",
        help="For photos without class folders: what of a file's name is the class, such as "
        r"'(?P<label>.+)_\d+'.",
    ),
]


class Labels(StrEnum):
    """How many labels a photo has."""

    one = "one"
    many = "many"


LabelsOption = Annotated[
    Labels,
    typer.Option(
        "--labels",
        help="many: a photo of the table may have several labels, separated by |, or none.",
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group",
        help="Photos that stay in one split: auto, duplicates, time, folder, column, or a regular "
        "expression with a group `group`.",
    ),
]


def rescan_folders(rescan: bool, sources: Iterable[str]) -> None:
    """With --rescan, forget what earlier scans of these sources have found."""
    if rescan:
        from headstart.data import forget_scans

        forget_scans(sources)


def make_reporter() -> Reporter:
    """The reporter that prints lines and bars on stderr."""
    from headstart.machine.progress import TerminalReporter

    return TerminalReporter()
