"""The runtime: device, precision, copies between host and device, named seeds, versions."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.errors import HeadstartError, PrecisionError, RunError
from headstart_predict.engines import cpu_name, import_openvino, usable_cores

DEVICES = "use auto, cpu, cuda, cuda:N or mps"


@dataclass(frozen=True)
class Runtime:
    """The device of tensors, the precision of forward passes, and the limit of the cache."""

    device: torch.device
    cache_limit_gb: float | None = None  # of the boundary cache; None: from the environment
    precision: str = "float32"  # float32, bfloat16, or int8 (for frozen passes only)

    @property
    def overlaps(self) -> bool:
        """Whether the host has free cores while the device computes."""
        return self.device.type != "cpu"

    @property
    def float64_device(self) -> torch.device:
        """The device that computes in float64; the CPU on MPS, which has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Forward passes in bfloat16 if that is the precision; losses and weights stay float32."""
        enabled = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            yield

    def adopt(self, module: nn.Module) -> None:
        """Move a module to the device; convolution kernels go channels-last."""
        module.to(self.device)
        module.to(memory_format=torch.channels_last)

    def stage(self, array: Any) -> torch.Tensor:
        """The array in memory from which `place` copies without waiting. Any thread may call it."""
        return stage(array, self.device)

    def place(self, array: Any) -> torch.Tensor:
        """An array or tensor on the device; the copy overlaps with compute on CUDA."""
        return to_device(array, self.device)

    def fetch(self, tensor: torch.Tensor) -> Callable[[], np.ndarray]:
        """Begin to copy a tensor to the host. The returned function waits and gives the array."""
        if self.device.type != "cuda":
            return tensor.cpu().numpy
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch: no types
        copied.record()

        def array() -> np.ndarray:
            copied.synchronize()
            return host.numpy()

        return array


def create_runtime(
    device: str = "auto", cache_limit_gb: float | None = None, precision: str = "auto"
) -> Runtime:
    """A runtime for "auto" (CUDA, else MPS, where there is one), "cpu", "cuda", "cuda:N" or "mps".

    precision "auto" is bfloat16 on CUDA and float32 elsewhere. Raises HeadstartError for a device
    or a precision that this machine does not have.
    """
    chosen = _choose_device(device)
    if precision == "auto":
        precision = "bfloat16" if chosen.type == "cuda" and _cuda_has_bfloat16() else "float32"
    if precision == "bfloat16" and chosen.type == "cpu" and not _cpu_has_bfloat16():
        raise PrecisionError(
            'precision = "bfloat16": this CPU only emulates it, which is slow; use "float32" or '
            '"auto"'
        )
    if precision == "int8" and chosen.type == "cuda":
        raise PrecisionError(
            'precision = "int8" is for frozen passes on a CPU; use "bfloat16" on CUDA'
        )
    if precision != "float32" and chosen.type == "mps":
        raise PrecisionError(f'precision = "{precision}": on MPS use "float32" or "auto"')
    if precision == "int8" and not find_spec("nncf"):
        raise PrecisionError(
            'precision = "int8" needs nncf, which is not installed: uv pip install nncf'
        )
    if chosen.type == "cuda":
        _prepare_cuda(precision)
    return Runtime(chosen, cache_limit_gb, precision)


def _choose_device(device: str) -> torch.device:
    """The device of that name, or the best one for "auto". Raises HeadstartError without it."""
    if device == "auto":
        gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        device = next((name for name, available in gpus.items() if available), "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise HeadstartError(f"--device {device}: {DEVICES}") from None
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise HeadstartError(f"--device {device}: {DEVICES}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise HeadstartError(f"--device {device}: this machine has no such CUDA device; use cpu")
    if chosen.type == "mps" and (chosen.index or not torch.backends.mps.is_available()):
        raise HeadstartError(f"--device {device}: this machine has no such MPS device; use cpu")
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    return chosen


def _prepare_cuda(precision: str) -> None:
    # Memory that an earlier run has freed counts as used until torch returns it.
    gc.collect()
    torch.cuda.empty_cache()
    # Nearly every step has the same shapes, so it pays to time cuDNN's kernels once. The chosen
    # kernel, and with it the last bits, may differ between runs. On CUDA they differ anyway:
    # backward kernels add in any order.
    torch.backends.cudnn.benchmark = True
    # TF32 has 10 bits of mantissa, more than the bfloat16 of a forward pass. Code that needs all
    # digits uses full_float32.
    torch.set_float32_matmul_precision("high" if precision == "bfloat16" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "bfloat16"


def _cuda_has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _cpu_has_bfloat16() -> bool:
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def stage(array: Any, device: torch.device) -> torch.Tensor:
    """An array or tensor as a tensor on the host; in pinned memory if the device is CUDA."""
    tensor = torch.as_tensor(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(array: Any, device: torch.device) -> torch.Tensor:
    """An array or tensor on a device. On CUDA the host does not wait for the copy.

    A copy from pageable memory waits for all earlier work of the device; a copy from pinned memory
    is queued. Torch does not reuse pinned memory before the copy is done.
    """
    staged = stage(array, device)
    return staged.to(device, non_blocking=True) if device.type == "cuda" else staged.to(device)


class _FullFloat32:
    """A setting of the whole process that holds while any thread is within a block."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, ""

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    torch.set_float32_matmul_precision(self._before)


# Within the block, products of float32 matrices keep all digits, on CUDA too.
full_float32 = _FullFloat32()


@contextlib.contextmanager
def within_device_memory() -> Iterator[None]:
    """Raise RunError where the device runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "MPS backend out" not in str(error):
            raise
        raise RunError(
            "the GPU's memory is full: lower data.size, or batch_size where a phase trains"
        ) from error


def named_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one purpose. Equal names give equal numbers, other names unrelated ones."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextlib.contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Within the block, torch's generators are seeded for one purpose; then they are restored."""
    # Asking an idle CUDA device for its generator would initialise it, even for a run on the CPU.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch: no types
    devices = range(torch.cuda.device_count()) if started else ()
    metal = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(named_seed(seed, *names))
        try:
            yield
        finally:
            if metal is not None:
                torch.mps.set_rng_state(metal)


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """CPU model, usable cores, GPU (None without one) and operating system."""
    return {"cpu": cpu_name(), "cores": usable_cores(), "gpu": _gpu(), "system": platform.system()}


def _gpu() -> str | None:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "Metal (MPS)" if torch.backends.mps.is_available() else None


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of all packages that can change a result."""
    packages = ("headstart", "torch", "timm", "openvino", "numpy", "pillow", "scikit-learn")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


@lru_cache(maxsize=1)
def source_commit() -> str | None:
    """The commit of the source tree that the package runs from, with '+' for local changes."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")
