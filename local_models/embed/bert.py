"""BERT-type sentence-transformers models on onnxruntime: the same numbers in a fraction of PyTorch's time, or nearly
the same in int8 in half of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from local_models.embed import graph
from local_models.embed.folder import BertFolder
from local_models.embed.graph import Quantised
from local_models.embed.model import Embedded, Vectors
from local_models.embed.onnx_wire import Values
from local_models.embed.safetensors import Weights

# Another pass costs about as much as this many tokens (measured): rather that than more padding.
_PASS_TOKENS = 16
# Activations of a pass stay within the cache of a core; beyond 200 tokens nothing is gained any more.
_MOST_TOKENS = 512


class Bert:
    """A loaded model. Any thread may call `embed`, one at a time."""

    def __init__(self, folder: BertFolder, threads: int, quantised: Quantised | None = None) -> None:
        """`quantised`: what to compute in int8. Raises OSError, NotSafetensors where the files are not what they should
        be."""
        self.precision = "int8" if quantised else ""
        self.pooling: str = folder.pooling
        self.dimension = folder.config.hidden_size
        self._tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(folder.max_tokens)
        weights = Weights(folder.path / "model.safetensors")
        prefix = "" if "embeddings.LayerNorm.weight" in weights else "bert."
        place = f"{prefix}embeddings."
        # Looked up in the mapped file: of thirty thousand words, only those that occur take memory.
        self._words = weights[place + "word_embeddings.weight"]
        # Every token is of the first type: there is one text at a time, never a pair.
        first_type = weights[place + "token_type_embeddings.weight"][0]
        self._positions = weights[place + "position_embeddings.weight"] + first_type
        model, self._weights = graph.bert(folder.config, weights, prefix, quantised)
        self._session = session(model, self._weights, threads)

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed texts in passes of alike lengths, as long as the texts are: there is no fixed padding."""
        ids = self.tokens(texts)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for places in passes([len(row) for row in ids]):
            vectors[places] = self._pass([ids[place] for place in places])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embedded(vectors, [len(row) for row in ids])

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Their token ids, cut off where the model cuts them off."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def feed(self, rows: list[list[int]]) -> dict[str, NDArray[Any]]:
        """The graph's inputs for one pass."""
        lengths = np.array([len(row) for row in rows], np.int32)
        embedded = np.zeros((len(rows), int(lengths.max()), self.dimension), np.float32)
        for place, row in enumerate(rows):
            np.add(self._words[row], self._positions[: len(row)], out=embedded[place, : len(row)])
        return {"embedded": embedded, "lengths": lengths}

    def _pass(self, rows: list[list[int]]) -> Vectors:
        feed = self.feed(rows)
        (hidden,) = self._session.run(["hidden"], feed)
        return _pooled(hidden, feed["lengths"], self.pooling)


def passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of the texts that go through the model together, shortest first."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        if batch:
            padding = len(batch) * (length - lengths[batch[-1]])
            if padding > _PASS_TOKENS or (len(batch) + 1) * length > _MOST_TOKENS:
                yield batch
                batch = []
        batch.append(place)
    if batch:
        yield batch


def _pooled(hidden: Vectors, lengths: NDArray[np.int32], pooling: str) -> Vectors:
    if pooling == "cls":
        return hidden[:, 0]
    padded = np.arange(hidden.shape[1]) >= lengths[:, None]
    hidden[padded] = -np.inf if pooling == "max" else 0
    # The mean points where the sum does, and every vector is brought to length 1 anyway.
    vectors: Vectors = hidden.max(axis=1) if pooling == "max" else hidden.sum(axis=1)
    return vectors


def session(model: bytes, weights: Mapping[str, Values], threads: int) -> onnxruntime.InferenceSession:
    """What computes a graph. The caller keeps `weights` as long as the session: onnxruntime borrows them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # A thread that spins for more work takes the core that another process needs for its own.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Sizes differ from pass to pass: what was freed after a long text goes back to the system.
    options.enable_mem_pattern = False
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
    options.add_external_initializers(list(weights), values)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
