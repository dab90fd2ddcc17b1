"""Prefixes: the frozen stages below a boundary, run once per image at the machine's speed.

On CPU through OpenVINO (float32; it fuses batch norm and activations into the convolutions), on
CUDA through torch in channels-last and bfloat16. Both take batches in order and give rows in
order, so the caller need not know which it drives.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.models.backbones import Backbone
from headstart.models.stages import Stage
from headstart.runtime import Runtime

BATCH = 32


class StageChain(nn.Module):
    """Some stages of a model as a module of their own, for tracing and for training."""

    def __init__(self, model: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.model = model
        self.stages = tuple(stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage.forward(x)
        return x


class TorchPrefix:
    """The stages as torch runs them, in inference mode."""

    def __init__(self, chain: StageChain, runtime: Runtime) -> None:
        self._runtime = runtime
        self._chain = chain.eval()
        runtime.adopt(chain)

    def run(self, batches: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
        """Rows of each batch in turn, one batch late: while they are stored, the device goes on."""
        under_way: deque[Callable[[], np.ndarray]] = deque()
        for batch in batches:
            with torch.inference_mode(), self._runtime.autocast():
                under_way.append(self._runtime.fetch(self._chain(batch).float()))
            if len(under_way) > 1:
                yield under_way.popleft()()  # outside: the caller must not run in our modes
        while under_way:
            yield under_way.popleft()()


class OpenVINOPrefix:
    """The stages compiled by OpenVINO, fed asynchronously while torch prepares the next batch."""

    def __init__(self, chain: StageChain, example: torch.Tensor) -> None:
        import openvino

        self._batch = len(example)
        with _quiet():
            converted = openvino.convert_model(
                chain.eval(), example_input=example, input=[tuple(example.shape)]
            )
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = openvino.Core().compile_model(converted, "CPU", settings)
        self._requests = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def run(self, batches: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
        """Rows of each batch in turn. A short last batch is padded, and its padding cut off.

        A ring of requests, each waited for before it is used again. OpenVINO's own AsyncInferQueue
        calls back into Python from its threads, and its destructor can wait for such a call while
        it holds the interpreter's lock: a deadlock that was met here.
        """
        free = [self._compiled.create_infer_request() for _ in range(self._requests)]
        running: deque[tuple[Any, np.ndarray, int]] = deque()
        for batch in batches:
            rows = len(batch)
            if rows < self._batch:
                batch = torch.cat([batch, batch[-1:].expand(self._batch - rows, -1, -1, -1)])
            if not free:
                request, outputs = _finish(*running.popleft())
                free.append(request)
                yield outputs
            request, pixels = free.pop(), batch.contiguous().numpy()
            request.start_async({0: pixels})
            running.append((request, pixels, rows))
        while running:
            yield _finish(*running.popleft())[1]


def _finish(request: Any, pixels: np.ndarray, rows: int) -> tuple[Any, np.ndarray]:
    """Wait for a request; `pixels` had to stay alive until now."""
    request.wait()
    return request, request.get_output_tensor(0).data[:rows].copy()


def engine_name(runtime: Runtime) -> str:
    """What `compile_prefix` will use, with the versions that decide its bytes: for cache keys."""
    names = ["torch", "timm"]
    if runtime.device.type == "cpu":
        names.append("openvino")
    found = " ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"{found} {runtime.device.type}"


def compile_prefix(
    backbone: Backbone, boundary: int, size: int, runtime: Runtime
) -> OpenVINOPrefix | TorchPrefix:
    """The stages below `boundary`, ready to run on batches of at most BATCH images."""
    chain = StageChain(backbone.model, backbone.stages()[:boundary])
    if runtime.device.type == "cpu":
        return OpenVINOPrefix(chain, torch.zeros(BATCH, 3, size, size))
    return TorchPrefix(chain, runtime)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenVINO traces through torch.jit, whose deprecation is theirs to deal with."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.inference_mode(),
    ):
        warnings.simplefilter("ignore")
        yield
