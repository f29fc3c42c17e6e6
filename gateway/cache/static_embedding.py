"""A text's vector from a table of one vector a token: a tenth of a millisecond, and no process is asked.

The table is made beside the embedding model (docs/architecture.md, "Token vectors"). What it tells is whether two texts
may be close at all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tokenizers

from gateway.cache.codes import Vector


class StaticEmbedding:
    """Reads ``static.npz`` and ``tokenizer.json`` of a model's folder."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError, ValueError, KeyError: there is no such table, or it is not one."""
        with np.load(folder / "static.npz", allow_pickle=False) as table:
            self._vectors, self._scales = table["vectors"], table["scales"].astype(np.float32)
            self._most = int(table["max_tokens"])
        if self._vectors.ndim != 2 or len(self._vectors) != len(self._scales):
            raise ValueError(f"{folder}/static.npz: {self._vectors.shape} vectors, {self._scales.shape} scales")
        self._tokenizer = _tokenizer(folder / "tokenizer.json")

    @property
    def dimension(self) -> int:
        return int(self._vectors.shape[1])

    def embed(self, text: str) -> Vector:
        """float32 of shape (dimension,), of length 1; zero where no token is known."""
        ids = [
            number
            for number in self._tokenizer.encode(text, add_special_tokens=False).ids
            if number < len(self._scales)
        ]
        ids = ids[: self._most]
        summed = self._scales[ids] @ self._vectors[ids].astype(np.float32)
        length = float(np.linalg.norm(summed))
        return np.asarray(summed / length if length > 0 else summed, dtype=np.float32)


def _tokenizer(file: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{file}: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
