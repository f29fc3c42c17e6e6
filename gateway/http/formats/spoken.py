"""A chat's reply as the pieces it is made of, plain or streamed: what every other format tells in its own words."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.backends.usage import read_usage
from gateway.types import Usage

Kind = Literal["thinking", "signature", "text", "refusal", "call", "arguments"]
_ADDED = ("cost_usd", "saved_usd", "estimated")  # by the gateway, to any usage


class Piece(NamedTuple):
    """``call`` begins a tool call, of which ``arguments`` are the JSON in parts; one ends before another begins."""

    kind: Kind
    text: str = ""
    id: str = ""
    name: str = ""
    logprobs: tuple[Any, ...] = ()


class _Reply(msgspec.Struct):
    """What is read of a reply or of an event."""

    choices: list[dict[str, Any]] | None = None
    model: Any = None
    created: Any = None
    service_tier: Any = None
    usage: Any = None
    error: Any = None


class _Costly(msgspec.Struct):
    usage: dict[str, msgspec.Raw] | None = None


_reply, _costly = msgspec.json.Decoder(_Reply), msgspec.json.Decoder(_Costly)


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
        reply = _reply.decode(data)
        if reply.error:
            self.error = reply.error if isinstance(reply.error, dict) else {"message": str(reply.error)}
            return
        self._head(reply)
        if isinstance(reply.usage, dict):
            self._count(reply.usage, data)
        choice = next((one for one in reply.choices or () if one.get("index") in (0, None)), None)
        if choice is None:
            return
        self.finish = _text(choice.get("finish_reason")) or self.finish
        self.stop = _text(choice.get("stop_reason")) or self.stop
        yield from self._message(choice.get(where) or {}, choice.get("logprobs"))

    def _head(self, reply: _Reply) -> None:
        self.model = _text(reply.model) or self.model
        self.tier = _text(reply.service_tier) or self.tier
        self.created = reply.created if isinstance(reply.created, int) else self.created

    def _count(self, usage: dict[str, Any], data: bytes) -> None:
        self.usage = read_usage(usage) or self.usage
        written = _costly.decode(data).usage or {}
        self.costs = {name: written[name] for name in _ADDED if name in written} or self.costs

    def _message(self, said: dict[str, Any], logprobs: Any) -> Iterator[Piece]:
        if thinking := _text(said.get("reasoning_content")) or _text(said.get("reasoning")):
            yield Piece("thinking", thinking)
        for signature in _signatures(said.get("thinking_blocks")):
            yield Piece("signature", signature)
        if text := _content(said.get("content")):
            known = logprobs.get("content") if isinstance(logprobs, dict) else None
            yield Piece("text", text, logprobs=tuple(listed(known)))
        if refusal := _text(said.get("refusal")):
            yield Piece("refusal", refusal)
        for place, delta in enumerate(listed(said.get("tool_calls"))):
            if isinstance(delta.get("function"), dict):
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


def listed(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, whatever else an upstream puts there."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _content(value: Any) -> str:
    return _text(value) + "".join(_text(part.get("text")) for part in listed(value))


def _signatures(blocks: Any) -> list[str]:
    """Anthropic's, by litellm."""
    found = [_text(block.get("signature")) for block in listed(blocks)]
    return [signature for signature in found if signature]
