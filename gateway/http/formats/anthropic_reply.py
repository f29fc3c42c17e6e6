"""A chat's reply as Anthropic's message, plain and as its stream of events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.features import prompt_texts
from gateway.http import sse
from gateway.http.formats.fields import Object
from gateway.http.formats.spoken import Piece, Spoken
from gateway.tokens import estimate_tokens
from gateway.types import ChatRequest

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_BLOCKS: dict[str, Object] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": ""},
}
# What a piece adds, by its kind: the type of the delta, its field, and the block it belongs to.
_DELTAS = {
    "thinking": ("thinking_delta", "thinking", "thinking"),
    "signature": ("signature_delta", "signature", "thinking"),
    "text": ("text_delta", "text", "text"),
    "refusal": ("text_delta", "text", "text"),
    "arguments": ("input_json_delta", "partial_json", "tool_use"),
}


class MessageReply:
    """An `Exchange`. ``stops``: the sequences the client named."""

    def __init__(self, request: ChatRequest, stops: tuple[str, ...] = ()) -> None:
        self.request = request
        self._stops = stops
        self._spoken = Spoken()
        self._started = self._failed = self._refused = False
        self._open = ""
        self._index = self._call = -1

    def whole(self, body: bytes) -> bytes:
        blocks: list[Object] = []
        for piece in self._spoken.whole(body):
            self._refused = self._refused or piece.kind == "refusal"
            _add(blocks, piece)
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = _input(block["input"])
        ended = {"content": blocks, **self._ending(), "usage": self._usage()}
        return msgspec.json.encode(self._message() | ended)

    def event(self, data: bytes) -> bytes:
        told = b"".join(self._told(self._spoken.hear(data)))
        if self._spoken.error is not None:
            return told + self._error(self._spoken.error)
        return self._start() + told

    def end(self, *, complete: bool) -> bytes:
        if not complete or self._failed:
            return b""
        start = self._start()
        rest = b"".join((*self._told(self._spoken.rest()), *self._close()))
        delta = _event("message_delta", delta=self._ending(), usage=self._usage())
        return start + rest + delta + _event("message_stop")

    def _message(self) -> Object:
        return {
            "id": f"msg_{self.request.id.removeprefix('req_')}",
            "type": "message",
            "role": "assistant",
            "model": self._spoken.model or self.request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _start(self) -> bytes:
        """The prompt is estimated: what it really had is known, and told, at the end."""
        if self._started:
            return b""
        self._started = True
        usage = {"input_tokens": estimated_tokens(self.request), "output_tokens": 0}
        caching = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        return _event("message_start", message=self._message() | {"usage": usage | caching})

    def _told(self, pieces: Iterator[Piece]) -> Iterator[bytes]:
        for piece in pieces:
            self._refused = self._refused or piece.kind == "refusal"
            if piece.kind == "call":
                yield from self._begin("tool_use", _call_block(piece))
                self._call = self._index
                continue
            kind, field, block = _DELTAS[piece.kind]
            if block != self._open and block in _BLOCKS:
                yield from self._begin(block, _BLOCKS[block])
            index = self._call if block == "tool_use" else self._index
            yield _event("content_block_delta", index=index, delta={"type": kind, field: piece.text})

    def _begin(self, kind: str, block: Object) -> Iterator[bytes]:
        yield from self._close()
        self._index += 1
        self._open = kind
        yield _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> Iterator[bytes]:
        if self._open:
            self._open = ""
            yield _event("content_block_stop", index=self._index)

    def _ending(self) -> Object:
        """Clients run tools only where the reason is that they are called, whatever upstream gave for one."""
        reason = _STOPS.get(self._spoken.finish, "end_turn")
        if self._refused and reason == "end_turn":
            reason = "refusal"
        if self._spoken.calls and reason == "end_turn":
            reason = "tool_use"
        if reason == "end_turn" and self._spoken.stop in self._stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": self._spoken.stop}
        return {"stop_reason": reason, "stop_sequence": None}

    def _usage(self) -> Object:
        """Anthropic counts what was read from or written to a provider's cache beside the rest of the prompt."""
        usage = self._spoken.usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens,
            "cache_creation_input_tokens": usage.cache_write_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
            "service_tier": "priority" if self._spoken.tier == "priority" else "standard",
            **self._spoken.costs,
        }

    def _error(self, error: Object) -> bytes:
        self._failed = True
        said = error.get("message")
        told = {"type": "api_error", "message": said if isinstance(said, str) else "the answer broke off"}
        return _event("error", error=told | {"code": error.get("code")}, request_id=self.request.id)


def estimated_tokens(request: ChatRequest) -> int:
    texts, rest = prompt_texts(request)
    return rest + sum(map(estimate_tokens, texts))


def _call_block(piece: Piece) -> Object:
    return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}


def _add(blocks: list[Object], piece: Piece) -> None:
    """Put a piece of a plain reply to its block; a call's input is the text of its arguments for now."""
    if piece.kind == "call":
        blocks.append(_call_block(piece) | {"input": ""})
        return
    _, field, block = _DELTAS[piece.kind]
    field = "input" if block == "tool_use" else field
    if not blocks or blocks[-1]["type"] != block:
        blocks.append(dict(_BLOCKS[block]))
    blocks[-1][field] += piece.text


def _input(arguments: str) -> Any:
    """An object, as Anthropic has it; what is none is kept under the name it has in a chat."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _event(kind: str, **more: Any) -> bytes:
    return sse.named_event(kind, msgspec.json.encode({"type": kind, **more}))
