"""What an embedding model is to the process around it, and which of the two routes computes a model folder.

BERT-type models, such as the default, are computed by onnxruntime (`bert`), ready within a second; in part in int8,
where the folder holds what `int8` makes and the processor is quick at it. sentence-transformers (`reference`) serves
every other folder, and is what the quick route is tested against.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from local_models.embed.folder import UnknownModel, read
from local_models.embed.safetensors import NotSafetensors
from local_models.native import physical_cores

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

# Past two threads one query gains little, and the cores are shared with the chat engine and the gateway.
MOST_THREADS = 2


class Embedded(msgspec.Struct, frozen=True):
    """`vectors`: float32 of shape (texts, dimension), length 1. `tokens`: per text, as the model saw it (cut off)."""

    vectors: Vectors
    tokens: list[int]


class Embedder(Protocol):
    """A loaded model. Any thread may call `embed`, one at a time; the attributes are part of its id.

    `precision`: empty for the model's own, `int8` where vectors are nearly but not quite the same.
    """

    pooling: str
    dimension: int
    precision: str

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed texts, in batches of its own choosing; a vector depends on its text alone."""
        ...


def load(folder: Path, threads: int = 0, verbose: bool = False) -> Embedder:
    """Load a model folder. `threads`: 0 is the physical cores, at most MOST_THREADS.

    Raises OSError, ValueError for a bad folder.
    """
    threads = threads or min(physical_cores(), MOST_THREADS)
    try:
        known = read(folder)
        from local_models.embed import int8
        from local_models.embed.bert import Bert

        return Bert(known, threads, int8.load(folder))
    except (UnknownModel, NotSafetensors) as reason:
        logger.info("sentence-transformers computes %s: %s", folder.name, reason)
    from local_models.embed.reference import Reference

    return Reference(folder, threads, verbose)
