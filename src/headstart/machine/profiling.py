"""Profiles: the time of a run by named sections, each without the sections inside it.

Nothing is recorded unless a profile is on:

    with headstart.profiled():
        headstart.run(recipe)       # leaves profile.json, and shows it in its report

On CUDA a profiled section waits for the device at both ends, so that work counts in the section
that started it. The shares are then right, but the run is slower.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

T = TypeVar("T")

OTHER = "other"


class Profile:
    """Seconds and entries by section; time outside all sections counts as OTHER."""

    def __init__(self) -> None:
        self._open = [OTHER]
        self._mark = time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._entries: Counter[str] = Counter()

    def restart(self) -> None:
        """Forget everything: a run begins."""
        self._open = [OTHER]
        self._seconds.clear()
        self._entries.clear()
        self._mark = time.perf_counter()

    def enter(self, name: str) -> None:
        self._charge()
        self._open.append(name)
        self._entries[name] += 1

    def leave(self) -> None:
        self._charge()
        self._open.pop()

    def to_json(self) -> dict[str, Any]:
        """total_s, and for each section its seconds, share and entries, the longest first."""
        self._charge()
        total = sum(self._seconds.values())
        return {
            "total_s": total,
            "sections": [
                {
                    "name": name,
                    "seconds": seconds,
                    "share": seconds / total,
                    "entries": self._entries[name],
                }
                for name, seconds in sorted(self._seconds.items(), key=lambda item: -item[1])
            ],
        }

    def _charge(self) -> None:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch: no types
            torch.cuda.synchronize()
        if torch.backends.mps.is_available():
            torch.mps.synchronize()
        now = time.perf_counter()
        self._seconds[self._open[-1]] += now - self._mark
        self._mark = now


_active: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextlib.contextmanager
def profiled() -> Iterator[Profile]:
    """Record sections within the block. Each run in it starts a new record."""
    profile = Profile()
    token = _active.set(profile)
    try:
        yield profile
    finally:
        _active.reset(token)


def active_profile() -> Profile | None:
    return _active.get()


@contextlib.contextmanager
def section(name: str) -> Iterator[None]:
    """Count the time of the block under `name`. The block must not contain a generator's yield."""
    profile = _active.get()
    if profile is None:
        yield
        return
    profile.enter(name)
    try:
        yield
    finally:
        profile.leave()


def each_in_section(items: Iterable[T], name: str) -> Iterator[T]:
    """The items; the time to produce them counts under `name`."""
    iterator = iter(items)
    while True:
        with section(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
