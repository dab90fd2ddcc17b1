"""Python processes of our own: none takes code from the folder that a command is called in.

`python -m NAME` looks for the module there first, and so does an empty entry of PYTHONPATH: a
pip.py among somebody's photos would be run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from headstart.files import cache_root


def python_command(*arguments: str) -> list[str]:
    """The command of this Python with some arguments; -P keeps the current folder off its path."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment for such a process, which means the same in any working directory."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(Path(path).absolute()) for path in given if path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HEADSTART_CACHE": str(cache_root().absolute()),
    }


def forget_current_folder() -> None:
    """Take the current folder off this process's path, where `python -m` has put it."""
    first = sys.path[0] if sys.path else None
    if first is not None and not sys.flags.safe_path and Path(first).resolve() == Path.cwd():
        del sys.path[0]
