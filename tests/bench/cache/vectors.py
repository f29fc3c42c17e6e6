"""Questions to ask and entries to hold: real embeddings, and as many more between and around them as are wanted."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import numpy as np

from gateway.cache.codes import Vector
from local_models.embed.model import load
from tests.support.models import embed_model

HELD_OUT = 400
_BATCH = 64
_SPREAD, _NOISE = 0.5, 0.35


class _Row(msgspec.Struct):
    prompt: str | None = None
    a: str | None = None
    b: str | None = None


def texts(data: Path) -> list[str]:
    """Every question in the files ``data/*.jsonl.gz``, once."""
    found: dict[str, None] = {}
    for file in sorted(data.glob("*.jsonl.gz")):
        with gzip.open(file, "rb") as lines:
            for line in lines:
                row = msgspec.json.decode(line, type=_Row)
                found |= dict.fromkeys(text for text in (row.prompt, row.a, row.b) if text)
    return list(found)


def embedded(questions: list[str], kept: Path) -> Vector:
    """Shape (questions, dimension); computed once, then read from ``kept``."""
    if kept.exists():
        held: Vector = np.load(kept)
        if len(held) == len(questions):
            return held
    model = load(embed_model(), 1)
    order = sorted(range(len(questions)), key=lambda number: len(questions[number]))
    batches = (order[start : start + _BATCH] for start in range(0, len(order), _BATCH))
    rows = [model.embed([questions[number] for number in batch]).vectors for batch in batches]
    vectors = np.empty((len(order), rows[0].shape[1]), dtype=np.float32)
    vectors[order] = np.concatenate(rows)
    np.save(kept, vectors)
    return vectors


def more(real: Vector, count: int, seed: int = 0) -> Vector:
    """``count`` unit vectors: the real ones, then points between two of them with noise around."""
    random = np.random.default_rng(seed)
    out = np.empty((count, real.shape[1]), dtype=np.float32)
    out[: len(real)] = real[:count]
    for start in range(len(real), count, 50_000):
        some = min(50_000, count - start)
        share = random.uniform(0, _SPREAD, (some, 1)).astype(np.float32)
        one, other = real[random.integers(0, len(real), some)], real[random.integers(0, len(real), some)]
        noise = random.normal(0, 1, one.shape).astype(np.float32) * (_NOISE / np.sqrt(real.shape[1]))
        mixed = (1 - share) * one + share * other + noise
        out[start : start + some] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return out
