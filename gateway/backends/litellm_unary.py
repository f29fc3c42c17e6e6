"""Embeddings and moderations of every other provider, through litellm as `litellm_hosted` imports it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from gateway.backends.litellm_hosted import Bounds, LiteLLMBackend, imported
from gateway.backends.unary import Operation, read_unary
from gateway.types import ChatRequest, Chunk

# Fields of the client's body that become arguments of litellm, as in `litellm_hosted`. What is left out stays left out:
# some providers refuse an encoding_format of null, some any.
FORWARDED = {"embeddings": ("input", "dimensions", "encoding_format", "user"), "moderations": ("input",)}


class LiteLLMUnary(LiteLLMBackend):
    """One model as litellm names it, for one operation."""

    def __init__(self, operation: Operation, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._operation = operation

    async def chat(self, request: ChatRequest, *, timeout_s: float | None = None) -> AsyncGenerator[Chunk, None]:
        """See `protocols.Backend.chat`; the reply is one chunk."""
        litellm = await asyncio.to_thread(imported)
        bounds = Bounds(self._first_byte_timeout, self._timeout_s, timeout_s)
        value = (await bounds.wait(self._ask(litellm, request))).model_dump(mode="json", exclude_none=True)
        (value.get("usage") or {}).pop("cost", None)
        chunk = read_unary(msgspec.json.encode(value))
        counted = chunk.usage is not None and chunk.usage.prompt_tokens > 0
        yield chunk if counted else msgspec.structs.replace(chunk, usage=None)

    async def _ask(self, litellm: Any, request: ChatRequest) -> Any:
        wanted = FORWARDED[self._operation]
        given = {name: msgspec.json.decode(raw) for name, raw in request.fields.items() if name in wanted}
        ask = litellm.aembedding if self._operation == "embeddings" else litellm.amoderation
        return await ask(
            model=self._model,
            api_key=self._api_key,
            api_base=self._base_url,
            timeout=self._first_byte_timeout,
            max_retries=0,
            num_retries=0,
            drop_params=True,
            **{name: value for name, value in given.items() if value is not None},
        )
