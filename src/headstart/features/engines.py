"""Engines: run a prefix, the frozen stages below a boundary, as fast as the machine can.

On a CPU OpenVINO runs it (it fuses batch norm and activations into the convolutions), on CUDA torch
in channels-last. Both take batches in order and give rows in order, so the caller need not know
which one runs.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from headstart.errors import PrecisionError
from headstart.files import cache_root, recall, remember
from headstart.machine.runtime import Runtime, machine
from headstart.models.backbones import Backbone
from headstart.models.stages import Stage, run_stages
from headstart_predict.engines import import_openvino

CUDA_BATCH = 256  # images of 224 pixels; fewer of larger ones, for the same memory
# A pass over at least so many rows that should take longer than WORTH_MEASURING_S measures which
# engine and batch size is the fastest here, and remembers it. This runs about 500 images. Another
# candidate replaces the first one only if it is faster by the factor MARGIN.
WORTH_MEASURING_ROWS, WORTH_MEASURING_S, MEASURED_S, MARGIN = 10_000, 60.0, 0.3, 1.1
CALIBRATION = 256  # images that give the activation ranges for int8
# Converted prefixes that are kept for the runs and looks to come: converting EfficientNet-Lite0
# takes as long as a pass over 300 images of 96 pixels.
KEPT, KEPT_BYTES = 2, 2**28
_kept: OrderedDict[str, Any] = OrderedDict()


@dataclass(frozen=True)
class Engine:
    """Which library runs a prefix, and on how many images at once."""

    library: str  # openvino or torch
    batch: int


# Small batches fit the cache of a core: on two cores of an AMD EPYC, MobileNetV2 at 96 pixels ran
# at 1,260 images/s in batches of 32 and at 1,450 in batches of 16. OpenVINO was never slower than
# torch there.
CANDIDATES = (
    Engine("openvino", 16),
    Engine("openvino", 8),
    Engine("openvino", 32),
    Engine("torch", 16),
)


class Prefix(Protocol):
    """Stages that take batches of at most `engine.batch` images."""

    @property
    def engine(self) -> Engine: ...

    def run(self, batches: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
        """Rows of each batch in turn, float32."""


class StageChain(nn.Module):
    """Some stages of a model as one module, for tracing and for counting operations."""

    def __init__(self, model: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.model = model
        self.stages = tuple(stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return run_stages(self.stages, x)


class TorchPrefix:
    """The stages as torch runs them, in inference mode."""

    def __init__(self, chain: StageChain, runtime: Runtime, batch: int) -> None:
        self.engine = Engine("torch", batch)
        self._runtime = runtime
        self._chain = chain.eval()
        runtime.adopt(chain)

    def run(self, batches: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
        """Rows of each batch in turn, one batch late, so that the device computes the next batch
        while the caller stores this one."""
        # On CUDA every new shape costs seconds, in which cuDNN times its kernels.
        padded = self._runtime.device.type == "cuda"
        under_way: deque[Callable[[], np.ndarray]] = deque()
        for batch in batches:
            x = _pad(batch, self.engine.batch) if padded else batch
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode(), self._runtime.autocast():
                rows = self._chain(x)[: len(batch)].float()
                under_way.append(self._runtime.fetch(rows))
            if len(under_way) > 1:
                yield under_way.popleft()()  # outside the block: it must not affect the caller
        while under_way:
            yield under_way.popleft()()


class OpenVINOPrefix:
    """The stages compiled by OpenVINO, fed asynchronously while torch prepares the next batch."""

    def __init__(self, model: Any, batch: int, size: int, runtime: Runtime) -> None:
        self.engine = Engine("openvino", batch)
        model.reshape([batch, 3, size, size])
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16" if runtime.precision == "bfloat16" else "f32",
        }
        self._compiled = import_openvino().Core().compile_model(model, "CPU", settings)
        # Two more than run at a time, so that none waits while rows are fetched and prepared.
        streams = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = streams + 2

    def run(self, batches: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
        """Rows of each batch in turn. A short last batch is padded, and its padding is cut off.

        A ring of requests; each is waited for before it is used again. OpenVINO's AsyncInferQueue
        calls back into Python from its threads, and its destructor can wait for such a call while
        it holds the interpreter's lock. That deadlock did occur here.
        """
        free = [self._compiled.create_infer_request() for _ in range(self._requests)]
        running: deque[tuple[Any, np.ndarray, int]] = deque()
        try:
            for batch in single_threaded(batches):
                if not free:
                    request, outputs = _finish(*running.popleft())
                    free.append(request)
                    yield outputs
                pixels = _pad(batch, self.engine.batch).contiguous().numpy()
                request = free.pop()
                request.start_async({0: pixels}, share_inputs=True)
                running.append((request, pixels, len(batch)))
            while running:
                yield _finish(*running.popleft())[1]
        finally:
            # In all cases: no request may still read pixels that are about to be freed.
            for request, _, _ in running:
                request.wait()


def _pad(batch: torch.Tensor, rows: int) -> torch.Tensor:
    """A short batch with its last input repeated, to `rows` inputs."""
    if len(batch) >= rows:
        return batch
    return torch.cat([batch, batch[-1:].expand(rows - len(batch), -1, -1, -1)])


def _finish(request: Any, pixels: np.ndarray, rows: int) -> tuple[Any, np.ndarray]:
    """Wait for a request. `pixels` is a parameter so that it stays alive until then."""
    request.wait()
    return request, request.get_output_tensor(0).data[:rows].copy()


def single_threaded(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The batches, each prepared by one torch thread, because OpenVINO keeps every core busy.

    Several torch threads would wait at their barriers for busy cores. On two cores, the pass over
    MobileNetV2 at 96 pixels so ran at 96 % of the rate of OpenVINO alone, instead of 82 %.
    """
    iterator = iter(batches)
    while True:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            batch = next(iterator, None)
        finally:
            torch.set_num_threads(threads)
        if batch is None:
            return
        yield batch


