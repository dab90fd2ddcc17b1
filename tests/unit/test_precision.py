"""Precision: what each computes, where it is refused, and which engine is remembered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.data import ImageSet, load_data
from headstart.errors import HeadstartError
from headstart.features import engines as prefix
from headstart.features.cache import BoundaryCache
from headstart.features.engines import CANDIDATES, Engine, compile_prefix
from headstart.machine.progress import Reporter
from headstart.machine.runtime import Runtime, create_runtime
from headstart.models.backbones import Backbone, create_backbone
from headstart.models.folding import folded_norms
from headstart.models.freezing import plan_phase, set_training
from headstart.specs import BackboneSpec, DataSpec, PhaseSpec
from headstart.views.transforms import Transform

SIZE = 64


@pytest.fixture(scope="module")
def backbone(real_weights: str, shared_cache: Path) -> Backbone:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        return create_backbone(BackboneSpec(name=real_weights, weights="registry")).eval()


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_data(DataSpec(source="cifar10-mini", size=32)).test.pick(np.arange(100))


def runtime_of(precision: str) -> Runtime:
    try:
        return create_runtime("cpu", precision=precision)
    except HeadstartError as error:
        pytest.skip(str(error))


def features(backbone: Backbone, images: ImageSet, runtime: Runtime) -> np.ndarray:
    transform = Transform(replace(backbone.preprocess, size=SIZE))
    top = len(backbone.stages())
    cache = BoundaryCache(backbone, top, transform, runtime, Reporter(), images)
    return np.array(cache.rows(images, label="test").array[:, 0])


# int8: 0.93 and more with VNNI; without it, sums of two products saturate at sixteen bits.
@pytest.mark.parametrize(("precision", "alike"), [("bfloat16", 0.995), ("int8", 0.9)])
@pytest.mark.usefixtures("cache")
def test_fewer_bits_give_nearly_the_same_features(
    backbone: Backbone, images: ImageSet, precision: str, alike: float
) -> None:
    exact = features(backbone, images, create_runtime("cpu"))
    rough = features(backbone, images, runtime_of(precision))
    assert not np.array_equal(exact, rough)  # not the other's entry, and not its arithmetic
    products = (exact * rough).sum(1)
    cosines = products / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.mean() > alike


def test_int8_is_for_frozen_passes_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(HeadstartError, match='use "bfloat16" on CUDA'):
        create_runtime("cuda", precision="int8")


def test_a_cpu_without_bfloat16_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.machine.runtime._cpu_has_bfloat16", lambda: False)
    with pytest.raises(HeadstartError, match='use "float32" or "auto"'):
        create_runtime("cpu", precision="bfloat16")


def test_without_a_word_a_cpu_keeps_float32() -> None:
    runtime = create_runtime("cpu")
    with runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bfloat16_gradients_point_where_float32_ones_do(backbone: Backbone) -> None:
    runtime = runtime_of("bfloat16")
    plan = plan_phase(backbone, PhaseSpec(train="from:blocks.5.0"))
    set_training(backbone, plan)
    torch.manual_seed(0)
    x = torch.randn(8, 3, SIZE, SIZE)

    def gradient() -> torch.Tensor:
        backbone.zero_grad()
        backbone(x).float().square().mean().backward()
        found = [p.grad.flatten() for p in backbone.parameters() if p.grad is not None]
        return torch.cat(found)

    strided = backbone.model.get_submodule("blocks.5.0.conv_dw")
    kinds: list[torch.dtype] = []
    with folded_norms(backbone, plan, SIZE):
        hook = strided.register_forward_hook(lambda module, inputs, out: kinds.append(out.dtype))
        exact = gradient()
        with runtime.autocast():
            rough = gradient()
    hook.remove()
    # The strided depthwise one, whose gradient in bfloat16 is slow, stays in float32.
    assert kinds == [torch.float32] * 2
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=0) > 0.99
    assert not torch.equal(exact, rough)


class Fixed:
    """A prefix whose rate is known."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, batches: Iterator[torch.Tensor]) -> Iterator[np.ndarray]:
        raise AssertionError


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({0: 10.0, 1: 10.9, 2: 9.0, 3: 1.0}, 0),  # hardly faster
        ({0: 10.0, 1: 9.0, 2: 12.0, 3: 1.0}, 2),
        ({0: 10.0, 1: 9.0, 2: 12.0, 3: 13.0}, 3),
    ],
)
@pytest.mark.usefixtures("cache")
def test_a_long_pass_takes_the_fastest_engine_and_remembers_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], chosen: int
) -> None:
    measured: list[Engine] = []

    def rate(candidate: Fixed, size: int) -> float:
        measured.append(candidate.engine)
        return rates[CANDIDATES.index(candidate.engine)]

    monkeypatch.setattr(prefix, "_rate", rate)
    monkeypatch.setattr(prefix, "_convert", lambda chain, size: None)
    monkeypatch.setattr(prefix, "TorchPrefix", lambda chain, runtime, batch: Fixed(CANDIDATES[3]))
    monkeypatch.setattr(
        prefix, "OpenVINOPrefix", lambda model, batch, *rest: Fixed(Engine("openvino", batch))
    )
    runtime = create_runtime("cpu")
    short = compile_prefix(backbone, 2, SIZE, runtime, rows=500)
    assert isinstance(short, Fixed) and short.engine == CANDIDATES[0]
    assert not measured
    long = compile_prefix(backbone, 2, SIZE, runtime, rows=50_000)
    assert isinstance(long, Fixed) and long.engine == CANDIDATES[chosen]
    measured.clear()
    again = compile_prefix(backbone, 2, SIZE, runtime, rows=50_000)
    assert isinstance(again, Fixed) and again.engine == CANDIDATES[chosen]
    assert not measured
    given = compile_prefix(backbone, 3, SIZE, runtime, rows=50_000, engine=CANDIDATES[1])
    assert isinstance(given, Fixed) and given.engine == CANDIDATES[1]
    assert not measured
    rates[0] = 1e6
    quick = compile_prefix(backbone, 3, SIZE, runtime, rows=50_000)
    assert isinstance(quick, Fixed) and quick.engine == CANDIDATES[0]
    assert measured == [CANDIDATES[0]]  # less than a minute's work by its rate


