"""Leaving layers out of a GGUF file: its blocks are renumbered, nothing else changes.

llama.cpp's own `prune_layers` takes a C++ vector, which ctypes cannot make. Deep layers of a language model change its
output least (Gromov et al. 2024, https://arxiv.org/abs/2403.17887); what it costs is for measuring, see `measure`.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from local_models import gguf
from local_models.gguf import ARRAY, STRING, Field, Header, Tensor

_BLOCK = re.compile(r"^blk\.(\d+)\.")
_CHUNK = 1 << 22


class PruneError(ValueError):
    """These layers cannot be left out of this model."""


def layers(text: str) -> frozenset[int]:
    """Read `20-23` or `4,20-23`: layers from 0, both ends included. Raises PruneError."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise PruneError(f"{text!r}: expected layers such as 20-23 or 4,20-23")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def prune(source: Path, target: Path, dropped: frozenset[int]) -> Path:
    """Write `source` to `target` without these layers. Raises NotGGUF, PruneError, OSError."""
    header = gguf.read(source)
    blocks = int(header.get("block_count"))
    if not dropped or max(dropped) >= blocks or len(dropped) >= blocks:
        raise PruneError(f"{source.name} has the layers 0 to {blocks - 1}, and one at least must stay")
    if "split.count" in header.metadata:
        raise PruneError(f"{source.name} is one of several files; join them first")
    numbers = {old: new for new, old in enumerate(sorted(set(range(blocks)) - dropped))}
    kept = [(tensor, name) for tensor in header.tensors if (name := _renamed(tensor, numbers))]
    with source.open("rb") as read, target.open("wb") as write:
        _head(read, write, header, numbers, kept)
        for tensor, _ in kept:
            _pad(write, header.alignment)
            read.seek(header.data + tensor.offset)
            _copy(read, write, tensor.size)
        _pad(write, header.alignment)
    return target


def _renamed(tensor: Tensor, numbers: dict[int, int]) -> str | None:
    match = _BLOCK.match(tensor.name)
    if not match:
        return tensor.name
    number = numbers.get(int(match[1]))
    return None if number is None else f"blk.{number}.{tensor.name[match.end() :]}"


def _head(
    read: BinaryIO, write: BinaryIO, header: Header, numbers: dict[int, int], kept: list[tuple[Tensor, str]]
) -> None:
    write.write(struct.pack("<4sIQQ", b"GGUF", header.version, len(kept), len(header.metadata)))
    for key, field in header.metadata.items():
        read.seek(field.begin)
        write.write(_string(key) + _value(key, field, read.read(field.end - field.begin), header, numbers))
    offset = 0
    for tensor, name in kept:
        shape = struct.pack(f"<I{len(tensor.shape)}q", len(tensor.shape), *tensor.shape)
        write.write(_string(name) + shape + struct.pack("<IQ", tensor.kind, offset))
        offset += -(-tensor.size // header.alignment) * header.alignment
    _pad(write, header.alignment)


def _value(key: str, field: Field, raw: bytes, header: Header, numbers: dict[int, int]) -> bytes:
    if key == f"{header.architecture}.block_count":
        return struct.pack("<II", 4, len(numbers))
    if key == f"{header.architecture}.leading_dense_block_count":
        return struct.pack("<II", 4, sum(old < field.value for old in numbers))
    per_layer = key.startswith(f"{header.architecture}.") and field.kind == ARRAY and field.element != STRING
    if per_layer and field.count == header.get("block_count"):
        # After the types and the count of the array, 16 bytes, its entries are all of one size.
        size = (len(raw) - 16) // field.count
        values = b"".join(raw[16 + old * size :][:size] for old in sorted(numbers))
        return struct.pack("<IIQ", ARRAY, field.element, len(numbers)) + values
    return raw


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pad(write: BinaryIO, alignment: int) -> None:
    write.write(bytes(-write.tell() % alignment))


def _copy(read: BinaryIO, write: BinaryIO, count: int) -> None:
    while count:
        chunk = read.read(min(count, _CHUNK))
        write.write(chunk)
        count -= len(chunk)
