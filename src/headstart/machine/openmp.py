"""How long OpenMP's threads spin at a barrier before they sleep. Set before torch is loaded.

On a quiet machine a sleeping thread wakes too late for the next of a step's hundreds of small
operations: a bfloat16 step took 57 ms with 3,000 rounds of spinning and 51 ms with 100,000, as with
OpenMP's own setting (medians of 8 processes, two cores of an AMD EPYC). On a busy machine a
spinning thread takes the core that the thread it waits for needs: beside four busy shells an epoch
took 8 s with the short spin and 9 to 14 s, or more, with the long one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from headstart_predict.engines import usable_cores

QUIET, BUSY = "100000", "3000"


def spin_count() -> str:
    """GOMP_SPINCOUNT for the current load of the machine."""
    with contextlib.suppress(OSError):
        loads = Path("/proc/loadavg").read_text(encoding="ascii")
        return spin_count_for(loads, usable_cores())
    return BUSY


def spin_count_for(loads: str, cores: int) -> str:
    """loads: the text of /proc/loadavg. Its fourth field begins with the number of runnable
    threads, this one included. Some sandboxes write 0 there, which means unknown: then BUSY."""
    running = int(loads.split()[3].split("/")[0])
    return QUIET if 1 <= running < 1 + cores / 2 else BUSY
