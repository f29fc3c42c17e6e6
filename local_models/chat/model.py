"""One GGUF model in llama.cpp: its context, its vocabulary and its sampler, over llama-cpp-python's low-level API."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from local_models import gguf
from local_models.chat.template import ChatTemplate
from local_models.native import load_llama, physical_cores

DEFAULT_CONTEXT = 8192
# A prompt is computed in pieces of this many tokens: a client's leaving is noticed between two of them.
PREFILL = 256


class LoadError(RuntimeError):
    """The file cannot be served; the message says why."""


class DecodeError(RuntimeError):
    """llama.cpp failed to compute a step."""


class Sampler(msgspec.Struct, frozen=True):
    """How a token is drawn. temperature 0 is greedy; neutral values (top_k 0, top_p 1 …) are left out of the chain."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0


class Model:
    """A loaded model with one sequence. `tokenize` and `prompt` are safe from any thread, the rest from one only."""

    def __init__(self, path: Path, context: int = 0, threads: int = 0, verbose: bool = False) -> None:
        """`context` in tokens: 0 is the model's own, at most DEFAULT_CONTEXT. `threads`: 0 is the physical cores.

        Raises NotGGUF, LoadError.
        """
        gguf.check(path)
        self._llama: Any = load_llama(verbose)
        self._llama.llama_backend_init()
        self._model = self._llama.llama_model_load_from_file(
            os.fsencode(path), self._llama.llama_model_default_params()
        )
        if not self._model:
            raise LoadError(f"llama.cpp cannot load {path}")
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self._context = self._new_context(context, threads or physical_cores())
        self._memory = self._llama.llama_get_memory(self._context)
        self.context_length: int = self._llama.llama_n_ctx(self._context)
        self.bos = self._special(self._llama.llama_vocab_bos(self._vocab))
        self.template = ChatTemplate(
            self._template_source(path), self.bos, self._special(self._llama.llama_vocab_eos(self._vocab))
        )
        self._buffer = ctypes.create_string_buffer(256)
        self._one = (self._llama.llama_token * 1)()

    def _new_context(self, context: int, threads: int) -> Any:
        trained = self._llama.llama_model_n_ctx_train(self._model)
        params = self._llama.llama_context_default_params()
        params.n_ctx = min(context or DEFAULT_CONTEXT, trained)
        params.n_batch = params.n_ubatch = PREFILL
        params.n_threads = params.n_threads_batch = threads
        made = self._llama.llama_init_from_model(self._model, params)
        if not made:
            raise LoadError(f"llama.cpp cannot make a context of {params.n_ctx} tokens; is there memory for it?")
        return made

    def _template_source(self, path: Path) -> str:
        source = self._llama.llama_model_chat_template(self._model, None)
        if not source:
            raise LoadError(f"{path} carries no chat template: it is not an instruct model")
        return str(source.decode("utf-8"))

    def _special(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self._llama.llama_vocab_get_text(self._vocab, token).decode("utf-8"))

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Messages as the tokens the model was trained to continue. Raises TemplateRefused."""
        text = self.template.render(messages)
        if self._llama.llama_vocab_get_add_bos(self._vocab) and not text.startswith(self.bos):
            text = self.bos + text
        return self.tokenize(text)

    def tokenize(self, text: str) -> list[int]:
        """Tokens of `text`, special tokens read as such, none added."""
        data = text.encode("utf-8")
        room = len(data) + 8
        tokens = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(self._vocab, data, len(data), tokens, room, False, True)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token; often not whole characters. Control tokens have none."""
        size = self._llama.llama_token_to_piece(self._vocab, token, self._buffer, 256, 0, False)
        return self._buffer.raw[: max(size, 0)]

    def ends(self, token: int) -> bool:
        """Whether this token ends the answer (eos, eot and the like, as the GGUF names them)."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def keep(self, count: int) -> bool:
        """Drop all but the first `count` tokens of the sequence. False: the model cannot, and everything is gone."""
        if self._llama.llama_memory_seq_rm(self._memory, 0, count, -1):
            return True
        self._llama.llama_memory_clear(self._memory, True)
        return False

    def decode(self, tokens: Sequence[int]) -> None:
        """Compute at most PREFILL tokens at the end of the sequence. Raises DecodeError."""
        if len(tokens) == 1:
            array = self._one
            array[0] = tokens[0]
        else:
            array = (self._llama.llama_token * len(tokens))(*tokens)
        status = self._llama.llama_decode(self._context, self._llama.llama_batch_get_one(array, len(tokens)))
        if status != 0:
            raise DecodeError(f"llama_decode answers {status}")

    def sampler(self, how: Sampler) -> Any:
        """A sampler chain; give it back to `free_sampler`."""
        llama = self._llama
        links = []
        if (how.repeat_penalty, how.frequency_penalty, how.presence_penalty) != (1, 0, 0):
            size = llama.llama_vocab_n_tokens(self._vocab)
            links.append(
                llama.llama_sampler_init_penalties(
                    size, 64, how.repeat_penalty, how.frequency_penalty, how.presence_penalty
                )
            )
        if how.temperature <= 0:
            links.append(llama.llama_sampler_init_greedy())
        else:
            links += [llama.llama_sampler_init_top_k(how.top_k)] if how.top_k > 0 else []
            links += [llama.llama_sampler_init_top_p(how.top_p, 1)] if how.top_p < 1 else []
            links += [llama.llama_sampler_init_min_p(how.min_p, 1)] if how.min_p > 0 else []
            links.append(llama.llama_sampler_init_temp(how.temperature))
            links.append(llama.llama_sampler_init_dist(how.seed))
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for link in links:
            llama.llama_sampler_chain_add(chain, link)
        return chain

    def sample(self, chain: Any) -> int:
        """Draw the next token from the logits of the last `decode`."""
        return int(self._llama.llama_sampler_sample(chain, self._context, -1))

    def free_sampler(self, chain: Any) -> None:
        """Give a sampler chain's memory back."""
        self._llama.llama_sampler_free(chain)

    def close(self) -> None:
        """Give the model's memory back."""
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)
