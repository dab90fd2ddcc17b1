"""What an ONNX file says of itself, read without a library of ONNX.

A model from a stranger is data, but the format allows more: tensors in other files, at any path,
and operations that make a small file cost any amount of memory. A bundle's model uses a few
operations, on tensors within the file, of a few kinds of numbers, and no larger than what is there
of them. `check_model` refuses everything else before an engine sees it.

The format is Protocol Buffers (protobuf.dev, "Encoding"); the numbers of the fields are those of
onnx.proto, version 1.
"""

from __future__ import annotations

from collections.abc import Iterator

# Operations that networks of timm, exported by torch, consist of. None of them reads a file, loops,
# or makes an output much larger than what goes in.
OPERATIONS = frozenset(
    ("Abs", "Add", "And", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat",
     "Constant", "Conv", "Cos", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp",
     "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
     "Greater", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
     "LayerNormalization", "LeakyRelu", "Less", "Log", "MatMul", "Max", "MaxPool", "Min", "Mish",
     "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal",
     "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Selu", "Shape", "Sigmoid",
     "Sin", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh",
     "Transpose", "Unsqueeze", "Where")
)  # fmt: skip
# Kinds of numbers by their code in TensorProto.DataType, and bytes of one: float, uint8, int8,
# int32, int64, bool, double, bfloat16. Weights in bfloat16 become float32 by Cast.
NUMBERS = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 11: 8, 16: 2}
LARGEST = 2**32  # numbers of a tensor: a file of a bundle has at most so many bytes
DOMAINS = frozenset((b"", b"ai.onnx", b"com.microsoft", b"pkg.torch.onnx"))

# Wire types, and numbers of fields: of ModelProto, GraphProto, NodeProto, AttributeProto,
# TensorProto and SparseTensorProto.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATION, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_RAW = 1, 2, 9
_TENSOR_VALUES = (4, 5, 7, 10)  # of float, of small integers, of int64, of double
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


class ModelError(ValueError):
    """A model that is damaged, or holds what a bundle's model does not."""


def check_model(content: bytes) -> None:
    """Raises ModelError for tensors outside the file, of another kind or of a size that is not in
    it, for unknown operations, loops and functions."""
    graphs = 0
    for number, value in _fields(memoryview(content)):
        if number == _MODEL_FUNCTIONS:
            raise ModelError("it defines operations of its own")
        if number == _MODEL_GRAPH:
            graphs += 1
            _check_graph(_message(value))
    if graphs != 1:
        raise ModelError("it is no model")


def _check_graph(graph: memoryview) -> None:
    for number, value in _fields(graph):
        if number == _GRAPH_INITIALIZER:
            _check_tensor(_message(value))
        elif number == _GRAPH_SPARSE:
            raise ModelError("it holds sparse tensors")
        elif number == _GRAPH_NODE:
            _check_node(_message(value))


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node):
        if number == _NODE_OPERATION:
            name = bytes(_message(value)).decode(errors="backslashreplace")
            if name not in OPERATIONS:
                raise ModelError(f"its operation {name[:40]} is not one of a bundle's")
        elif number == _NODE_DOMAIN and bytes(_message(value)) not in DOMAINS:
            raise ModelError("it holds operations of another library")
        elif number == _NODE_ATTRIBUTE:
            for inner, held in _fields(_message(value)):
                if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    raise ModelError("it holds graphs within its graph")
                if inner in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                    _check_tensor(_message(held))


def _check_tensor(tensor: memoryview) -> None:
    """Its numbers are in the file: raw ones all, others at least a byte for each."""
    values, kind, held = 1, 0, 0
    raw: int | None = None
    for number, value in _fields(tensor):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise ModelError("it keeps tensors in other files")
        if number == _TENSOR_DIMS:
            for length in [value] if isinstance(value, int) else _packed(value):
                values *= length
                if values > LARGEST:  # at once: a million such lengths would take minutes
                    raise ModelError("a tensor is not as large as it says")
        elif number == _TENSOR_TYPE:
            kind = value if isinstance(value, int) else 0
        elif number == _TENSOR_RAW:
            raw = len(_message(value))
        elif number in _TENSOR_VALUES:
            held += 1 if isinstance(value, int) else len(value)
    if kind not in NUMBERS:
        raise ModelError(f"a tensor's kind of numbers, {kind}, is not one of a bundle's")
    if values * NUMBERS[kind] != raw if raw is not None else values > held:
        raise ModelError("a tensor is not as large as it says")


def _packed(message: memoryview) -> Iterator[int]:
    """Whole numbers, one after the other."""
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ModelError("it is damaged")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and the value of each field of a message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            whole, at = _varint(message, at)
            yield number, whole
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ModelError("it is damaged")
        if at + length > len(message):
            raise ModelError("it is cut off")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ModelError("it is damaged")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