@pytest.mark.usefixtures("cache")
def test_what_was_measured_is_kept_readable(backbone: Backbone, tmp_path: Path) -> None:
    memory = prefix.EngineChoices("some/prefix")
    assert memory.engine is None
    memory.keep(CANDIDATES[1], {CANDIDATES[0]: 10.04, CANDIDATES[1]: 20.0})
    assert prefix.EngineChoices("some/prefix").engine == CANDIDATES[1]
    assert prefix.EngineChoices("another").engine is None
    (entry,) = json.loads(memory._path.read_text()).values()
    assert entry["images_per_s"] == {"openvino 16": 10.0, "openvino 8": 20.0}


def test_nothing_is_reported_to_the_makers_of_openvino() -> None:
    script = (
        "import sys, torch\n"
        "from headstart.features import engines as prefix\n"
        "chain = prefix.StageChain(torch.nn.Conv2d(3, 4, 3), [])\n"
        "prefix._convert(chain, 8)\n"
        "import nncf\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "print(sys.modules['openvino.tools.ovc.convert_impl'].tm.__name__)\n"
        "print(sys.modules['nncf.telemetry.wrapper'].telemetry.__class__.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "MagicMock"], done.stderr


def test_int8_without_nncf_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.machine.runtime.find_spec", lambda name: None)
    with pytest.raises(HeadstartError, match="needs nncf"):
        create_runtime("cpu", precision="int8")


@pytest.mark.usefixtures("cache")
def test_an_entry_ends_with_the_engine_it_began_with(
    backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = Transform(replace(backbone.preprocess, size=SIZE))
    runtime, asked = create_runtime("cpu"), []
    compiled = prefix.compile_prefix

    def compiling(*arguments: object, **named: object) -> object:
        asked.append(named["engine"])
        return compiled(*arguments, **{**named, "engine": named["engine"] or CANDIDATES[1]})

    monkeypatch.setattr("headstart.features.cache.compile_prefix", compiling)
    top = len(backbone.stages())
    whole = images.pick(np.arange(64))

    class CutError(Exception):
        pass

    def cut(self: BoundaryCache, outputs: np.ndarray, dtype: np.dtype) -> bytes:
        if len(packed) == 3:
            raise CutError
        packed.append(len(outputs))
        return pack(self, outputs, dtype)

    packed: list[int] = []
    pack = BoundaryCache._pack
    with monkeypatch.context() as patch, pytest.raises(CutError):
        patch.setattr(BoundaryCache, "_pack", cut)
        BoundaryCache(backbone, top, transform, runtime, Reporter()).rows(whole, label="cut")
    again = BoundaryCache(backbone, top, transform, runtime, Reporter()).rows(whole, label="on")
    assert asked == [None, CANDIDATES[1]]
    assert (packed, again.computed) == ([8, 8, 8], 64 - 24)


def test_equal_stages_are_converted_once_and_keep_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted: list[int] = []
    convert = prefix._convert

    def counting(chain: prefix.StageChain, size: int) -> object:
        converted.append(size)
        return convert(chain, size)

    monkeypatch.setattr(prefix, "_convert", counting)
    monkeypatch.setattr(prefix, "_kept", type(prefix._kept)())
    x = torch.rand(3, 3, 32, 32)

    def made() -> Backbone:
        torch.manual_seed(0)  # without norms, which are folded into copies
        return create_backbone(BackboneSpec(name="squeezenet1_1", weights="random"), size=32).eval()

    def rows(backbone: Backbone, weights: str) -> np.ndarray:
        return next(
            compile_prefix(backbone, 2, 32, create_runtime("cpu"), weights=weights).run([x])
        )

    first = made()
    before = first.prefix_hash(2)
    expected = rows(first, before)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(0.5)  # as training does, in place
    other = rows(first, first.prefix_hash(2))
    again = rows(made(), before)
    assert converted == [32, 32]
    assert not np.allclose(other, expected)
    np.testing.assert_array_equal(again, expected)
