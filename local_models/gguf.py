"""Reading a GGUF file before llama.cpp maps it: what cannot be true is refused here, with a reason.

llama.cpp trusts much of what a file says, and an assertion there ends the process. Nothing is believed here that the
file's own size does not bear out. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from math import isfinite, prod
from pathlib import Path
from typing import Any

import msgspec

_HEADER = struct.Struct("<4sIQQ")
# A tensor's description takes at least a name length, a dimension count, a type and an offset; a metadata pair
# at least a key length, a type and one byte.
_LEAST_TENSOR, _LEAST_PAIR = 24, 13
# What llama.cpp has room for: GGML_MAX_NAME with its final zero, GGML_MAX_DIMS, LLAMA_MAX_LAYERS; the other two are far
# beyond any model.
_MOST_NAME, _MOST_DIMENSIONS, _MOST_LAYERS = 63, 4, 512
_MOST_ALIGNMENT, _MOST_WIDTH = 1 << 16, 1 << 20
# LLAMA_MAX_EXPERTS, and where a tensor in memory must begin (TENSOR_ALIGNMENT).
_MOST_EXPERTS, _PLACE = 512, 32
# What some converters write for a special token that a model lacks.
_NO_TOKEN = 0xFFFFFFFF

# Metadata types by number. https://github.com/ggml-org/ggml/blob/master/include/gguf.h
_SCALARS = {kind: struct.Struct(f"<{code}") for kind, code in zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True)}
STRING, ARRAY = 8, 9
_ROPE_SCALINGS = {"none", "linear", "yarn", "longrope"}
# Vocabularies of models that take no text, or give none: asked for it, llama.cpp aborts.
_MUTE_TOKENIZERS = {"none", "no_vocab", "bert"}
_MOST_OF = {"block_count": _MOST_LAYERS, "embedding_length": _MOST_WIDTH, "context_length": (1 << 31) - 1}

# Tensor types by number: name, weights in a block, bytes of a block; numbers left out are retired.
# https://github.com/ggml-org/ggml/blob/master/src/ggml.c (type_traits)
TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36), 10: ("q2_K", 256, 84), 11: ("q3_K", 256, 110),
    12: ("q4_K", 256, 144), 13: ("q5_K", 256, 176), 14: ("q6_K", 256, 210), 15: ("q8_K", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18), 42: ("q2_0", 64, 18),
}  # fmt: skip


class NotGGUF(ValueError):
    """The file is no GGUF, is cut off, or says what cannot be true."""


class Field(msgspec.Struct, frozen=True):
    """A metadata value, bytes begin–end. Of an array, `element` is its type and `count` its length; `value` is a tuple
    where it has numbers for no more than the layers of a model, else None."""

    kind: int
    value: Any
    begin: int
    end: int
    element: int = -1
    count: int = 0


class Tensor(msgspec.Struct, frozen=True):
    """`kind` is a number of TYPES; `offset` counts from the header's `data`, `size` in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    size: int


class Header(msgspec.Struct, frozen=True):
    """Everything before the weights. `data`: where they begin in the file, in bytes."""

    version: int
    metadata: dict[str, Field]
    tensors: list[Tensor]
    alignment: int
    data: int

    @property
    def architecture(self) -> str:
        """`llama`, `qwen2`, `bert` …"""
        return str(self.metadata["general.architecture"].value)

    def get(self, key: str) -> Any:
        """The value of `<architecture>.<key>`; None where it is missing."""
        field = self.metadata.get(f"{self.architecture}.{key}")
        return field.value if field else None

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(prod(tensor.shape) for tensor in self.tensors)


def check(path: Path) -> None:
    """Raise NotGGUF unless the file is one that llama.cpp can be trusted with."""
    read(path)


