"""Looking at a GGUF file's first bytes before llama.cpp maps it.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct("<4sIQQ")
# A tensor's description takes at least a name length, a dimension count, a type and an offset; a metadata pair
# at least a key length, a type and one byte.
_LEAST_TENSOR, _LEAST_PAIR = 24, 13


class NotGGUF(ValueError):
    """The file is no GGUF, is cut off, or its header cannot be true."""


def check(path: Path) -> None:
    """Raise NotGGUF unless the header reads as GGUF 2 or 3 with counts that the file has room for."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise NotGGUF(f"{path.name}: {size} bytes are too few for a GGUF file")
    magic, version, tensors, pairs = _HEADER.unpack(head)
    if magic != b"GGUF":
        raise NotGGUF(f"{path.name}: starts with {magic!r}, a GGUF file starts with b'GGUF'")
    if version not in (2, 3):
        raise NotGGUF(f"{path.name}: GGUF version {version} is not supported (2 and 3 are)")
    if not tensors or not pairs or tensors * _LEAST_TENSOR + pairs * _LEAST_PAIR > size:
        raise NotGGUF(f"{path.name}: {tensors} tensors and {pairs} metadata entries do not fit in {size} bytes")
