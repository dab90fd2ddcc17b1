"""What several tables share: words for what is missing, for warnings, for this program."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

NONE = "-"


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """A line each, as progress on stderr words it."""
    return [f"warning: {line}" for line in warnings]


def own_command() -> str:
    """How to call this program from here: its name, or its path where that is not on PATH."""
    called = Path(sys.argv[0])
    if shutil.which("headstart") or called.name != "headstart":
        return "headstart"
    return os.path.relpath(called)


def or_none(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
