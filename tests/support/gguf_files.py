"""GGUF files made by hand: whole ones, and broken ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
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
