"""Shared by several tables: missing values, warnings, and the name of this program."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from headstart_predict.plain import one_line

NONE = "-"


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """One line for each warning, as on stderr."""
    return [f"warning: {one_line(line)}" for line in warnings]


def own_command() -> str:
    """The command of this program: its name, or its path if it is not on PATH."""
    called = Path(sys.argv[0])
    if shutil.which("headstart") or called.name != "headstart":
        return "headstart"
    return os.path.relpath(called)


def or_none(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
