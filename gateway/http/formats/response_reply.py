"""A chat's reply as OpenAI's response, plain and as its stream of events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.http import sse
from gateway.http.formats.fields import Object
from gateway.http.formats.spoken import Piece, Spoken
from gateway.types import ChatRequest

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What a piece is a part of: the kind of item, and of what is in it.
_ITEMS = {"thinking": "reasoning", "text": "message", "refusal": "message"}
_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
_PARTS = {"thinking": ("reasoning_text", "text"), "text": ("output_text", "text"), "refusal": ("refusal", "refusal")}


class ResponseReply:
    """An `Exchange`. ``echoed``: what the response repeats of its request."""

    def __init__(self, request: ChatRequest, echoed: Object) -> None:
        self.request = request
        self._echoed = echoed
        self._spoken = Spoken()
        self._items: list[Object] = []
        self._open = False
        self._number = 0
        self._failed = False
        self._began = int(time.time())

    def whole(self, body: bytes) -> bytes:
        for _ in self._told(self._spoken.whole(body)):
            pass
        for _ in self._close():
            pass
        return msgspec.json.encode(self._response(self._status(), ended=True))

    def event(self, data: bytes) -> bytes:
        pieces = list(self._spoken.hear(data))
        start = b"" if self._number else b"".join(self._start())
        told = start + b"".join(self._told(iter(pieces)))
        return told if self._spoken.error is None else told + self._error(self._spoken.error)

    def end(self, *, complete: bool) -> bytes:
        if not complete or self._failed:
            return b""
        start = b"" if self._number else b"".join(self._start())
        rest = b"".join((*self._told(self._spoken.rest()), *self._close()))
        status = self._status()
        return start + rest + self._event(f"response.{status}", response=self._response(status, ended=True))

    def _event(self, kind: str, **more: Any) -> bytes:
        data = msgspec.json.encode({"type": kind, "sequence_number": self._number, **more})
        self._number += 1
        return sse.named_event(kind, data)

    def _start(self) -> Iterator[bytes]:
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))

    def _response(self, status: str, *, ended: bool = False) -> Object:
        reason = _INCOMPLETE.get(self._spoken.finish) if status == "incomplete" else None
        return {
            "id": self._named("resp"),
            "object": "response",
            "created_at": self._spoken.created or self._began,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._spoken.model or self.request.model,
            "output": self._items if ended else [],
            "usage": self._usage() if ended and status != "failed" else None,
            "service_tier": self._spoken.tier or None,
            **self._echoed,
        }

    def _named(self, prefix: str) -> str:
        return f"{prefix}_{self.request.id.removeprefix('req_')}"

    def _status(self) -> str:
        return "incomplete" if self._spoken.finish in _INCOMPLETE else "completed"

    def _told(self, pieces: Iterator[Piece]) -> Iterator[bytes]:
        for piece in pieces:
            if piece.kind == "call":
                call = {"call_id": piece.id, "name": piece.name, "arguments": ""}
                yield from self._begin("function_call", call)
            elif piece.kind == "arguments":
                yield self._argued(piece.text)
            elif piece.kind in _PARTS:
                yield from self._said(piece)

    def _argued(self, text: str) -> bytes:
        """Calls' own items take what comes for them, whatever was begun since."""
        place = next(at for at in reversed(range(len(self._items))) if self._items[at]["type"] == "function_call")
        call = self._items[place]
        call["arguments"] += text
        return self._event("response.function_call_arguments.delta", item_id=call["id"], output_index=place, delta=text)

    def _said(self, piece: Piece) -> Iterator[bytes]:
        item, (kind, field) = _ITEMS[piece.kind], _PARTS[piece.kind]
        if not self._open or self._items[-1]["type"] != item:
            yield from self._begin(item, {"summary": []} if item == "reasoning" else {"role": "assistant"})
        parts = self._items[-1].setdefault("content", [])
        if not parts or parts[-1]["type"] != kind:
            yield from self._close_part()
            parts.append(
                {"type": kind, field: "", **({"annotations": [], "logprobs": []} if kind == "output_text" else {})}
            )
            yield self._event("response.content_part.added", **self._at(), part=dict(parts[-1]))
        parts[-1][field] += piece.text
        more = {}
        if kind == "output_text":
            parts[-1]["logprobs"] += piece.logprobs
            more = {"logprobs": piece.logprobs}
        yield self._event(f"response.{kind}.delta", **self._at(), delta=piece.text, **more)

    def _begin(self, kind: str, more: Object) -> Iterator[bytes]:
        yield from self._close()
        place = len(self._items)
        item = {"id": f"{self._named(_PREFIXES[kind])}_{place}", "type": kind, "status": "in_progress", **more}
        if kind != "function_call":
            item["content"] = []
        self._items.append(item)
        self._open = True
        yield self._event("response.output_item.added", output_index=place, item=item)

    def _at(self) -> Object:
        item = self._items[-1]
        place = len(self._items) - 1
        return {"item_id": item["id"], "output_index": place, "content_index": len(item["content"]) - 1}

    def _close_part(self) -> Iterator[bytes]:
        parts = self._items[-1].get("content")
        if not parts:
            return
        part = parts[-1]
        field = "refusal" if part["type"] == "refusal" else "text"
        more = {"logprobs": part["logprobs"]} if part["type"] == "output_text" else {}
        yield self._event(f"response.{part['type']}.done", **self._at(), **{field: part[field]}, **more)
        yield self._event("response.content_part.done", **self._at(), part=part)

    def _close(self) -> Iterator[bytes]:
        if not self._open:
            return
        self._open = False
        item, place = self._items[-1], len(self._items) - 1
        item["status"] = "incomplete" if self._spoken.finish in _INCOMPLETE else "completed"
        if item["type"] == "function_call":
            done = {"item_id": item["id"], "output_index": place, "name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", **done)
        else:
            yield from self._close_part()
        yield self._event("response.output_item.done", output_index=place, item=item)

    def _usage(self) -> Object:
        usage = self._spoken.usage
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            **self._spoken.costs,
        }

    def _error(self, error: Object) -> bytes:
        self._failed = True
        said = error.get("message")
        told = {"code": "server_error", "message": said if isinstance(said, str) else "the answer broke off"}
        failed = self._response("failed", ended=True) | {"error": told}
        return self._event("response.failed", response=failed)
