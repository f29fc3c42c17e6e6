"""Any sentence-transformers model, by sentence-transformers itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from local_models.embed.model import Embedded
from local_models.native import calm_openmp

_BATCH = 32


class Reference:
    """A loaded model. Any thread may call `embed`, one at a time."""

    def __init__(self, folder: Path, threads: int, verbose: bool = False) -> None:
        """Raises OSError, ValueError for a bad folder."""
        self.precision = ""
        offline(verbose)
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._torch = torch
        self._model: Any = SentenceTransformer(str(folder), device="cpu").eval()
        self.dimension: int = len(self.embed(["warm-up"]).vectors[0])
        self.pooling = _pooling(self._model)

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed texts in padded batches of alike lengths."""
        places = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        vectors, tokens = [], []
        for start in range(0, len(places), _BATCH):
            batch = self._batch([texts[place] for place in places[start : start + _BATCH]])
            vectors.append(batch.vectors)
            tokens += batch.tokens
        order = np.argsort(places)
        return Embedded(np.concatenate(vectors)[order], [tokens[place] for place in order])

    def _batch(self, texts: list[str]) -> Embedded:
        # The tokenizer.json asks for a fixed 128; preprocess pads to the longest text of the batch instead.
        features = self._model.preprocess(texts)
        tokens = features["attention_mask"].sum(dim=1).tolist()
        with self._torch.inference_mode():
            vectors = self._model.forward(features)["sentence_embedding"]
            vectors = self._torch.nn.functional.normalize(vectors, dim=1)
        return Embedded(vectors.numpy().astype(np.float32, copy=False), tokens)


def offline(verbose: bool) -> None:
    """Settings that are read on import: nothing is ever looked up on a hub, and no progress bars in the log."""
    calm_openmp()
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not verbose:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        os.environ["TQDM_DISABLE"] = "1"
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)


def _pooling(model: Any) -> str:
    modes = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    if not modes:
        return "none"
    return modes[0] if isinstance(modes[0], str) else "+".join(modes[0])
