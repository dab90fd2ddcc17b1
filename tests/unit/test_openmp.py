"""Barriers: a long spin on a quiet machine, a short one where others want the cores."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from headstart.machine.openmp import BUSY, QUIET, spin_count, spin_count_for


@pytest.mark.parametrize(
    ("loads", "cores", "expected"),
    [
        ("0.05 0.10 0.20 1/180 4711", 2, QUIET),
        ("0.05 0.10 0.20 2/180 4711", 2, BUSY),  # this moment counts, not the last minute
        ("9.05 0.10 0.20 1/180 4711", 2, QUIET),
        ("3.05 3.10 3.20 4/180 4711", 16, QUIET),
        ("3.05 3.10 3.20 9/180 4711", 16, BUSY),
        ("0.00 0.00 0.00 0/0 0", 2, BUSY),
    ],
)
def test_threads_spin_long_where_nothing_else_runs(loads: str, cores: int, expected: str) -> None:
    assert spin_count_for(loads, cores) == expected


def test_running_processes_are_seen() -> None:
    program = "print(flush=True)\nwhile True: pass"
    with contextlib.ExitStack() as stack:
        for _ in range(2 * len(os.sched_getaffinity(0))):
            child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
            stack.enter_context(child)
            stack.callback(child.kill)
            assert child.stdout
            child.stdout.readline()  # it has begun
        assert spin_count() == BUSY
