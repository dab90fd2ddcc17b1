"""Engines: run a bundle's model with the libraries that are installed.

Both take an ONNX model as bytes, and several threads may call them. ONNX Runtime is always there;
OpenVINO, which is faster on some CPUs, may be.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headstart_predict.errors import BundleError

NAMES = ("onnxruntime", "openvino")
INPUT, LOGITS = "pixels", "logits"
_importing = threading.Lock()


class Engine(Protocol):
    """A model that is ready to run. Any thread may call `run`."""

    name: str

    def run(self, pixels: np.ndarray, output: str = LOGITS) -> np.ndarray:
        """uint8 (n, side, side, 3) to float32: logits, probabilities (n, classes) or features."""
        ...


class OnnxRuntime:
    """ONNX Runtime, on `threads` threads a call; weights in bfloat16 become float32 once."""

    name = "onnxruntime"

    def __init__(self, content: bytes, threads: int, streams: int, precision: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # its errors are raised as well; warnings are of no use here
        if streams > 1:  # callers wait in threads of their own: a spinning one would hold a core
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def run(self, pixels: np.ndarray, output: str = LOGITS) -> np.ndarray:
        return np.asarray(self._session.run([output], {INPUT: pixels})[0])


class OpenVINO:
    """OpenVINO in float32, with a request for each of `streams` callers at a time.

    A model in bfloat16 is computed in bfloat16 where the CPU does that.
    """

    name = "openvino"

    def __init__(self, content: bytes, threads: int, streams: int, precision: str) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
            # A model in float32 stays in it: left open, OpenVINO takes what is quicker.
            "INFERENCE_PRECISION_HINT": "bf16" if _in_bfloat16(core, precision) else "f32",
        }
        self._compiled = core.compile_model(core.read_model(content), "CPU", settings)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams + 1):
            self._free.put(self._compiled.create_infer_request())

    def run(self, pixels: np.ndarray, output: str = LOGITS) -> np.ndarray:
        request = self._free.get()
        try:
            request.infer({INPUT: np.ascontiguousarray(pixels)}, share_inputs=True)
            return np.array(request.get_tensor(output).data)
        finally:
            self._free.put(request)


def _in_bfloat16(core: Any, precision: str) -> bool:
    """Whether a model of this precision is computed in bfloat16: other CPUs only emulate it."""
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return precision == "bfloat16" and "BF16" in able


def import_openvino() -> Any:
    """OpenVINO without its telemetry, and with its table of types filled.

    The telemetry reports each conversion over the network. It forks a process, which also crashed
    beside our threads. The table is filled by the first request: two threads that send their first
    request at once wait for each other for ever.
    """
    silent: Any = None  # makes the import of the telemetry fail; OpenVINO and NNCF then skip it
    with _importing:
        sys.modules.setdefault("openvino_telemetry", silent)
        import openvino

        openvino.Type.u8.to_dtype()
    return openvino


def installed() -> list[str]:
    """The engines that can be used here, ONNX Runtime first."""
    return [name for name in NAMES if find_spec(name)]


def start(
    name: str, content: bytes, threads: int, streams: int = 1, precision: str = "float32"
) -> Engine:
    """A model, ready. threads: for each of `streams` callers. precision: the bundle's. Raises
    BundleError where the engine does not take the model."""
    if name not in NAMES:
        raise BundleError(f"engine {name!r}: there is no such engine; use {' or '.join(NAMES)}")
    if not find_spec(name):
        raise BundleError(f"engine {name!r} is not installed: pip install {name}")
    kind: Any = {"onnxruntime": OnnxRuntime, "openvino": OpenVINO}[name]
    try:
        engine: Engine = kind(content, threads, streams, precision)
    except Exception as error:  # each library has kinds of its own
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{name} does not take the model: {reason}") from error
    return engine


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The model of the CPU, as far as the system says."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class PerProcess:
    """Engines by name, made when first asked for, and anew in a forked child."""

    def __init__(self) -> None:
        self._lock, self._made = threading.Lock(), dict[str, Engine]()
        _holders.add(self)

    def leave(self) -> None:
        """In a forked child: forget the parent's engines, without freeing them."""
        # Their threads do not come along, and to free such an engine would wait for them.
        _of_parents.append(self._made)
        self._lock, self._made = threading.Lock(), {}

    def get(self, name: str, make: Callable[[], Engine]) -> Engine:
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]


# Not referred to: a predictor that nobody uses any more is freed, with its engines.
_holders: weakref.WeakSet[PerProcess] = weakref.WeakSet()
_of_parents: list[dict[str, Engine]] = []


def _leave_all() -> None:
    for holder in list(_holders):
        holder.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
