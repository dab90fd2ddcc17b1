"""Where things that outlive a run are kept. Asking creates nothing; writers make the folders."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """`$HEADSTART_CACHE`, or the platform's cache folder for headstart."""
    return _folder("HEADSTART_CACHE") or Path(platformdirs.user_cache_dir("headstart"))


def data_root() -> Path | None:
    """`$HEADSTART_DATA`, the folder in which the user keeps data sets, or None."""
    return _folder("HEADSTART_DATA")


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(value).expanduser() if value else None
