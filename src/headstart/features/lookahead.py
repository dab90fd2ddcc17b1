"""Lookahead: a thread prepares the next items while the caller uses the current one."""

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

# Items that are ready or being made: one for the caller's next step, one more for slow reads.
DEPTH = 2


@dataclass(frozen=True)
class _End:
    """The end of the items, with the error that ended them, if any."""

    error: BaseException | None


def ahead(items: Iterable[T], device: torch.device, depth: int = DEPTH) -> Generator[T, None, None]:
    """The items in their order, each made by a thread while earlier ones are in use.

    An error in the thread is raised here, in place of the item. Closing the generator ends the
    thread after its current item. A profile counts the caller's time only: the work of the thread
    shows as "waiting", where the caller waited for it.
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

    # In an empty context, without a profile: two threads would mix up its sections.
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
    """Set the CUDA device of a new thread: by default it is number 0, whatever its parent uses."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
