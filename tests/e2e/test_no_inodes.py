"""A disk with too few inodes for a run's files: one line, and with more of them the run goes on."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Outcome
from tests.trials import WHOLE, assert_same_results, one_error, scratch_recipe

Command = Callable[..., Outcome]
ENOUGH = 1000


@contextmanager
def few_inodes(folder: Path, inodes: int) -> Iterator[None]:
    """A file system of so many files and folders, itself included. Skips where none is allowed."""
    folder.mkdir()
    options = f"size=64m,nr_inodes={inodes}"
    command = ("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)
        folder.rmdir()


def allow(folder: Path, inodes: int) -> None:
    options = f"remount,size=64m,nr_inodes={inodes}"
    subprocess.run(("mount", "-o", options, str(folder)), check=True)


def test_a_disk_without_inodes_ends_in_a_line_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headstart: Command
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    recipe, whole, disk = scratch_recipe(tmp_path), tmp_path / "whole", tmp_path / "disk"
    assert headstart("run", recipe, "--out", whole).code == 0
    for inodes in itertools.count(2) if WHOLE else (4, 10):
        with few_inodes(disk, inodes):
            outcome = headstart("run", recipe, "--out", disk / "run")
            if WHOLE and outcome.code == 0:
                assert_same_results(disk / "run", whole)
                break
            assert one_error(outcome), (inodes, outcome)
            allow(disk, ENOUGH)
            again = headstart("run", recipe, "--out", disk / "run")
            assert again.code == 0, (inodes, again)
            assert_same_results(disk / "run", whole)
