"""Cross-encoders: a model that reads two texts together, served beside the embedder as `/v1/rerank`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from local_models.embed.batcher import Overloaded
from local_models.embed.reference import offline

MAX_WAITING = 64
_BATCH = 16
logger = logging.getLogger(__name__)


def load(folder: Path, threads: int, verbose: bool = False) -> CrossEncoder | None:
    """None, and said in the log, for a folder that is none: the embedder is served all the same."""
    try:
        return CrossEncoder(folder, threads, verbose)
    except (OSError, ValueError, KeyError) as reason:
        logger.error("no cross-encoder is served: %s", reason)
        return None


class CrossEncoder:
    """A loaded model of one output, on a thread of its own. `score` may be awaited by many."""

    def __init__(self, folder: Path, threads: int, verbose: bool = False) -> None:
        """Raises OSError, ValueError for a bad folder, or a model that does not give one number a pair."""
        offline(verbose)
        import torch
        from sentence_transformers import CrossEncoder as Model

        torch.set_num_threads(threads)
        self._model: Any = Model(str(folder), device="cpu", local_files_only=True)
        if self._model.num_labels != 1:
            raise ValueError(f"{folder.name} gives {self._model.num_labels} numbers a pair, not one")
        self._sigmoid = torch.nn.Sigmoid()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pairs")
        self._waiting = 0
        self._scores("warm-up", ["warm-up"])

    async def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """0 … 1 for each document. Raises Overloaded."""
        if self._waiting >= MAX_WAITING:
            raise Overloaded(f"{self._waiting} questions are waiting, at most {MAX_WAITING} may")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._scores, query, documents)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _scores(self, query: str, documents: Sequence[str]) -> list[float]:
        pairs = [(query, document) for document in documents]
        found = self._model.predict(
            pairs, batch_size=_BATCH, activation_fn=self._sigmoid, show_progress_bar=False, convert_to_numpy=True
        )
        return [float(score) for score in found]
