"""How long OpenMP's threads spin at a barrier before they sleep: to be said before torch is loaded.

On a quiet machine a sleeping thread is woken too late for the next of a step's hundreds of small
operations: a bfloat16 step took 57 ms where threads spun for 3,000 rounds and 51 for 100,000, as
with OpenMP's own setting (medians of 8 processes, two cores of an AMD EPYC). Where others want the
cores, a spinning thread keeps the one from running that it waits for: beside four busy shells an
epoch took 8 s with the short spin and 9 to 14, or more, with the long one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from headstart.machine.host import usable_cores

QUIET, BUSY = "100000", "3000"


def spin_count() -> str:
    """GOMP_SPINCOUNT for the machine as it is at this moment."""
    with contextlib.suppress(OSError):
        loads = Path("/proc/loadavg").read_text(encoding="ascii")
        return spin_count_for(loads, usable_cores())
    return BUSY


def spin_count_for(loads: str, cores: int) -> str:
    """loads: as /proc/loadavg has it; its fourth field begins with the threads that run or want to,
    of which one is ours. Some sandboxes fill it with zeros, which say nothing."""
    running = int(loads.split()[3].split("/")[0])
    return QUIET if 1 <= running < 1 + cores / 2 else BUSY
