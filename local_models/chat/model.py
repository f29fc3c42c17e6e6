"""One GGUF model in llama.cpp: its weights, its vocabulary and its chat template."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from local_models import gguf
from local_models.chat.template import ChatTemplate
from local_models.native import load_llama

# Bytes of a token in ordinary text, with room to spare: what is shorter need not be looked at closely.
_LIKELY_PIECE = 16


class LoadError(RuntimeError):
    """The file cannot be served; the message says why."""


class Model:
    """Loaded weights. `prompt` and `tokenize` are safe from any thread."""

    def __init__(self, path: Path, gpu_layers: int = 0, template: str | None = None, verbose: bool = False) -> None:
        """`gpu_layers`: how many layers Metal or CUDA holds, -1 all. `template` stands in for the GGUF's own.

        Raises NotGGUF, LoadError.
        """
        gguf.check(path)
        self.llama: Any = load_llama(verbose)
        self.llama.llama_backend_init()
        params = self.llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        self.handle = self.llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise LoadError(f"llama.cpp cannot load {path}")
        self.vocab = self.llama.llama_model_get_vocab(self.handle)
        self.vocabulary: int = self.llama.llama_vocab_n_tokens(self.vocab)
        self.trained_context: int = self.llama.llama_model_n_ctx_train(self.handle)
        self.bytes: int = self.llama.llama_model_size(self.handle)
        self.bos = self._special(self.llama.llama_vocab_bos(self.vocab))
        eos = self._special(self.llama.llama_vocab_eos(self.vocab))
        self.template = ChatTemplate(template or self._template_source(path), self.bos, eos)
        self.ends = frozenset(filter(self._ends, range(self.vocabulary)))
        self._pieces: dict[int, bytes] = {}
        # A row of logits, for whoever draws: memory that is not asked for anew with each token.
        self.scratch = np.empty(self.vocabulary, np.float32)
        self._buffer = ctypes.create_string_buffer(512)
        self._lock = threading.Lock()

    def _template_source(self, path: Path) -> str:
        source = self.llama.llama_model_chat_template(self.handle, None)
        if not source:
            raise LoadError(f"{path} carries no chat template: it is not an instruct model")
        return str(source.decode("utf-8"))

    def _special(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self.llama.llama_vocab_get_text(self.vocab, token).decode("utf-8"))

    def _ends(self, token: int) -> bool:
        return bool(self.llama.llama_vocab_is_eog(self.vocab, token))

    def prompt(
        self, messages: list[dict[str, Any]], tools: list[Any] | None = None, most: int | None = None
    ) -> list[int]:
        """Messages as the tokens the model was trained to continue. Raises TemplateRefused.

        Of a text that is certainly longer than `most` tokens only enough is read to say so: megabytes take seconds.
        """
        text = self.template.render(messages, tools)
        if most is not None and len(text) > most * _LIKELY_PIECE:
            text = text[: (most + 1) * self.longest_piece]
        if self.llama.llama_vocab_get_add_bos(self.vocab) and not text.startswith(self.bos):
            text = self.bos + text
        return self.tokenize(text)

    def tokenize(self, text: str) -> list[int]:
        """Tokens of `text`, special tokens read as such, none added."""
        data = text.encode("utf-8")
        room = len(data) + 8
        tokens = (self.llama.llama_token * room)()
        count = self.llama.llama_tokenize(self.vocab, data, len(data), tokens, room, False, True)
        return list(tokens[:count])

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token; often not whole characters. Control tokens have none, unless `special`."""
        key = ~token if special else token
        with self._lock:
            if (known := self._pieces.get(key)) is None:
                size = self.llama.llama_token_to_piece(self.vocab, token, self._buffer, 512, 0, special)
                known = self._pieces[key] = self._buffer.raw[: max(size, 0)]
        return known

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token."""
        return max(len(self.piece(token, special=True)) for token in range(self.vocabulary))

    def close(self) -> None:
        """Give the model's memory back."""
        self.llama.llama_model_free(self.handle)
