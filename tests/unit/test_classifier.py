"""Compiled training: when, on what, and what is left alone. The compiler itself is torch's."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.utils import counters

from headstart.machine.runtime import Runtime, create_runtime
from headstart.models.backbones import Backbone, build_architecture
from headstart.models.classifier import COMPILE_STEPS, Classifier, compiling_pays
from headstart.models.freezing import plan_phase, set_training
from headstart.models.heads import create_head
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.specs import HeadSpec, PhaseSpec

ROWS = 6
Function = Callable[[torch.Tensor], torch.Tensor]


def make_classifier() -> Classifier:
    torch.manual_seed(0)
    identity = WeightsIdentity("random", "small_cnn", "", None, "", "")
    preprocess = Preprocess(8, (0.5,) * 3, (0.5,) * 3, "bilinear")
    backbone = Backbone(build_architecture("small_cnn"), identity, preprocess)
    head = create_head(HeadSpec(), num_features=backbone.num_features, num_classes=4)
    model = Classifier(backbone, head)
    plan = plan_phase(backbone, PhaseSpec(train="all", norm="frozen"))
    model.enter(0, plan.boundary)
    set_training(backbone, plan)
    return model


def pixels(rows: int = ROWS) -> torch.Tensor:
    return torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def gradients(model: Classifier, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model.above(x).logsumexp(dim=1).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that met a compiled function, which here is the plain one."""
    met: list[int] = []

    def record(function: Function, *, dynamic: bool) -> Function:
        def run(x: torch.Tensor) -> torch.Tensor:
            met.append(len(x))
            return function(x)

        return run

    monkeypatch.setattr(torch, "compile", record)
    return met


def test_only_long_phases_on_cuda_are_compiled() -> None:
    cuda = Runtime(torch.device("cuda"))
    assert compiling_pays(cuda, COMPILE_STEPS)
    assert not compiling_pays(cuda, COMPILE_STEPS - 1)
    assert not compiling_pays(create_runtime("cpu"), 100 * COMPILE_STEPS)


def test_full_training_batches_are_compiled_and_nothing_else(compiled: list[int]) -> None:
    model = make_classifier()
    names = list(model.state_dict())
    model.compile_trained(ROWS, pytest.fail)
    assert list(model.state_dict()) == names
    model(pixels())
    assert compiled == [ROWS]
    model(pixels(ROWS - 1))
    with torch.inference_mode():
        model(pixels())
    assert compiled == [ROWS]
    model.enter(model.start, model.boundary)
    model(pixels())
    assert compiled == [ROWS]


def test_the_trained_part_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    # Everything but the code generator, which takes twenty seconds for the same answer.
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(plain, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    expected = gradients(make_classifier(), pixels())
    model = make_classifier()
    model.compile_trained(ROWS, pytest.fail)
    for _ in range(2):
        got = gradients(model, pixels())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, got, strict=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_where_compiling_fails_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Function, *, dynamic: bool) -> Function:
        def run(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler was found\nand much more")

        return run

    expected = gradients(make_classifier(), pixels())
    monkeypatch.setattr(torch, "compile", broken)
    model, warnings = make_classifier(), list[str]()
    model.compile_trained(ROWS, warnings.append)
    for _ in range(2):
        got = gradients(model, pixels())
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert warnings == ["torch.compile failed, going on without it: no compiler was found"]


def test_full_memory_is_no_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(function: Function, *, dynamic: bool) -> Function:
        def run(x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError

        return run

    monkeypatch.setattr(torch, "compile", full)
    model = make_classifier()
    model.compile_trained(ROWS, pytest.fail)
    with pytest.raises(torch.OutOfMemoryError):
        model(pixels())


def test_asking_for_shapes_changes_no_statistics() -> None:
    """A phase that trains norms asks for them while it is in training mode, also on resuming."""
    model = make_classifier().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert model.backbone.shapes(8)[0] == (3, 8, 8)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules())
