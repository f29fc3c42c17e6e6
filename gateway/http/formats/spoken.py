"""A chat's reply as the pieces it is made of, plain or streamed: what every other format tells in its own words."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.backends.usage import read_usage
from gateway.types import Usage

Kind = Literal["thinking", "signature", "text", "refusal", "call", "arguments"]
_COSTS = ("cost_usd", "saved_usd")


class Piece(NamedTuple):
    """``call`` begins a tool call, of which ``arguments`` are the JSON in parts; one ends before another begins."""

    kind: Kind
    text: str = ""
    id: str = ""
    name: str = ""
    logprobs: tuple[Any, ...] = ()


class _Costly(msgspec.Struct):
    usage: dict[str, msgspec.Raw] | None = None


class _Call:
    def __init__(self, call_id: str) -> None:
        self.id, self.name, self.arguments = call_id, "", ""
        self.told = 0

    @property
    def whole(self) -> bool:
        """Whether its arguments are JSON as they stand."""
        try:
            msgspec.json.decode(self.arguments)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class Spoken:
    """What was said so far. ``stop`` is the sequence that ended it, where upstream tells (vLLM does)."""

    def __init__(self) -> None:
        self.model, self.created, self.finish, self.stop, self.tier = "", 0, "", "", ""
        self.usage = Usage(source="none")
        self.costs: dict[str, msgspec.Raw] = {}
        self.error: dict[str, Any] | None = None
        self.calls = 0
        self._by_index: dict[int, _Call] = {}
        self._waiting: list[_Call] = []
        self._open: _Call | None = None

    def whole(self, body: bytes) -> Iterator[Piece]:
        """The pieces of a plain reply."""
        yield from self._event(body, "message")
        yield from self.rest()

    def hear(self, data: bytes) -> Iterator[Piece]:
        """The pieces that one event of a stream brings."""
        yield from self._event(data, "delta")

    def rest(self) -> Iterator[Piece]:
        """What waited for a call to end that never did."""
        yield from self._tell(at_end=True)

    def _event(self, data: bytes, where: str) -> Iterator[Piece]:
        value = msgspec.json.decode(data)
        if value.get("error"):
            self.error = value["error"] if isinstance(value["error"], dict) else {"message": str(value["error"])}
            return
        self._head(value)
        if isinstance(value.get("usage"), dict):
            self._count(value["usage"], data)
        choice = next((one for one in value.get("choices") or () if one.get("index") in (0, None)), None)
        if choice is None:
            return
        self.finish = _text(choice.get("finish_reason")) or self.finish
        self.stop = _text(choice.get("stop_reason")) or self.stop
        yield from self._message(choice.get(where) or {}, choice.get("logprobs"))

    def _head(self, value: dict[str, Any]) -> None:
        self.model = _text(value.get("model")) or self.model
        self.tier = _text(value.get("service_tier")) or self.tier
        created = value.get("created")
        self.created = created if isinstance(created, int) else self.created

    def _count(self, usage: dict[str, Any], data: bytes) -> None:
        self.usage = read_usage(usage) or self.usage
        written = msgspec.json.decode(data, type=_Costly).usage or {}
        self.costs = {name: written[name] for name in _COSTS if name in written} or self.costs

    def _message(self, said: dict[str, Any], logprobs: Any) -> Iterator[Piece]:
        if thinking := _text(said.get("reasoning_content")) or _text(said.get("reasoning")):
            yield Piece("thinking", thinking)
        for signature in _signatures(said.get("thinking_blocks")):
            yield Piece("signature", signature)
        if text := _content(said.get("content")):
            known = logprobs.get("content") if isinstance(logprobs, dict) else None
            yield Piece("text", text, logprobs=tuple(known or ()))
        if refusal := _text(said.get("refusal")):
            yield Piece("refusal", refusal)
        calls = said.get("tool_calls")
        for place, delta in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(delta, dict) and isinstance(delta.get("function"), dict):
                yield from self._call(place, delta, delta["function"])

    def _call(self, place: int, delta: dict[str, Any], function: dict[str, Any]) -> Iterator[Piece]:
        index = delta.get("index")
        call = self._called(place if type(index) is not int else index, _text(delta.get("id")))
        call.name = call.name or _text(function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        call.arguments += _text(arguments)
        yield from self._tell()

    def _called(self, index: int, call_id: str) -> _Call:
        """The call a delta belongs to: Google's endpoint gives parallel calls one index and ids of their own."""
        known = self._by_index.get(index)
        if known is not None and (not call_id or call_id == known.id):
            return known
        call = _Call(call_id or f"call_{secrets.token_hex(12)}")
        self._by_index[index] = call
        self._waiting.append(call)
        self.calls += 1
        return call

    def _tell(self, *, at_end: bool = False) -> Iterator[Piece]:
        """Of calls whose parts come by turns, the later ones wait until those before them are whole."""
        yield from self._more()
        while self._waiting and (self._open is None or self._open.whole or at_end):
            self._open = self._waiting.pop(0)
            yield Piece("call", id=self._open.id, name=self._open.name)
            yield from self._more()

    def _more(self) -> Iterator[Piece]:
        call = self._open
        if call is not None and len(call.arguments) > call.told:
            told, call.told = call.told, len(call.arguments)
            yield Piece("arguments", call.arguments[told:])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _content(value: Any) -> str:
    parts = value if isinstance(value, list) else []
    return _text(value) + "".join(_text(part.get("text")) for part in parts if isinstance(part, dict))


def _signatures(blocks: Any) -> list[str]:
    """Anthropic's, by litellm."""
    found = [_text(block.get("signature")) for block in blocks or () if isinstance(block, dict)]
    return [signature for signature in found if signature]