def engine_name(runtime: Runtime) -> str:
    """Versions, device and precision that decide the bytes of a prefix's rows, for cache keys.

    The engine's library and batch size are not named: they change rounding only.
    """
    names = ["torch", "timm"]
    if runtime.device.type == "cpu":
        names.append("openvino")
    if runtime.precision == "int8":
        names.append("nncf")
    libraries = " ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"{libraries} {runtime.device.type} {runtime.precision}"


def compile_prefix(
    backbone: Backbone,
    boundary: int,
    size: int,
    runtime: Runtime,
    *,
    rows: int = 0,
    engine: Engine | None = None,
    calibration: Iterable[torch.Tensor] = (),
    weights: str | None = None,
) -> Prefix:
    """The stages below `boundary`, ready to run on inputs of `size` pixels a side.

    rows: the number of rows to come; for a long pass the engines are timed first. engine: the
    engine to use, without timing. calibration: single inputs (1, 3, size, size) that give the
    activation ranges for int8. weights: `backbone.prefix_hash(boundary)`, where it is known; stages
    that were converted in this process are then not converted again. Where OpenVINO cannot run the
    stages, such as poolings that reach beyond a small input, torch does; int8 is refused.
    """
    chain = StageChain(backbone.model, backbone.stages()[:boundary]).eval()
    if runtime.device.type != "cpu":
        batch = max(16, CUDA_BATCH * 224**2 // max(size, 224) ** 2)
        return TorchPrefix(chain, runtime, batch)

    def build(engine: Engine) -> Prefix:
        if engine.library == "torch":
            return TorchPrefix(chain, runtime, engine.batch)
        return OpenVINOPrefix(model, engine.batch, size, runtime)

    choices = EngineChoices(f"{backbone.name}/{boundary}/{size}/{engine_name(runtime)}")
    known = engine or choices.engine
    try:
        named = f"{backbone.name} {boundary} {size} {weights}"
        model = _convert(chain, size) if weights is None else _convert_once(chain, size, named)
        if runtime.precision == "int8":
            model = _quantize(model, calibration)
        chosen = build(known or CANDIDATES[0])
    except (MemoryError, ImportError, OSError):
        raise
    except Exception as error:  # it has several kinds for a network that it cannot run
        if runtime.precision == "int8":
            raise PrecisionError(
                f"precision = int8 needs OpenVINO, which does not take {backbone.name} at {size} "
                "pixels: set another precision, or a larger data.size"
            ) from error
        return TorchPrefix(chain, runtime, CANDIDATES[-1].batch)
    if known or rows < WORTH_MEASURING_ROWS or rows / _rate(chosen, size) < WORTH_MEASURING_S:
        return chosen
    # Only in float32 do OpenVINO and torch differ by rounding alone.
    alike = runtime.precision == "float32"
    candidates = [e for e in CANDIDATES if alike or e.library == "openvino"]
    rates = {candidate: _rate(build(candidate), size) for candidate in candidates}
    best = max(rates, key=lambda candidate: rates[candidate])
    if rates[best] < MARGIN * rates[CANDIDATES[0]]:
        best = CANDIDATES[0]
    choices.keep(best, rates)
    return build(best)


def _rate(prefix: Prefix, size: int) -> float:
    """Images/s over about MEASURED_S, after a warm-up."""
    example = torch.rand(prefix.engine.batch, 3, size, size)
    for _ in prefix.run([example] * 2):
        pass
    started, done = time.perf_counter(), 0

    def until_measured() -> Iterator[torch.Tensor]:
        while time.perf_counter() - started < MEASURED_S:
            yield example

    for rows in prefix.run(until_measured()):
        done += len(rows)
    return done / (time.perf_counter() - started)


class EngineChoices:
    """Remembers the fastest engine for a prefix on this machine."""

    def __init__(self, prefix: str) -> None:
        self._path = cache_root() / "engines.json"
        self._key = f"{prefix} on {machine()['cores']} cores of {machine()['cpu']}"

    @property
    def engine(self) -> Engine | None:
        known = (recall(self._path) or {}).get(self._key)
        return Engine(**known["engine"]) if known else None

    def keep(self, engine: Engine, rates: dict[Engine, float]) -> None:
        rounded = {f"{e.library} {e.batch}": round(rate, 1) for e, rate in rates.items()}
        entry = {"engine": asdict(engine), "images_per_s": rounded}
        remember(self._path, {**(recall(self._path) or {}), self._key: entry})


def _convert_once(chain: StageChain, size: int, name: str) -> Any:
    """An OpenVINO model of the chain; the same numbers under the same name are converted once."""
    if name in _kept:
        _kept.move_to_end(name)
        return _kept[name].clone()
    with _copied(chain) as taken:
        model = _convert(chain, size)
    if taken <= KEPT_BYTES:
        _kept[name] = model
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    return model.clone()


@contextlib.contextmanager
def _copied(chain: StageChain) -> Iterator[int]:
    """Within the block, the stages' tensors are copies; yields their bytes.

    OpenVINO's constants share the memory of tensors, which training may change later.
    """
    own = {
        tensor: tensor.data
        for name, tensor in chain.model.state_dict(keep_vars=True).items()
        if any(stage.holds(name) for stage in chain.stages)
    }
    try:
        for tensor, content in own.items():
            tensor.data = content.clone()
        yield sum(content.nbytes for content in own.values())
    finally:
        for tensor, content in own.items():
            tensor.data = content


def _convert(chain: StageChain, size: int) -> Any:
    """An OpenVINO model of the chain.

    Traced as a function: tracing a module wraps every submodule first, which takes as long as the
    rest.
    """
    openvino = import_openvino()
    example = torch.zeros(1, 3, size, size)
    with _quiet(), _no_gradients(chain):
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]  # torch: no types
            lambda x: chain(x), example, check_trace=False
        )
        return openvino.convert_model(traced, example_input=example, input=[(1, 3, size, size)])


def _quantize(model: Any, calibration: Iterable[torch.Tensor]) -> Any:
    """Weights and activations in eight bits, by NNCF's post-training quantisation."""
    import nncf

    inputs = [example.contiguous().numpy() for example in calibration]
    with _quiet():
        nncf.set_log_level(40)
        return nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs))


@contextlib.contextmanager
def _no_gradients(module: nn.Module) -> Iterator[None]:
    """Within the block, no parameter requires a gradient: tracing makes them constants."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, no output and no warnings: OpenVINO uses torch.jit, which is deprecated."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.inference_mode(),
    ):
        warnings.simplefilter("ignore")
        yield
