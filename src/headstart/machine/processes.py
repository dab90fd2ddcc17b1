"""Python subprocesses that never import code from the current folder.

`python -m NAME` looks for the module there first, and so does an empty entry of PYTHONPATH. A
pip.py among somebody's photos would be run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from headstart.files import cache_root


def python_command(*arguments: str) -> list[str]:
    """The command of this Python with arguments; -P keeps the current folder off its path."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment of such a process. Its paths are absolute: any working directory will do."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(Path(path).absolute()) for path in given if path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HEADSTART_CACHE": str(cache_root().absolute()),
    }


def forget_current_folder() -> None:
    """Remove the current folder from sys.path, where `python -m` has put it."""
    first = sys.path[0] if sys.path else None
    if first is not None and not sys.flags.safe_path and Path(first).resolve() == Path.cwd():
        del sys.path[0]
