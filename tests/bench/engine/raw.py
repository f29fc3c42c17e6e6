"""A bare `llama_decode` loop over the same batch, in a process of its own: what the processor gives without an engine.

The same prompts as the engine gets, greedy, in llama.cpp's default context. Reads `STREAMS TOKENS` lines, answers each
with the seconds that decoding took (prompts not counted).
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from local_models.chat.model import Model
from tests.bench.engine.client import chapters


def main(path: str, threads: int) -> None:
    """Serve lines until standard input ends."""
    model = Model(Path(path))
    llama = model.llama
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.kv_unified = 16384, 16, True
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model.handle, params)
    batch = llama.llama_batch_init(512, 0, 1)
    print("ready", flush=True)
    for line in sys.stdin:
        streams, tokens = map(int, line.split())
        prompts = [model.prompt([{"role": "user", "content": text}]) for text in chapters(streams)]
        print(_decoded(model, context, batch, prompts, tokens), flush=True)


def _decoded(model: Model, context: Any, batch: Any, prompts: list[list[int]], tokens: int) -> float:
    llama, size, drawn = model.llama, model.vocabulary, []
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    for stream, prompt in enumerate(prompts):
        _fill(batch, [(token, at, stream, at == len(prompt) - 1) for at, token in enumerate(prompt)])
        assert llama.llama_decode(context, batch) == 0
        drawn.append(int(_rows(llama, context, 1, size)[0].argmax()))
    started = time.perf_counter()
    for step in range(tokens - 1):
        _fill(batch, [(drawn[at], len(prompt) + step, at, True) for at, prompt in enumerate(prompts)])
        assert llama.llama_decode(context, batch) == 0
        drawn = _rows(llama, context, len(prompts), size).argmax(1).tolist()
    return time.perf_counter() - started


def _fill(batch: Any, rows: list[tuple[int, int, int, bool]]) -> None:
    for at, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
        batch.seq_id[at][0], batch.logits[at] = sequence, wanted
    batch.n_tokens = len(rows)


def _rows(llama: Any, context: Any, count: int, size: int) -> Any:
    pointer = ctypes.cast(llama.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, (count, size))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
