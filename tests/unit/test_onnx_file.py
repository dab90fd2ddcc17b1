"""What is refused of a model before an engine sees it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headstart_predict.onnx_file import OPERATIONS, ModelError, check_model


def model(
    *nodes: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = ()
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(list(nodes), "g", [x], [y], list(initializers))
    return helper.make_model(graph)


def relu() -> onnx.NodeProto:
    return helper.make_node("Relu", ["x"], ["y"])


def outside() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    return tensor


def with_function() -> onnx.ModelProto:
    made = model(relu())
    made.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])],
                             [helper.make_opsetid("", 18)])
    )  # fmt: skip
    return made


def loop() -> onnx.ModelProto:
    body = model(relu()).graph
    return model(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))


def hidden_loop() -> onnx.ModelProto:
    node = relu()
    node.attribute.append(helper.make_attribute("body", model(relu()).graph))
    return model(node)


def constant_outside() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(helper.make_attribute("value", outside()))
    return model(node, relu())


def weights(kind: int = TensorProto.FLOAT, dims: tuple[int, ...] = (4,)) -> onnx.TensorProto:
    """A tensor of four numbers of 4 bytes, which says that it is of this kind and size."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.data_type = kind
    del tensor.dims[:]
    tensor.dims.extend(dims)
    return tensor


def listed(dims: tuple[int, ...]) -> onnx.TensorProto:
    """The same with its numbers in a list, not as bytes."""
    tensor = helper.make_tensor("w", TensorProto.INT64, [4], [1, 2, 3, 4])
    assert not tensor.raw_data
    del tensor.dims[:]
    tensor.dims.extend(dims)
    return tensor


def holding(tensor: onnx.TensorProto) -> Callable[[], onnx.ModelProto]:
    return lambda: model(relu(), initializers=(tensor,))


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a tensor at another path": (lambda: model(relu(), initializers=(outside(),)), "other files"),
    "a constant at another path": (constant_outside, "other files"),
    "operations of its own": (with_function, "of its own"),
    "an unknown operation": (lambda: model(helper.make_node("Loop", [], ["y"])), "Loop is not"),
    "another library": (
        lambda: model(helper.make_node("Relu", ["x"], ["y"], domain="evil")),
        "another library",
    ),
    "branches": (loop, "If is not"),
    "a graph in an attribute": (hidden_loop, "graphs within"),
    "texts": (holding(weights(TensorProto.STRING)), "kind of numbers, 8,"),
    "complex numbers": (holding(weights(TensorProto.COMPLEX64)), "kind of numbers, 14,"),
    "no kind": (holding(weights(TensorProto.UNDEFINED)), "kind of numbers, 0,"),
    "a tensor larger than its bytes": (holding(weights(dims=(2**20, 2**20))), "not as large"),
    "a tensor smaller than its bytes": (holding(weights(dims=(3,))), "not as large"),
    "bfloat16 without half of it": (holding(weights(TensorProto.BFLOAT16)), "not as large"),
    "a length below zero": (holding(weights(dims=(-4,))), "not as large"),
    "a million lengths": (holding(weights(dims=(2**40,) * 10**6)), "not as large"),
    "a list shorter than its tensor": (holding(listed((2**40,))), "not as large"),
}


def test_a_plain_model_is_taken() -> None:
    check_model(holding(weights())().SerializeToString())


@pytest.mark.parametrize(
    "tensor",
    [
        weights(TensorProto.BFLOAT16, (2, 4)),
        weights(TensorProto.INT8, (16,)),
        numpy_helper.from_array(np.float32(1), "w"),
        numpy_helper.from_array(np.zeros((0, 3), np.int64), "w"),
        listed((2, 2)),
        helper.make_tensor("w", TensorProto.BOOL, [3], [True, False, True]),
    ],
)
def test_a_tensor_that_is_whole_is_taken(tensor: onnx.TensorProto) -> None:
    check_model(holding(tensor)().SerializeToString())


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_bundle_does_not_hold_is_refused(kind: str) -> None:
    make, reason = HOSTILE[kind]
    with pytest.raises(ModelError, match=reason):
        check_model(make().SerializeToString())


def test_no_operation_reads_files_or_loops() -> None:
    assert not OPERATIONS & {"Loop", "If", "Scan", "SequenceMap", "ImageDecoder", "StringConcat"}
    assert not OPERATIONS & {"Tile", "ConstantOfShape", "RandomNormal", "Resize"}


def test_damaged_bytes_never_raise_anything_else() -> None:
    whole = model(relu(), initializers=(numpy_helper.from_array(np.zeros(99, np.float32), "w"),))
    content, rng = whole.SerializeToString(), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(content[: rng.integers(0, len(content) + 1)])
        for place in rng.integers(0, max(len(damaged), 1), 3):
            if damaged:
                damaged[place] = rng.integers(0, 256)
        try:
            check_model(bytes(damaged))
        except ModelError:
            continue
