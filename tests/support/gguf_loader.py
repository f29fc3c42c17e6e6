"""`python -m tests.support.gguf_loader`: for each path on its input, a line that says how far llama.cpp got with it.

What llama.cpp asserts ends the process: that is what whoever asks is looking for.
"""

from __future__ import annotations

import sys
from pathlib import Path

from local_models.chat.model import LoadError, Model
from local_models.gguf import NotGGUF


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        print("answer:", tried(Path(line.strip())), flush=True)


def tried(path: Path) -> str:
    """Check, load, and decode a few tokens, as the chat engine does."""
    try:
        model = Model(path)
    except (NotGGUF, LoadError) as error:
        return type(error).__name__
    try:
        return decoded(model)
    finally:
        model.close()


def decoded(model: Model) -> str:
    llama = model.llama
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max, params.kv_unified = 64, 32, 32, 4, True
    params.n_threads = params.n_threads_batch = 1
    context = llama.llama_init_from_model(model.handle, params)
    if not context:
        return "no context"
    tokens = model.tokenize("hello ab")[:8] or [1]
    batch = llama.llama_batch_init(32, 0, 1)
    for at, token in enumerate(tokens):
        batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = token, at, 1, 0, 1
    batch.n_tokens = len(tokens)
    status = llama.llama_decode(context, batch)
    for token in range(min(model.vocabulary, 20)):
        model.piece(token, special=True)
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    return f"decoded {status}"


if __name__ == "__main__":
    main()
