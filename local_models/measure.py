"""How quick a GGUF model is in llama.cpp here, and how far it is from the one it was made of.

llama.cpp runs in a process of its own, `python -m local_models measure`: its asserts end the process. Speeds are those
of bare `llama_decode` loops, without the engine around it; `bench` measures through the engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from local_models import gguf
from local_models.native import load_llama, physical_cores

TEXT = Path(__file__).with_name("sample.txt")
STREAMS = (1, 4, 16)
_STEPS, _PREFILL, _ROUNDS = 24, 256, 3
# A window is read as one; the first tokens of one have too little before them to be predicted by any model.
_WINDOW, _SKIP = 256, 16


class MeasureError(RuntimeError):
    """llama.cpp cannot run the file."""


class Speeds(msgspec.Struct, frozen=True):
    """Tokens a second: decoding so many streams at once, all together, and reading a prompt."""

    streams: dict[str, float]
    prefill_tokens_per_second: float

    @property
    def overall(self) -> float:
        """One number to compare types by: the geometric mean of all of them."""
        every = [*self.streams.values(), self.prefill_tokens_per_second]
        return float(np.exp(np.mean(np.log(every))))


class Quality(msgspec.Struct, frozen=True):
    """Over `tokens` tokens. `divergence`: mean Kullback–Leibler divergence from the source in nats per token;
    `same_choice`: share of tokens where both would choose the same one; perplexities of both."""

    divergence: float
    same_choice: float
    perplexity: float
    source_perplexity: float
    tokens: int


class Measured(msgspec.Struct, frozen=True):
    """`quality` is None where there was nothing to compare with."""

    bytes: int
    speeds: Speeds
    quality: Quality | None


def measure(model: Path, source: Path | None = None) -> Measured:
    """Measure a model, beside its source where one is given. Raises NotGGUF, MeasureError."""
    for path in filter(None, (model, source)):
        gguf.check(path)
    command = [sys.executable, "-m", "local_models", "measure", str(model)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    more = ["--source", str(source)] if source else []
    done = subprocess.run([*command, *more], capture_output=True, env=environ)
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip()
        raise MeasureError(complaint or f"llama.cpp ended with status {done.returncode} on {model.name}")
    return msgspec.json.decode(done.stdout, type=Measured)


def measure_here(model: Path, source: Path | None = None, threads: int = 0, verbose: bool = False) -> Measured:
    """The same in this process."""
    loaded = _Loaded(model, threads or physical_cores(), verbose)
    quality = compare(loaded, _Loaded(source, threads or physical_cores(), verbose)) if source else None
    return Measured(model.stat().st_size, loaded.speeds(), quality)


def compare(model: _Loaded, source: _Loaded) -> Quality:
    """How far `model` is from `source` on the text that ships with this package."""
    tokens = source.tokenize(TEXT.read_text(encoding="utf-8"))
    if model.vocabulary != source.vocabulary:
        raise MeasureError(f"vocabularies of {model.vocabulary} and {source.vocabulary} tokens cannot be compared")
    sums, count = np.zeros(4), 0
    for start in range(0, len(tokens) - _SKIP - 1, _WINDOW):
        window = tokens[start : start + _WINDOW]
        if len(window) < 2 * _SKIP:
            break
        rows = np.arange(_SKIP, len(window) - 1)
        sums += _compared(model.logits(window)[rows], source.logits(window)[rows], np.array(window)[rows + 1])
        count += len(rows)
    divergence, same, loss, source_loss = (sums / count).tolist()
    return Quality(divergence, same, exp(loss), exp(source_loss), count)


def _compared(model: NDArray[np.float32], source: NDArray[np.float32], next_token: NDArray[Any]) -> NDArray[np.float64]:
    """Sums over the rows: divergence, same choices, negative log-likelihood of the text under both."""
    q, p = _log_softmax(model), _log_softmax(source)
    rows = np.arange(len(next_token))
    divergence = np.sum(np.exp(p) * (p - q))
    same = np.sum(model.argmax(axis=1) == source.argmax(axis=1))
    return np.array([divergence, same, -q[rows, next_token].sum(), -p[rows, next_token].sum()], np.float64)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


class _Loaded:
    """A model with a context for STREAMS[-1] sequences."""

    def __init__(self, path: Path, threads: int, verbose: bool) -> None:
        gguf.check(path)
        self._llama: Any = load_llama(verbose)
        self._llama.llama_backend_init()
        self._model = self._llama.llama_model_load_from_file(
            os.fsencode(path), self._llama.llama_model_default_params()
        )
        if not self._model:
            raise MeasureError(f"llama.cpp cannot load {path.name}")
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self.vocabulary: int = self._llama.llama_vocab_n_tokens(self._vocab)
        params = self._llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 1024, _WINDOW, _WINDOW
        params.n_seq_max, params.kv_unified = STREAMS[-1], True
        params.n_threads = params.n_threads_batch = threads
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise MeasureError(f"llama.cpp makes no context for {path.name}")
        self._batch = self._llama.llama_batch_init(_WINDOW, 0, 1)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode("utf-8")
        tokens = (self._llama.llama_token * (len(data) + 8))()
        count = self._llama.llama_tokenize(self._vocab, data, len(data), tokens, len(tokens), True, False)
        return list(tokens[:count])

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Of shape (tokens, vocabulary)."""
        self._forget()
        self._decode([(token, place, 0) for place, token in enumerate(tokens)], every=True)
        pointer = self._llama.llama_get_logits(self._context)
        size = len(tokens) * self.vocabulary
        held: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (size,))
        return held.reshape(len(tokens), self.vocabulary).copy()

    def speeds(self) -> Speeds:
        """The best of a few rounds each: whatever else runs on the machine only slows them down."""
        decoding = {str(streams): max(self._decoding(streams) for _ in range(_ROUNDS)) for streams in STREAMS}
        return Speeds(decoding, max(self._prefill() for _ in range(_ROUNDS)))

    def _decoding(self, streams: int) -> float:
        self._forget()
        self._decode([(self._token(stream), 0, stream) for stream in range(streams)])
        began = time.perf_counter()
        for step in range(1, _STEPS + 1):
            self._decode([(self._token(step + stream), step, stream) for stream in range(streams)])
            self._llama.llama_get_logits(self._context)
        return streams * _STEPS / (time.perf_counter() - began)

    def _prefill(self) -> float:
        self._forget()
        began = time.perf_counter()
        self._decode([(self._token(place), place, 0) for place in range(_PREFILL)])
        self._llama.llama_get_logits(self._context)
        return _PREFILL / (time.perf_counter() - began)

    def _token(self, number: int) -> int:
        # Which token it is does not matter to the time; only ordinary ones, past the control tokens.
        return min(1000, self.vocabulary // 2) + number % 97

    def _forget(self) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)

    def _decode(self, rows: list[tuple[int, int, int]], every: bool = False) -> None:
        batch = self._batch
        for at, (token, position, sequence) in enumerate(rows):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            # A prompt needs but its last token's logits, parallel streams need each.
            batch.logits[at] = every or at == len(rows) - 1 or rows[-1][2] != 0
        batch.n_tokens = len(rows)
        if status := self._llama.llama_decode(self._context, batch):
            raise MeasureError(f"llama_decode returned {status}")
