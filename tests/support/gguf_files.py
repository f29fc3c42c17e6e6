"""GGUF files made by hand: whole ones, and broken ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

METADATA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": [4, 2],
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.scores": [0.0, 1.0, 2.0],
    "tokenizer.ggml.eos_token_id": 2,
}
_WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁", "hello"]
RUNNABLE: Mapping[str, Any] = {
    **METADATA,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count_kv": 2,
    "llama.rope.dimension_count": 8,
    "llama.vocab_size": len(_WORDS),
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": _WORDS,
    "tokenizer.ggml.scores": [0.0] * len(_WORDS),
    # llama.cpp wants these signed: unknown, control, bytes, words.
    "tokenizer.ggml.token_type": struct.pack(f"<IIQ{len(_WORDS)}i", 9, 5, len(_WORDS), 2, 3, 3, *[6] * 256, *[1] * 4),
    "tokenizer.chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
}
_BLOCK = {
    "attn_norm": (32,), "attn_q": (32, 32), "attn_k": (32, 16), "attn_v": (32, 16), "attn_output": (32, 32),
    "ffn_norm": (32,), "ffn_gate": (32, 64), "ffn_up": (32, 64), "ffn_down": (64, 32),
}  # fmt: skip
SHAPES: Mapping[str, Sequence[int]] = {
    "token_embd.weight": (32, len(_WORDS)),
    "output_norm.weight": (32,),
    **{f"blk.{block}.{name}.weight": shape for block in range(2) for name, shape in _BLOCK.items()},
}
TENSORS = ("token_embd.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight", "output_norm.weight")


def gguf_file(
    metadata: Mapping[str, Any] = METADATA, tensors: Sequence[str] = TENSORS, rows: int = 4, alignment: int = 32
) -> bytes:
    """A file whose tensors are float32 of 32 × `rows`, each filled with its own number."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(string(key) + value(each) for key, each in metadata.items())
    size = 32 * rows * 4
    for number, name in enumerate(tensors):
        head += string(name) + struct.pack("<IqqIQ", 2, 32, rows, 0, number * size)
    data = b"".join(struct.pack("<f", number) * (size // 4) for number in range(len(tensors)))
    return head + bytes(-len(head) % alignment) + data


def runnable_file(
    metadata: Mapping[str, Any] | None = None, shapes: Mapping[str, Sequence[int]] | None = None
) -> bytes:
    """A file that llama.cpp loads and decodes with, its weights small; with `metadata` and `shapes` instead of its own.

    None leaves a key out, bytes stand for a value with its type before it.
    """
    pairs = {key: each for key, each in {**RUNNABLE, **(metadata or {})}.items() if each is not None}
    tensors = {**SHAPES, **(shapes or {})}
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs))
    head += b"".join(string(key) + (each if isinstance(each, bytes) else value(each)) for key, each in pairs.items())
    data = b""
    for name, shape in tensors.items():
        head += string(name) + struct.pack(f"<I{len(shape)}qIQ", len(shape), *shape, 0, len(data))
        weights = b"".join(struct.pack("<f", 1.0 if len(shape) == 1 else at % 7 / 50) for at in range(prod(shape)))
        data += weights + bytes(-len(weights) % 32)
    return head + bytes(-len(head) % 32) + data


def string(text: str) -> bytes:
    """As GGUF writes it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(given: Any) -> bytes:
    """A metadata value with its type before it."""
    kind, raw = _typed(given)
    return struct.pack("<I", kind) + raw


def _typed(given: Any) -> tuple[int, bytes]:
    if isinstance(given, list):
        parts = [_typed(each) for each in given]
        return 9, struct.pack("<IQ", parts[0][0] if parts else 4, len(parts)) + b"".join(raw for _, raw in parts)
    if isinstance(given, str):
        return 8, string(given)
    return (6, struct.pack("<f", given)) if isinstance(given, float) else (4, struct.pack("<I", given))
