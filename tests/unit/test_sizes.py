"""Inputs too small for a network: the plan says so, and what it passes can be computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.errors import HeadstartError, PrecisionError
from headstart.features.engines import compile_prefix
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import create_meta_backbone, load_backbone
from headstart.models.weights import locate_weights

SMALLEST = {"squeezenet1_1": 17, "vgg11": 32, "small_cnn": 8}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_plan_refuses_the_sizes_that_the_network_refuses(name: str) -> None:
    weights, smallest = locate_weights(name, "random"), SMALLEST[name]
    loading = [] if name == "vgg11" else [load_backbone]  # its weights take seconds to draw
    for build in (create_meta_backbone, *loading):
        with pytest.raises(HeadstartError) as refused:
            build(weights, size=smallest - 1)
        assert str(refused.value) == (
            f"data.size = {smallest - 1}: {name} cannot take inputs of that size: the smallest "
            f"that works is {smallest}"
        )
        build(weights, size=smallest)


def test_a_size_between_two_that_work_is_refused_with_one_that_works() -> None:
    with pytest.raises(HeadstartError, match=r"levit_128s cannot .*: (\d+) works") as refused:
        create_meta_backbone(locate_weights("levit_128s", "random"), size=40)
    create_meta_backbone(
        locate_weights("levit_128s", "random"), size=int(str(refused.value).split()[-2])
    )


def test_torch_computes_what_openvino_cannot() -> None:
    """Its poolings do not reach beyond a small input."""
    backbone = load_backbone(locate_weights("squeezenet1_1", "random"), size=17)
    runtime, top = create_runtime("cpu"), len(backbone.stages())
    prefix = compile_prefix(backbone, top, 17, runtime)
    assert prefix.engine.library == "torch"
    x = torch.rand(3, 3, 17, 17)
    (rows,) = prefix.run([x])
    with torch.inference_mode():
        assert np.allclose(rows, backbone(x).numpy(), atol=1e-6)
    with pytest.raises(PrecisionError, match="int8 needs OpenVINO"):
        compile_prefix(backbone, top, 17, replace(runtime, precision="int8"))
