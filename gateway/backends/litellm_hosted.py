"""Every other provider, through litellm: the only file that imports it, on the first call that needs it."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator, Awaitable
from time import perf_counter
from typing import Any

import msgspec

from gateway.backends import connect, translate
from gateway.backends.http1 import DeadlinePassed, ReadTimeout
from gateway.backends.litellm_errors import translated
from gateway.backends.usage import merged, read_usage
from gateway.backends.wire import read_reply
from gateway.errors import UpstreamBroken
from gateway.types import ChatRequest, Chunk, Usage

# Read by litellm while it is imported: no price list from the network, no .env file, no chatter, and no retries of its
# own where it takes a bound of 0 for none given (embeddings), or has no bound (moderations).
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "DEFAULT_MAX_RETRIES": "0",
}

# How long data may stay unacknowledged on any of litellm's sockets, which all its targets share. litellm tries a
# connection twice, so a dead network is noticed after two of these.
CONNECT_BOUND_S = 1.0

# Fields of the client's body that become arguments of litellm. Others do not: among litellm's arguments are api_base,
# api_key, callbacks and mock_response, which are not the client's to give.
FORWARDED = frozenset(
    {
        *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "modalities", "n"),
        *("max_completion_tokens", "max_tokens", "parallel_tool_calls", "prediction", "presence_penalty", "seed"),
        *("reasoning_effort", "response_format", "service_tier", "stop", "temperature", "thinking", "tool_choice"),
        *("tools", "top_k", "top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
    }
)


class LiteLLMBackend:
    """One model as litellm names it (``anthropic/claude-sonnet-4-5``).

    Times as for `OpenAIBackend`, but that a dead network is noticed within 2 × CONNECT_BOUND_S with most providers.
    """

    def __init__(
        self,
        name: str,
        upstream_model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        connect_timeout: float = 2.0,
        first_byte_timeout: float = 120.0,
        timeout: float = 600.0,
    ) -> None:
        self.name = name
        self._model, self._base_url, self._api_key = upstream_model, base_url, api_key
        self._connect_timeout, self._first_byte_timeout, self._timeout_s = (
            connect_timeout,
            first_byte_timeout,
            timeout,
        )

    @property
    def probed(self) -> bool:
        """Whether `reachable` can tell anything: litellm alone knows where a provider without base_url is."""
        return self._base_url is not None

    async def chat(self, request: ChatRequest, *, timeout_s: float | None = None) -> AsyncGenerator[Chunk, None]:
        """See `protocols.Backend.chat`. Fields litellm does not know, or must not be given, are left out."""
        litellm = await asyncio.to_thread(imported)
        bounds = Bounds(self._first_byte_timeout, self._timeout_s, timeout_s)
        reply = await bounds.wait(self._complete(litellm, request))
        if not request.stream:
            yield _plain(reply)
            return
        stream = _Stream(reply)
        try:
            while (part := await bounds.wait(anext(reply, None), begun=stream.begun)) is not None:
                if chunk := stream.chunk(part):
                    yield chunk
        finally:
            await reply.aclose()

    async def reachable(self) -> bool:
        """Whether ``base_url`` answers at all; an unbilled probe."""
        if self._base_url is None:
            return False
        return await connect.reach(self._base_url, connect_timeout=self._connect_timeout) is not None

    async def close(self) -> None:
        """Nothing to do: litellm keeps its clients for the whole process and closes them at its end."""

    async def _complete(self, litellm: Any, request: ChatRequest) -> Any:
        import httpx  # litellm's, and as unwanted in a worker that never calls it

        given = {name: msgspec.json.decode(raw) for name, raw in request.fields.items() if name in FORWARDED}
        if request.stream:
            given["stream_options"] = {"include_usage": True}
        return await litellm.acompletion(
            model=self._model,
            messages=request.messages,
            stream=request.stream,
            api_key=self._api_key,
            base_url=self._base_url,
            timeout=httpx.Timeout(self._first_byte_timeout, connect=self._connect_timeout),
            max_retries=0,
            num_retries=0,
            drop_params=True,
            _skip_mcp_handler=True,  # else any use of tools needs litellm's proxy and its dependencies
            **given,
        )


class Bounds:
    """Waits for litellm no longer than allowed, and translates what it raises."""

    def __init__(self, wait_s: float, total_s: float, deadline_s: float | None) -> None:
        self._wait_s = wait_s
        self._deadline = deadline_s is not None and deadline_s < total_s
        self._ends = perf_counter() + (deadline_s if deadline_s is not None and self._deadline else total_s)

    async def wait(self, work: Awaitable[Any], *, begun: bool = False) -> Any:
        left = self._ends - perf_counter()
        try:
            async with asyncio.timeout(min(self._wait_s, left)) as bound:
                return await work
        except Exception as error:  # foreign code: litellm lets its providers' bugs through, whatever their class
            if bound.expired():
                late = DeadlinePassed() if self._deadline and left < self._wait_s else ReadTimeout()
                raise translate.in_reply(late, begun=begun, deadline=True) from error
            failure = translated(error)
            raise UpstreamBroken(failure.message) if begun else failure from error


class _Stream:
    """litellm's chunks as ours. It completes what upstream leaves open, which must not pass for upstream's word."""

    def __init__(self, reply: Any) -> None:
        self.begun = False
        self._reply = reply
        self._usage: Usage | None = None

    def chunk(self, part: Any) -> Chunk | None:
        value = part.model_dump(mode="json")
        choice = next(iter(value.get("choices") or ()), None) or {}
        if choice.get("finish_reason") and not self._finished():
            raise UpstreamBroken("upstream's stream ended before its answer did")
        if value.get("usage"):
            if not any(getattr(chunk, "usage", None) for chunk in self._reply.chunks):
                return None  # counted by litellm, reported by nobody
            value["usage"].pop("cost", None)
        delta = choice.get("delta") or {}
        tool_calls = bool(delta.get("tool_calls") or delta.get("function_call"))
        usage_only = bool(
            value.get("usage") and not (delta.get("content") or tool_calls or choice.get("finish_reason"))
        )
        if usage_only:
            value["choices"] = []
        self._usage = merged(self._usage, read_usage(value.get("usage"), tier=value.get("service_tier")))
        self.begun = True
        return Chunk(
            data=msgspec.json.encode(value),
            text=delta.get("content") or "",
            aside=_aside(delta),
            finish_reason=choice.get("finish_reason"),
            usage=self._usage if value.get("usage") else None,
            usage_only=usage_only,
            tool_calls=tool_calls,
        )

    def _finished(self) -> bool:
        return bool(self._reply.received_finish_reason or self._reply.intermittent_finish_reason)


def _aside(delta: dict[str, Any]) -> str:
    """What was generated besides the text."""
    functions = [call.get("function") or {} for call in delta.get("tool_calls") or ()]
    parts = [delta.get("reasoning_content"), *(function.get("arguments") for function in functions)]
    return "".join(part for part in parts if isinstance(part, str))


def _plain(reply: Any) -> Chunk:
    value = reply.model_dump(mode="json")
    (value.get("usage") or {}).pop("cost", None)
    chunk = read_reply(msgspec.json.encode(value))
    counted = chunk.usage and (chunk.usage.prompt_tokens or chunk.usage.completion_tokens)
    return chunk if counted else msgspec.structs.replace(chunk, usage=None)


def imported() -> Any:
    """litellm, imported (seconds, so never on the event loop) and made to keep to our rules."""
    os.environ.update(_ENVIRONMENT)
    litellm: Any = importlib.import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.disable_aiohttp_trust_env = True
    # For most providers litellm knows no timeout of connecting, only one of reading.
    http: Any = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    http.build_aiohttp_keepalive_socket_factory = lambda: connect.socket_factory(CONNECT_BOUND_S)
    return litellm
