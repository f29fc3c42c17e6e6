"""Just enough of ONNX's protobuf to hand a graph to onnxruntime without the `onnx` package.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3; the wire format:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Shape = Sequence[str | int]
"""Sizes; a name stands for one that differs from call to call."""
Tensor = tuple[Literal["float32", "int32"], Shape]
Values = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]

_IR_VERSION, _OPSET, _CONTRIB = 10, 20, "com.microsoft"
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_ELEMENT = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
_FLOAT, _INT = 1, 2
_EXTERNAL = 1


class Graph:
    """A graph that grows node by node; its weights stay outside, where onnxruntime is given them by name."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.weights: dict[str, Values] = {}

    def weight(self, name: str, values: Values) -> str:
        """Declare a tensor that is handed to the session beside the graph; its name."""
        where = _text(1, "location") + _text(2, "memory")
        head = b"".join(_number(1, size) for size in values.shape) + _number(2, _ELEMENT[str(values.dtype)])
        self._parts.append(_bytes(5, head + _text(8, name) + _bytes(13, where) + _number(14, _EXTERNAL)))
        self.weights[name] = values
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, contrib: bool = False, **attributes: float) -> str:
        """Append an operation of ONNX or, `contrib`, one of onnxruntime's own; the name of its output."""
        parts = [_text(1, name) for name in inputs] + [_text(2, output), _text(3, output), _text(4, kind)]
        parts += [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]
        self._parts.append(_bytes(1, b"".join(parts) + (_text(7, _CONTRIB) if contrib else b"")))
        return output

    def model(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> bytes:
        """The model's bytes, with its inputs and outputs by name."""
        taken = [_bytes(11, _value(name, *tensor)) for name, tensor in inputs.items()]
        given = [_bytes(12, _value(name, *tensor)) for name, tensor in outputs.items()]
        graph = b"".join((*self._parts, _text(2, "graph"), *taken, *given))
        opsets = [_text(1, domain) + _number(2, version) for domain, version in (("", _OPSET), (_CONTRIB, 1))]
        return _number(1, _IR_VERSION) + _bytes(7, graph) + b"".join(_bytes(8, opset) for opset in opsets)


def _value(name: str, kind: str, shape: Shape) -> bytes:
    sizes = [_bytes(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in shape]
    tensor = _number(1, _ELEMENT[kind]) + _bytes(2, b"".join(sizes))
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT)
    return _text(1, name) + _varint(2 << 3 | _FIXED32) + struct.pack("<f", value) + _number(20, _FLOAT)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value % (1 << 64))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
