"""llama.cpp's context: the KV cells of many sequences, and steps over a batch of their tokens.

Keys and values are kept as Q8_0 under flash attention. That halves their memory, and it makes a token's logits
independent of what else is in the batch, of how the prompt was cut, and of where in the cache its cells lie: ggml's
other kernels for attention (split over threads for one query, tiled for 64 and more) sum in another order than the one
for a few queries, and are chosen only for F16 and F32. So the same request gives the same bits alone, in a crowd,
behind a reused prefix and with speculation; `Context.invariant` says whether that was seen to hold for the model.

What is left is the order of a sequence's own cells, which that one kernel sums along. llama.cpp gives out the lowest
free cells, so a cell freed while others run would make their next token come before their last. `bury` therefore hands
what is dropped to a sequence that nobody runs, and `rebuild` moves what is alive together, in order, which frees it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from local_models.chat.model import LoadError, Model

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]
State = npt.NDArray[np.uint8]

_Q8_0, _F16 = 8, 1
_FLASH_ON, _FLASH_AUTO = 1, -1
_NO_CELLS = 1


class DecodeError(RuntimeError):
    """llama.cpp failed to compute a step."""


class NoCells(DecodeError):
    """The KV cache has no room for the step; nothing of it was computed."""


class Shape(msgspec.Struct, frozen=True):
    """Sizes: KV `cells` shared by `sequences`; `batch` tokens, `outputs` rows of logits a step; compute `threads`."""

    cells: int
    sequences: int
    batch: int
    outputs: int
    threads: int


class Piece(msgspec.Struct, frozen=True):
    """Tokens of one sequence from `position` on; logits come for the last `outputs` of them."""

    sequence: int
    position: int
    tokens: Sequence[int] | Tokens
    outputs: int


class Share(msgspec.Struct, frozen=True):
    """A sequence whose first `length` tokens are those of `source`; -1 and 0 where it begins like no other."""

    sequence: int
    source: int = -1
    length: int = 0


class Context:
    """One context over a model; for one thread only."""

    def __init__(self, model: Model, shape: Shape, gpu: bool = False) -> None:
        """Raises LoadError where there is no memory for it."""
        self._llama: Any = model.llama
        self.shape, self.vocabulary = shape, model.vocabulary
        self.handle = exact = self._make(model, _FLASH_ON, _Q8_0, gpu)
        if not exact:
            self.handle = self._make(model, _FLASH_AUTO, _F16, gpu)
        if not self.handle:
            raise LoadError(f"llama.cpp cannot make a context of {shape.cells} tokens; is there memory for it?")
        self._memory = self._llama.llama_get_memory(self.handle)
        self._batch = _Batch(self._llama, shape.batch)
        self._grave, self._scratch, self.dead = shape.sequences, shape.sequences + 1, 0
        self._threads = shape.threads
        self.invariant, self.trims = self._probe() and bool(exact), self._trims()
        self.steady = not gpu and self._same_on_one_thread()

    def _make(self, model: Model, flash: int, kind: int, gpu: bool) -> Any:
        shape = self.shape
        params = self._llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = shape.cells, shape.sequences + 2, True
        params.n_batch = params.n_ubatch = shape.batch
        params.n_outputs_max = params.n_outputs_max_per_seq = shape.outputs
        params.n_threads = params.n_threads_batch = shape.threads
        params.flash_attn_type, params.type_k, params.type_v = flash, kind, kind
        params.offload_kqv, params.no_perf = gpu, True
        return self._llama.llama_init_from_model(model.handle, params)

    def decode(self, pieces: Sequence[Piece]) -> Logits:
        """Compute one step; the logits, float32 [rows, vocabulary], in the order of the pieces, valid until the next.

        Raises NoCells, DecodeError.
        """
        rows = self._batch.fill(pieces)
        status = self._llama.llama_decode(self.handle, self._batch.struct)
        if status == _NO_CELLS:
            raise NoCells("the KV cache is full")
        if status != 0:
            raise DecodeError(f"llama_decode answers {status}")
        address = ctypes.cast(self._llama.llama_get_logits(self.handle), ctypes.c_void_p).value if rows else None
        if not address:
            return np.empty((0, self.vocabulary), np.float32)
        flat = (ctypes.c_float * (rows * self.vocabulary)).from_address(address)
        return np.ctypeslib.as_array(flat).reshape(rows, self.vocabulary)

    def use(self, threads: int) -> None:
        """Compute the next steps on so many threads. The bits are the same where `steady`."""
        if threads != self._threads:
            self._llama.llama_set_n_threads(self.handle, threads, threads)
            self._threads = threads

    def bury(self, sequence: int, length: int) -> None:
        """Drop all but the first `length` tokens of a sequence. Where order counts only `rebuild` frees cells."""
        dropped = self.held(sequence) - length
        if dropped <= 0:
            return
        if self.invariant and self.trims:
            self._llama.llama_memory_seq_cp(self._memory, sequence, self._grave, length, -1)
            self.dead += dropped
        self._llama.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def cut(self, sequence: int, length: int) -> None:
        """Drop all but the first `length` tokens of a sequence and free their cells, whatever comes of their order."""
        self._llama.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def rebuild(self, shares: Sequence[Share]) -> None:
        """Put these sequences, and nothing else, at the beginning of the cache, each after the one it shares with.

        Raises DecodeError.
        """
        states = [self.save(each.sequence, each.length) for each in shares]
        self.clear()
        for each, state in zip(shares, states, strict=True):
            if each.length:
                self.copy(each.source, each.sequence, each.length)
            if not self.restore(each.sequence, state, behind=each.length > 0):
                raise DecodeError("llama.cpp does not take a sequence back")

    def save(self, sequence: int, start: int = 0) -> State:
        """The keys and values of a sequence from token `start` on, as llama.cpp writes them."""
        source = sequence
        if start:
            source = self._scratch
            self._llama.llama_memory_seq_cp(self._memory, sequence, source, start, -1)
        state = np.empty(self._llama.llama_state_seq_get_size(self.handle, source), np.uint8)
        size = self._llama.llama_state_seq_get_data(self.handle, _bytes(state), state.size, source)
        if start:
            self._llama.llama_memory_seq_rm(self._memory, source, -1, -1)
        return state[:size]

    def restore(self, sequence: int, state: State, behind: bool = False) -> bool:
        """Give a sequence what was saved: in place of what it has, or `behind` it. False where there is no room."""
        target = self._scratch if behind else sequence
        done = bool(self._llama.llama_state_seq_set_data(self.handle, _bytes(state), state.size, target))
        if behind:
            self._llama.llama_memory_seq_cp(self._memory, target, sequence, -1, -1)
            self._llama.llama_memory_seq_rm(self._memory, target, -1, -1)
        return done

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target`, which must be empty, begin with the first `length` tokens of `source`; they share the cells."""
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def held(self, sequence: int) -> int:
        """How many tokens llama.cpp itself says a sequence holds."""
        return int(self._llama.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def clear(self) -> None:
        """Forget every sequence."""
        self._llama.llama_memory_clear(self._memory, False)
        self.dead = 0

    def close(self) -> None:
        """Give the context's memory back."""
        self._llama.llama_free(self.handle)

    def _probe(self) -> bool:
        """Warm up, and see whether two tokens computed at once have the logits they have one by one."""
        tokens = [1, 2, 3, 4]
        self.decode([Piece(0, 0, tokens, 0)])
        single = [self.decode([Piece(0, 4 + at, [5 + at], 1)]).copy() for at in range(2)]
        self.clear()
        self.decode([Piece(0, 0, tokens[:3], 0)])
        self.decode([Piece(0, 3, tokens[3:], 0)])
        both = self.decode([Piece(0, 4, [5, 6], 2)])
        same = bool(np.array_equal(np.concatenate(single), both))
        self.clear()
        return same

    def _same_on_one_thread(self) -> bool:
        found = []
        for threads in (1, self.shape.threads):
            self.use(threads)
            self.decode([Piece(0, 0, [1, 2, 3, 4], 0)])
            found.append(self.decode([Piece(0, 4, [5, 6], 2)]).copy())
            self.clear()
        return bool(np.array_equal(found[0], found[1]))

    def _trims(self) -> bool:
        self.decode([Piece(0, 0, [1, 2, 3], 0)])
        can = bool(self._llama.llama_memory_seq_rm(self._memory, 0, 1, -1))
        self.clear()
        return can


def _bytes(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class _Batch:
    """A llama_batch whose arrays numpy fills."""

    def __init__(self, llama: Any, size: int) -> None:
        self._token, self._pos = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._count, self._sequence = np.ones(size, np.int32), np.zeros(size, np.int32)
        self._logits = np.zeros(size, np.int8)
        first = self._sequence.ctypes.data
        self._pointers = first + np.arange(size, dtype=np.uint64) * 4
        self.struct = llama.llama_batch()
        for field, array in (
            ("token", self._token), ("pos", self._pos), ("n_seq_id", self._count), ("seq_id", self._pointers),
            ("logits", self._logits),
        ):  # fmt: skip
            kind = dict(self.struct._fields_)[field]
            setattr(self.struct, field, ctypes.cast(array.ctypes.data, kind))

    def fill(self, pieces: Sequence[Piece]) -> int:
        """Lay the pieces out one after another; how many rows of logits they ask for."""
        at = rows = 0
        for piece in pieces:
            count, end = len(piece.tokens), at + len(piece.tokens)
            self._token[at:end] = piece.tokens
            self._pos[at:end] = range(piece.position, piece.position + count) if count > 1 else piece.position
            self._sequence[at:end] = piece.sequence
            self._logits[at:end] = 0
            self._logits[end - piece.outputs : end] = 1
            rows += piece.outputs
            at = end
        self.struct.n_tokens = at
        return rows
