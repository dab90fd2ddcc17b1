"""Rows on their way to the device; where all of them fit there, they stay from their first use.

A training phase asks for every image once an epoch. What stays is read, decoded and copied once,
and a batch is then gathered at the device's speed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from headstart.machine.host import memory_bytes
from headstart.machine.runtime import Runtime

# What one split may take of the device's free memory, or of a machine's. Most of it is for
# activations, whose size is not known yet; of an 80 GB device this is CIFAR-10 forty times over, or
# 50,000 images at 224.
SHARE = 0.1


class DeviceRows:
    """Rows of some array, batch after batch, on the runtime's device.

    read: int64 row numbers (m,) to an array (m, ...). limit_bytes: what all `count` rows of
    `row_bytes` each may take to stay on the device; by default room_bytes, which asks whether
    reading them is `slow_to_read`.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        count: int,
        row_bytes: int,
        runtime: Runtime,
        *,
        slow_to_read: bool = False,
        limit_bytes: int | None = None,
    ) -> None:
        self._read, self._runtime = read, runtime
        limit = (
            room_bytes(runtime, slow_to_read=slow_to_read) if limit_bytes is None else limit_bytes
        )
        self.resident = count * row_bytes <= limit
        self._here = np.zeros(count, bool)
        self._rows: torch.Tensor | None = None

    def prepare(self, rows: np.ndarray) -> Callable[[], torch.Tensor]:
        """Do the host's part, in any thread; what is returned gives the rows on the device.

        Those functions are called in the order of their making, by one thread; or not at all.
        """
        if not self.resident:
            staged = self._runtime.stage(self._read_each_once(rows))
            return lambda: self._runtime.place(staged)
        wanted = self._runtime.stage(rows)
        missing = np.unique(rows[~self._here[rows]])
        if not len(missing):
            return lambda: self._gather(wanted)
        fresh, at = self._runtime.stage(self._read(missing)), self._runtime.stage(missing)

        def gather() -> torch.Tensor:
            place = self._runtime.place
            self._room_for(fresh).index_copy_(0, place(at), place(fresh))
            # Marked only now: what was prepared and never used is not there. Until then another
            # batch may read the same rows again, which changes nothing.
            self._here[missing] = True
            return self._gather(wanted)

        return gather

    def _gather(self, wanted: torch.Tensor) -> torch.Tensor:
        assert self._rows is not None
        return self._rows.index_select(0, self._runtime.place(wanted))

    def _room_for(self, fresh: torch.Tensor) -> torch.Tensor:
        if self._rows is None:
            # First use may be an evaluation; a tensor made in its mode could not be written later.
            with torch.inference_mode(False):
                shape = (len(self._here), *fresh.shape[1:])
                self._rows = torch.empty(shape, dtype=fresh.dtype, device=self._runtime.device)
        return self._rows

    def _read_each_once(self, rows: np.ndarray) -> np.ndarray:
        """A row asked for twice, as several views of an image are, is read and decoded once."""
        unique, back = np.unique(rows, return_inverse=True)
        return self._read(rows) if len(unique) == len(rows) else self._read(unique)[back]


def room_bytes(runtime: Runtime, *, slow_to_read: bool = False) -> int:
    """Bytes that the rows of one split may take on the device.

    On a CPU, only rows that are slow to read are kept: others would only be in memory twice.
    """
    if runtime.device.type == "cpu":
        return int(SHARE * memory_bytes()) if slow_to_read else 0
    if runtime.device.type == "mps":
        return int(SHARE * torch.mps.recommended_max_memory())
    free, _ = torch.cuda.mem_get_info(runtime.device)
    return int(SHARE * free)