def read(path: Path) -> Header:
    """The header of a whole, consistent GGUF 2 or 3. Raises NotGGUF, OSError."""
    size = path.stat().st_size
    if size < _HEADER.size:
        raise NotGGUF(f"{path.name}: {size} bytes are too few for a GGUF file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            header = _Reader(data).header()
            _plausible(header)
        except NotGGUF as error:
            raise NotGGUF(f"{path.name}: {error}") from None
    return header


class _Reader:
    """A place in the file that moves on as things are read."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._size, self._at = data, len(data), 0

    def header(self) -> Header:
        magic, version, tensors, pairs = self._take(_HEADER)
        if magic != b"GGUF":
            raise NotGGUF(f"starts with {magic!r}, a GGUF file starts with b'GGUF'")
        if version not in (2, 3):
            raise NotGGUF(f"GGUF version {version} is not supported (2 and 3 are)")
        if not tensors or not pairs or tensors * _LEAST_TENSOR + pairs * _LEAST_PAIR > self._size:
            raise NotGGUF(f"{tensors} tensors and {pairs} metadata entries do not fit in {self._size} bytes")
        metadata: dict[str, Field] = {}
        for _ in range(pairs):
            key = self._string()
            if key in metadata:
                raise NotGGUF(f"metadata has {key!r} twice")
            metadata[key] = self._field(key)
        alignment = metadata["general.alignment"].value if "general.alignment" in metadata else 32
        if not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
            raise NotGGUF(f"general.alignment {alignment!r} is not a power of two")
        return self._tensors(Header(version, metadata, [], alignment, 0), tensors)

    def _tensors(self, header: Header, count: int) -> Header:
        tensors: dict[str, Tensor] = {}
        end = 0
        for _ in range(count):
            tensor = self._tensor()
            if tensor.name in tensors:
                raise NotGGUF(f"tensor {tensor.name} is there twice")
            if tensor.offset != end:
                raise NotGGUF(
                    f"tensor {tensor.name} begins at {tensor.offset}, not where the one before it ends, {end}"
                )
            end = _aligned(tensor.offset + tensor.size, header.alignment)
            tensors[tensor.name] = tensor
        data = _aligned(self._at, header.alignment)
        last = tensor.offset + tensor.size
        if data + last > self._size:
            raise NotGGUF(f"is cut off: {data + last - self._size} bytes of its tensors are missing")
        return msgspec.structs.replace(header, tensors=list(tensors.values()), data=data)

    def _tensor(self) -> Tensor:
        name = self._string(_MOST_NAME)
        dimensions = self._number("<I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise NotGGUF(f"tensor {name} has {dimensions} dimensions")
        shape = self._take(struct.Struct(f"<{dimensions}q"))
        kind, offset = self._number("<I"), self._number("<Q")
        if kind not in TYPES:
            raise NotGGUF(f"tensor {name} is of the unknown type {kind}")
        label, block, block_bytes = TYPES[kind]
        if min(shape) < 1 or shape[0] % block:
            raise NotGGUF(f"tensor {name} of type {label} has the shape {shape}")
        return Tensor(name, shape, kind, offset, prod(shape) // block * block_bytes)

    def _field(self, key: str) -> Field:
        begin, kind = self._at, self._number("<I")
        if kind == ARRAY:
            element, count = self._number("<I"), self._number("<Q")
            first = self._at
            self._skip(key, element, count)
            values = None
            if element in _SCALARS and count <= _MOST_LAYERS:
                values = tuple(value for (value,) in _SCALARS[element].iter_unpack(self._data[first : self._at]))
            return Field(kind, values, begin, self._at, element, count)
        if kind == STRING:
            return Field(kind, self._string(), begin, self._at)
        if kind not in _SCALARS:
            raise NotGGUF(f"metadata {key!r} is of the unknown type {kind}")
        (value,) = self._take(_SCALARS[kind])
        return Field(kind, value, begin, self._at)

    def _skip(self, key: str, element: int, count: int) -> None:
        if element == STRING:
            if count * 8 > self._size - self._at:
                raise NotGGUF(f"metadata {key!r} has room for fewer than {count} strings")
            data, at, size = self._data, self._at, self._size
            for _ in range(count):
                at += 8 + int.from_bytes(data[at : at + 8], "little")
                if at > size:
                    raise NotGGUF(f"metadata {key!r} has a string that goes beyond the end of the file")
            self._at = at
        elif element in _SCALARS:
            self._at += count * _SCALARS[element].size
            if self._at > self._size:
                raise NotGGUF(f"metadata {key!r} has {count} entries, more than the file holds")
        else:
            raise NotGGUF(f"metadata {key!r} is an array of the unknown type {element}")

    def _string(self, most: int | None = None) -> str:
        length = self._number("<Q")
        if length > (self._size - self._at if most is None else most):
            raise NotGGUF(f"a string of {length} bytes at {self._at} is too long")
        raw = self._data[self._at : self._at + length]
        self._at += length
        return raw.decode("utf-8", "replace")

    def _number(self, code: str) -> int:
        return int(self._take(struct.Struct(code))[0])

    def _take(self, shape: struct.Struct) -> tuple[Any, ...]:
        if self._at + shape.size > self._size:
            raise NotGGUF("is cut off in its header")
        values = shape.unpack_from(self._data, self._at)
        self._at += shape.size
        return values


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _plausible(header: Header) -> None:
    """What llama.cpp divides by, allocates by, indexes with or asserts."""
    field = header.metadata.get("general.architecture")
    if field is None or field.kind != STRING or not field.value:
        raise NotGGUF("says no general.architecture")
    for key, most in _MOST_OF.items():
        value = header.get(key)
        if not isinstance(value, int) or not 0 < value <= most:
            raise NotGGUF(f"{header.architecture}.{key} is {value!r}")
    for key, field in header.metadata.items():
        if any(isinstance(number, float) and not isfinite(number) for number in _each(field)):
            raise NotGGUF(f"{key} is {field.value}")
    if header.data % _PLACE:
        raise NotGGUF(f"its tensors begin at {header.data}, which is no multiple of {_PLACE}")
    if header.get("rope.scaling.type") not in (None, *_ROPE_SCALINGS):
        raise NotGGUF(f"{header.architecture}.rope.scaling.type is {header.get('rope.scaling.type')!r}")
    _plausible_numbers(header)
    _plausible_vocabulary(header.metadata)


def _plausible_numbers(header: Header) -> None:
    blocks, width = header.get("block_count"), header.get("embedding_length")
    # A layer may have no heads where they are given layer by layer.
    _within(header, "attention.head_count", 0 if isinstance(header.get("attention.head_count"), tuple) else 1, width)
    for norm in ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"):
        _within(header, f"attention.{norm}", 0, 1)
    _within(header, "nextn_predict_layers", 0, blocks)
    experts = _within(header, "expert_count", 0, _MOST_EXPERTS)
    if not _within(header, "expert_used_count", min(experts, 1), experts) and experts:
        raise NotGGUF(f"{header.architecture} has {experts:g} experts and uses none")


def _within(header: Header, key: str, least: float, most: float) -> float:
    """The value, of an array the greatest, 0 where it is missing. Raises NotGGUF where one is out of bounds."""
    field = header.metadata.get(f"{header.architecture}.{key}")
    numbers = _each(field) if field else ()
    if not all(isinstance(number, int | float) and least <= number <= most for number in numbers):
        raise NotGGUF(f"{header.architecture}.{key} is {header.get(key)!r}")
    return max(numbers, default=0)


def _each(field: Field) -> tuple[Any, ...]:
    return field.value if isinstance(field.value, tuple) else (field.value,)


def _plausible_vocabulary(metadata: Mapping[str, Field]) -> None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    if tokens.element != STRING or not tokens.count:
        raise NotGGUF("tokenizer.ggml.tokens is not a list of strings")
    model = metadata.get("tokenizer.ggml.model")
    if model and model.value in _MUTE_TOKENIZERS:
        raise NotGGUF(f"a vocabulary of the kind {model.value!r} gives no text")
    for key in ("scores", "token_type"):
        beside = metadata.get(f"tokenizer.ggml.{key}")
        if beside and beside.count != tokens.count:
            raise NotGGUF(f"tokenizer.ggml.{key} has {beside.count} entries for {tokens.count} tokens")
    special = {key: field.value for key, field in metadata.items() if re.match(r"tokenizer\.ggml\.\w+_token_id$", key)}
    for key, value in special.items():
        if not isinstance(value, int) or (value >= tokens.count and value != _NO_TOKEN):
            raise NotGGUF(f"{key} is {value!r}, there are {tokens.count} tokens")
