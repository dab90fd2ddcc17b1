"""The host: its cores and its memory, on Linux, macOS and Windows. Needs no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any


def may_have_cuda() -> bool:
    """Whether to ask torch for a CUDA device, which takes seconds: not where no driver is."""
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


@lru_cache(maxsize=1)
def memory_bytes() -> int:
    """Memory of this machine, or of the process's control group, which may be less (Linux)."""
    if sys.platform == "win32":
        return int(_windows_memory().total)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def reset_peak_memory() -> None:
    """Reset the peak of the resident set, where the kernel allows it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Largest resident set since the last reset, in MB; since the start where none is possible."""
    if sys.platform == "win32":
        return float(_windows_peak().peak / 2**20)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # Windows has none

    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )


class _MemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def _windows_memory() -> Any:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel: Any = vars(ctypes)["windll"].kernel32
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return status


def _windows_peak() -> Any:
    counters = _MemoryCounters(length=ctypes.sizeof(_MemoryCounters))
    kernel: Any = vars(ctypes)["windll"].kernel32
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.length):
        raise OSError("GetProcessMemoryInfo failed")
    return counters
