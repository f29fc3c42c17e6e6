"""Leaving layers out of a GGUF file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from local_models import gguf
from local_models.prune import PruneError, layers, prune
from tests.support.gguf_files import METADATA, gguf_file
from tests.support.models import chat_model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(gguf_file())
    return path


def content(path: Path, name: str) -> bytes:
    header = gguf.read(path)
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    return path.read_bytes()[header.data + tensor.offset :][: tensor.size]


def test_the_layers_that_stay_move_up_with_their_weights(source: Path, tmp_path: Path) -> None:
    target = prune(source, tmp_path / "target.gguf", frozenset({0}))
    header = gguf.read(target)
    assert [tensor.name for tensor in header.tensors] == [
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "output_norm.weight",
    ]
    assert header.get("block_count") == 1
    for now, before in [("blk.0.attn_q.weight", "blk.1.attn_q.weight"), ("output_norm.weight", "output_norm.weight")]:
        assert content(target, now) == content(source, before)


def test_what_is_said_per_layer_is_said_of_those_that_stay(source: Path, tmp_path: Path) -> None:
    target = prune(source, tmp_path / "target.gguf", frozenset({0}))
    field = gguf.read(target).metadata["llama.attention.head_count_kv"]
    assert field.count == 1
    assert struct.unpack("<I", target.read_bytes()[field.end - 4 : field.end]) == (2,)
    assert gguf.read(target).metadata["tokenizer.ggml.tokens"].count == 3


def test_dense_layers_before_experts_are_counted_anew(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(gguf_file({**METADATA, "llama.leading_dense_block_count": 1}))
    assert gguf.read(prune(source, tmp_path / "a.gguf", frozenset({0}))).get("leading_dense_block_count") == 0
    assert gguf.read(prune(source, tmp_path / "b.gguf", frozenset({1}))).get("leading_dense_block_count") == 1


def test_a_real_model_stays_one_that_llama_cpp_loads(tmp_path: Path) -> None:
    from local_models.chat.model import Model

    target = prune(chat_model(), tmp_path / "two.gguf", frozenset(range(1, 29)))
    model = Model(target)
    assert model.llama.llama_model_n_layer(model.handle) == 2
    model.close()


@pytest.mark.parametrize("dropped", [frozenset(), frozenset({2}), frozenset({0, 1})])
def test_layers_that_are_not_there_or_all_of_them_are_refused(
    source: Path, tmp_path: Path, dropped: frozenset[int]
) -> None:
    with pytest.raises(PruneError, match="layers 0 to 1"):
        prune(source, tmp_path / "target.gguf", dropped)


def test_one_part_of_several_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(gguf_file({**METADATA, "split.count": 2}))
    with pytest.raises(PruneError, match="join them"):
        prune(source, tmp_path / "target.gguf", frozenset({0}))


def test_layers_are_written_as_ranges() -> None:
    assert layers("20-23") == {20, 21, 22, 23}
    assert layers("4, 7-8,7") == {4, 7, 8}
    for wrong in ("", "a", "5-3", "-1", "1-", "1;2", "9999"):
        with pytest.raises(PruneError, match="expected layers"):
            layers(wrong)
