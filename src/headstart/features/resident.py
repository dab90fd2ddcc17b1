"""Rows on the device. If all of them fit there, they stay after their first use.

A training phase needs every image once in each epoch. Rows that stay are read, decoded and copied
only once; a batch is then gathered on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from headstart.machine.host import memory_bytes
from headstart.machine.runtime import Runtime

# The share of the device's free memory, or of the machine's, that one split may take. Most memory
# is for activations, whose size is not known yet. On a device with 80 GB it is enough for forty
# times CIFAR-10, or for 50,000 images of 224 pixels.
SHARE = 0.1


class DeviceRows:
    """Rows of some array, batch after batch, on the runtime's device.

    read: takes int64 row numbers (m,), returns an array (m, ...). limit_bytes: the rows stay on the
    device if all `count` of them, of `row_bytes` each, take no more; by default `room_bytes`.
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
        """Do the host's part; any thread may call it. The returned function gives the rows on the
        device.

        One thread calls the returned functions, in the order in which they were made; some may
        never be called.
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
            # Marked only now, because a prepared batch may never be used. Until then another batch
            # may read the same rows again, which does no harm.
            self._here[missing] = True
            return self._gather(wanted)

        return gather

    def _gather(self, wanted: torch.Tensor) -> torch.Tensor:
        assert self._rows is not None
        return self._rows.index_select(0, self._runtime.place(wanted))

    def _room_for(self, fresh: torch.Tensor) -> torch.Tensor:
        if self._rows is None:
            # The first use may be an evaluation. A tensor made in inference mode could not be
            # written in training.
            with torch.inference_mode(False):
                shape = (len(self._here), *fresh.shape[1:])
                self._rows = torch.empty(shape, dtype=fresh.dtype, device=self._runtime.device)
        return self._rows

    def _read_each_once(self, rows: np.ndarray) -> np.ndarray:
        """Read each row once, even if the batch has it several times, as views of an image."""
        unique, back = np.unique(rows, return_inverse=True)
        return self._read(rows) if len(unique) == len(rows) else self._read(unique)[back]


def room_bytes(runtime: Runtime, *, slow_to_read: bool = False) -> int:
    """Bytes that the rows of one split may take on the device.

    On a CPU, only rows that are slow to read are kept: others are in memory already.
    """
    if runtime.device.type == "cpu":
        return int(SHARE * memory_bytes()) if slow_to_read else 0
    if runtime.device.type == "mps":
        return int(SHARE * torch.mps.recommended_max_memory())
    free, _ = torch.cuda.mem_get_info(runtime.device)
    return int(SHARE * free)
