"""Lookahead: a thread prepares what comes next while the caller uses what it has."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

import torch

from headstart.machine.profiling import section

T = TypeVar("T")

# Items that wait or are being made: one to go on with at once, one to even out a slow read.
DEPTH = 2


@dataclass(frozen=True)
class _End:
    """No more items, or none because of an error."""

    error: BaseException | None


def ahead(items: Iterable[T], device: torch.device, depth: int = DEPTH) -> Generator[T, None, None]:
    """The items in their order, each made by a thread while earlier ones are in use.

    What making an item raises is raised here, in its place. Closing the generator ends the thread,
    once it is done with the item in hand. A profile counts the caller's seconds alone: the thread's
    work shows only where the caller had to wait for it, as "waiting".
    """
    ready: SimpleQueue[T | _End] = SimpleQueue()
    room = threading.Semaphore(depth - 1)
    closed = threading.Event()

    def make() -> None:
        error = None
        try:
            with _current(device):
                for item in items:
                    ready.put(item)
                    room.acquire()
                    if closed.is_set():
                        break
        except BaseException as raised:
            error = raised
        ready.put(_End(error))

    # In an empty context: two threads in the sections of one profile would mix up its clock.
    context = contextvars.Context()
    thread = threading.Thread(target=context.run, args=(make,), name="headstart-ahead", daemon=True)
    thread.start()
    try:
        while True:
            with section("waiting"):
                item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            room.release()
            yield item
    finally:
        closed.set()
        room.release()
        thread.join()


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A new thread's current CUDA device is number 0, whatever its parent chose."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
