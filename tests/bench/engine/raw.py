"""A bare `llama_decode` loop over the same batch, in a process of its own: what the processor gives without an engine.

Reads `STREAMS TOKENS` lines, answers each with the seconds that decoding took (prompts not counted).
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

import numpy as np

from local_models.native import load_llama

PROMPT = "<|im_start|>user\nWrite a story about a dragon and a knight.<|im_end|>\n<|im_start|>assistant\n"


def main(path: str, threads: int) -> None:
    """Serve lines until standard input ends."""
    llama = load_llama()
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.kv_unified = 16384, 16, True
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    vocab = llama.llama_model_get_vocab(model)
    data, room = PROMPT.encode(), (llama.llama_token * 128)()
    prompt = list(room[: llama.llama_tokenize(vocab, data, len(data), room, 128, False, True)])
    batch = llama.llama_batch_init(512, 0, 1)
    print("ready", flush=True)
    for line in sys.stdin:
        streams, tokens = map(int, line.split())
        print(_decoded(llama, context, vocab, batch, prompt, streams, tokens), flush=True)


def _decoded(llama: Any, context: Any, vocab: Any, batch: Any, prompt: list[int], streams: int, tokens: int) -> float:
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    size = llama.llama_vocab_n_tokens(vocab)
    drawn = []
    for stream in range(streams):
        _fill(batch, [(token, at, stream, at == len(prompt) - 1) for at, token in enumerate(prompt)])
        assert llama.llama_decode(context, batch) == 0
        drawn.append(int(_rows(llama, context, 1, size)[0].argmax()))
    started = time.perf_counter()
    for step in range(tokens - 1):
        _fill(batch, [(drawn[stream], len(prompt) + step, stream, True) for stream in range(streams)])
        assert llama.llama_decode(context, batch) == 0
        drawn = _rows(llama, context, streams, size).argmax(1).tolist()
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
