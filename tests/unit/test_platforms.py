"""What differs between machines: Linux, macOS and Windows, and the devices beside a CPU."""

from __future__ import annotations

import ctypes
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from headstart.errors import HeadstartError, PrecisionError
from headstart.machine import host
from headstart.machine.runtime import Runtime, create_runtime
from headstart.models.classifier import COMPILE_STEPS, compiling_pays
from tests.conftest import Outcome

Command = Callable[..., Outcome]

OWN = ("headstart", "headstart_predict")


@pytest.fixture
def afresh() -> Iterator[None]:
    """Our modules are imported again in the test, and are what they were after it."""
    import filelock, huggingface_hub, matplotlib.pyplot, openvino, sklearn.linear_model  # noqa: E401, F401, I001
    import timm, torchcam.methods, typer.testing  # noqa: E401, F401 - each looks after itself

    def ours() -> dict[str, ModuleType]:
        return {name: sys.modules[name] for name in sys.modules if name.partition(".")[0] in OWN}

    before = ours()
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)


@pytest.mark.skipif(sys.platform == "win32", reason="takes away what Windows does not have")
def test_modules_import_without_what_windows_and_macos_lack(
    afresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)  # makes an import fail
    for name in ("sysconf", "sched_getaffinity"):
        monkeypatch.delattr(os, name)
    package = import_module("headstart")
    found = [each.name for each in pkgutil.walk_packages(package.__path__, "headstart.")]
    assert len(found) > 150
    for name in found:
        if name != "headstart.__main__":
            assert import_module(name) is not None
    assert import_module("headstart_predict.engines").usable_cores() >= 1


def test_memory_is_known_here() -> None:
    assert host.memory_bytes() > 2**28
    assert 1 < host.peak_memory_mb() < host.memory_bytes() / 2**20


def test_memory_is_known_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(field: str, value: int) -> Any:
        def call(*arguments: Any) -> int:
            (pointer,) = [each for each in arguments if hasattr(each, "_obj")]
            assert pointer._obj.length == ctypes.sizeof(pointer._obj)
            setattr(pointer._obj, field, value)
            return 1

        return call

    class Process:
        """A function whose `restype` can be set, as ctypes has them."""

        def __call__(self) -> int:
            return -1 % 2**64

    kernel = SimpleNamespace(
        GlobalMemoryStatusEx=tell("total", 2**40),
        GetCurrentProcess=Process(),
        K32GetProcessMemoryInfo=tell("peak", 3 * 2**20),
    )
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert host.memory_bytes.__wrapped__() == 2**40
    assert host.peak_memory_mb() == 3


def test_without_metal_mps_is_refused_in_a_line(
    headstart: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    outcome = headstart("check", "demo", "--device", "mps")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: --device mps: this machine has no such MPS device; use cpu"
    ]


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_a_gpu_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert create_runtime("auto", precision="float32").device.type == chosen


def test_mps_computes_in_float32_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    runtime = create_runtime("mps")
    assert runtime.precision == "float32"
    assert runtime.overlaps and runtime.float64_device.type == "cpu"
    assert not compiling_pays(runtime, 100 * COMPILE_STEPS)
    for precision in ("bfloat16", "int8"):
        with pytest.raises(PrecisionError, match='on MPS use "float32" or "auto"'):
            create_runtime("mps", precision=precision)
    with pytest.raises(HeadstartError, match="no such MPS device"):
        create_runtime("mps:1")


def test_other_devices_compute_float64_themselves() -> None:
    assert Runtime(torch.device("cpu")).float64_device.type == "cpu"
    assert Runtime(torch.device("cuda")).float64_device.type == "cuda"
