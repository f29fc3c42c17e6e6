"""What of a GGUF file is believed, and what is refused before llama.cpp maps it."""

from __future__ import annotations

import ctypes
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from local_models import gguf
from local_models.gguf import NotGGUF
from tests.support.gguf_files import METADATA, TENSORS, gguf_file, string, value
from tests.support.models import chat_model

WHOLE = gguf_file()


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


def changed(**metadata: Any) -> bytes:
    return gguf_file({**METADATA, **{key.replace("__", "."): each for key, each in metadata.items()}})


def test_a_real_model_is_read_whole() -> None:
    header = gguf.read(chat_model())
    assert (header.architecture, header.get("block_count"), header.get("context_length")) == ("llama", 30, 8192)
    assert header.metadata["tokenizer.ggml.tokens"].count == 49152
    assert header.parameters == 134_515_008
    last = header.tensors[-1]
    assert header.data + last.offset + last.size <= chat_model().stat().st_size


def test_sizes_of_tensor_types_are_llama_cpps_own() -> None:
    from llama_cpp import _ggml

    library = _ggml.libggml
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_name.restype = ctypes.c_char_p
    for number, (name, block, size) in gguf.TYPES.items():
        found = (library.ggml_type_name(number), library.ggml_blck_size(number), library.ggml_type_size(number))
        assert found == (name.encode(), block, size)


def test_a_small_whole_file_is_taken(tmp_path: Path) -> None:
    header = gguf.read(written(tmp_path, WHOLE))
    assert [tensor.name for tensor in header.tensors] == list(TENSORS)
    assert header.tensors[1].shape == (32, 4)
    assert header.get("attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (WHOLE[:-1], "cut off: 1 bytes of its tensors"),
        (WHOLE[:200], "cut off|too long|do not fit|beyond"),
        (gguf_file(tensors=[TENSORS[0], TENSORS[0]]), "twice"),
        (gguf_file(tensors=["x" * 64]), "too long"),
        (changed(general__alignment=0), "alignment 0"),
        (changed(general__alignment=48), "alignment 48"),
        (changed(general__architecture=""), "no general.architecture"),
        (changed(llama__block_count=0), "block_count is 0"),
        (changed(llama__block_count=100_000), "block_count is 100000"),
        (changed(llama__block_count="two"), "block_count is 'two'"),
        (changed(llama__embedding_length=0), "embedding_length is 0"),
        (changed(llama__attention__head_count=0), "head_count is 0"),
        (changed(llama__attention__layer_norm_rms_epsilon=math.nan), "epsilon is nan"),
        (changed(tokenizer__ggml__scores=[0.0]), "1 entries for 3 tokens"),
        (changed(tokenizer__ggml__tokens=[1, 2, 3]), "not a list of strings"),
        (changed(tokenizer__ggml__eos_token_id=3), "eos_token_id is 3"),
    ],
)
def test_what_cannot_be_true_is_refused_with_its_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(NotGGUF, match=complaint) as refused:
        gguf.read(written(tmp_path, content))
    assert str(refused.value).startswith("model.gguf: ")


def info(shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """A file of one tensor, described so."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 4)
    keys = ("general.architecture", "llama.block_count", "llama.context_length", "llama.embedding_length")
    head += b"".join(string(key) + value(METADATA[key]) for key in keys)
    head += string("t") + struct.pack(f"<I{len(shape)}q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
    return head + bytes(4096)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (info((32, 1 << 60)), "cut off"),
        (info((1 << 62, 1 << 62)), "cut off"),
        (info((-32,)), "shape"),
        (info((0,)), "shape"),
        (info((33,), kind=2), "shape"),
        (info((32,), kind=4), "unknown type 4"),
        (info((32,), kind=1 << 31), "unknown type"),
        (info((32,), offset=64), "begins at 64"),
        (info((32,), offset=1 << 63), "begins at"),
        (info(()), "0 dimensions"),
        (info((1,) * 5), "5 dimensions"),
        (info((1,) * 4) and info((32,))[:40], "do not fit|cut off|too long"),
    ],
)
def test_a_tensor_that_cannot_be_there_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(NotGGUF, match=complaint):
        gguf.read(written(tmp_path, content))


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        (struct.pack("<I", 99), "unknown type 99"),
        (struct.pack("<IQ", 8, 1 << 62), "too long"),
        (struct.pack("<IIQ", 9, 4, 1 << 61), "more than the file holds"),
        (struct.pack("<IIQ", 9, 8, 1 << 61), "room for fewer"),
        (struct.pack("<IIQQ", 9, 8, 1, 1 << 61), "beyond the end"),
        (struct.pack("<IIQ", 9, 9, 1), "array of the unknown type 9"),
    ],
)
def test_a_field_that_cannot_be_there_is_refused(tmp_path: Path, field: bytes, complaint: str) -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + string("key") + field + bytes(256)
    with pytest.raises(NotGGUF, match=complaint):
        gguf.read(written(tmp_path, head))


@pytest.fixture(scope="module")
def real_head() -> bytes:
    """Of the real model: everything before its weights, which are far too many to write anew each time."""
    header = gguf.read(chat_model())
    with chat_model().open("rb") as file:
        return file.read(header.data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_real_header_is_read_or_refused_and_nothing_else(
    data: st.DataObject, real_head: bytes, tmp_path: Path
) -> None:
    content = bytearray(real_head)
    begin, end = data.draw(st.sampled_from([(0, 24), (24, 1500), (len(content) - 20_000, len(content))]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(begin, end - 8))
        content[at : at + 8] = data.draw(
            st.binary(min_size=1, max_size=8)
            | st.sampled_from([bytes(8), b"\xff" * 8, b"\xff" * 4, b"\0" * 7 + b"\x80"])
        )
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with pytest.raises(NotGGUF):
        # Whatever else became of it, the weights are missing.
        gguf.read(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6))
@example(changes=[])
def test_what_is_read_of_a_mutated_file_lies_inside_it(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    content = bytearray(WHOLE)
    for at, byte in changes:
        content[at] = byte
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    try:
        header = gguf.read(path)
    except NotGGUF:
        assert changes
        return
    for tensor in header.tensors:
        assert tensor.offset >= 0
        assert header.data + tensor.offset + tensor.size <= len(content)
