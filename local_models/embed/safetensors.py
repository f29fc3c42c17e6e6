"""Reading a safetensors file by mapping it: what is not touched takes no memory, and torch is not needed.

Layout: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<Q")
_MOST_HEADER = 100_000_000


class NotSafetensors(ValueError):
    """The file is no safetensors file, is cut off, or says of a tensor what cannot be true."""


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


class Weights:
    """The float32 tensors of one file, by name; arrays are read-only views of the mapped file."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, NotSafetensors."""
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < _LENGTH.size:
                raise NotSafetensors(f"{path.name}: {size} bytes are too few")
            self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        (length,) = _LENGTH.unpack_from(self._data)
        self._begin = _LENGTH.size + length
        if length > _MOST_HEADER or self._begin > size:
            raise NotSafetensors(f"{path.name}: a header of {length} bytes does not fit")
        try:
            found = msgspec.json.decode(self._data[_LENGTH.size : self._begin], type=dict[str, msgspec.Raw])
            found.pop("__metadata__", None)
            self._tensors = {name: msgspec.json.decode(raw, type=_Tensor) for name, raw in found.items()}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotSafetensors(f"{path.name}: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """The tensor of this name. Raises NotSafetensors where it is missing, not float32, or outside the file."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.dtype != "F32":
            raise NotSafetensors(f"tensor {name} is {tensor.dtype if tensor else 'missing'}, F32 is read here")
        first, last = (self._begin + offset for offset in tensor.data_offsets)
        wanted = 4 * int(np.prod(tensor.shape, dtype=object))
        if not self._begin <= first <= last <= len(self._data) or last - first != wanted:
            raise NotSafetensors(f"tensor {name}: its bytes are not where the header says")
        return np.frombuffer(self._data[first:last], "<f4").reshape(tensor.shape)
