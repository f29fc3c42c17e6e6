"""OpenAI's chat wire format: a request to bytes, bytes to chunks. No I/O.

Only what this gateway acts on is parsed, leniently; what travels on is upstream's own bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from gateway.backends.sse import EventTooLarge, SSEParser
from gateway.backends.usage import merged, read_usage
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from gateway.types import ChatRequest, Chunk, Signals, Usage

_ABSENT = frozenset({b"", b"null", b"[]"})
_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')
_NOTHING = msgspec.Raw()
_UNBILLED = Usage(source="none")


class _Message(msgspec.Struct):
    """``message`` of a plain reply, ``delta`` of a stream."""

    content: Any = None
    tool_calls: msgspec.Raw = _NOTHING
    function_call: msgspec.Raw = _NOTHING
    reasoning_content: Any = None
    reasoning: Any = None

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        parts = self.content if isinstance(self.content, list) else []
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))

    def calls_tools(self) -> bool:
        return bytes(self.tool_calls) not in _ABSENT or bytes(self.function_call) not in _ABSENT

    def aside(self) -> str:
        """What was generated besides the text: reasoning and the arguments of calls."""
        parts = [self.reasoning_content or self.reasoning]
        if self.calls_tools():
            parts += _arguments(self.tool_calls) + _arguments(self.function_call)
        return "".join(part for part in parts if isinstance(part, str))


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: Any = None
    usage: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    timings: Any = None
    service_tier: Any = None
    error: Any = None
    confidence: Any = None
    confidence_details: Any = None

    def sure(self) -> float | None:
        """An extension of local engines: how sure the model is of the answer so far."""
        return float(self.confidence) if isinstance(self.confidence, int | float) else None

    def weighed(self) -> int:
        """How many tokens it is sure of that much."""
        details = self.confidence_details
        tokens = details.get("tokens") if isinstance(details, dict) else None
        return tokens if isinstance(tokens, int) else 0

    def signals(self) -> Signals | None:
        """What that is made of, over the beginning of the answer."""
        details = self.confidence_details
        if not isinstance(details, dict):
            return None
        try:
            return msgspec.convert(details.get("opening") or details, Signals)
        except msgspec.ValidationError:
            return None

    def reported(self, tier: Any = None) -> Usage | None:
        """Usage wherever the event holds it: Moonshot streams it in a choice. ``tier``: as an earlier event said."""
        usage = self.usage
        if usage is None and self.choices:
            usage = next((choice.usage for choice in self.choices if choice.usage), None)
        if usage is None and self.timings is None:
            return None
        return read_usage(usage, self.timings, self.service_tier or tier)


_decode = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode


def request_body(request: ChatRequest, model: str, strip: tuple[str, ...] = ()) -> bytes:
    """The client's body with upstream's model name, usage always asked of a stream, and without ``strip``.

    Every other field keeps its bytes and its place.
    """
    fields: dict[str, Any] = dict(request.fields)
    fields["model"] = model
    if request.stream:
        fields["stream_options"] = _with_usage(request.fields.get("stream_options"))
    for name in strip:
        fields.pop(name, None)
    return _encode(fields)


def _with_usage(options: msgspec.Raw | None) -> Any:
    if options is None or not bytes(options).startswith(b"{"):
        return _INCLUDE_USAGE
    return {**msgspec.json.decode(options, type=dict[str, msgspec.Raw]), "include_usage": True}


def read_reply(body: bytes) -> Chunk:
    """A plain reply as one final chunk; ``text`` and ``finish_reason`` are the first choice's.

    Raises:
        UpstreamBroken: the body is not a chat completion.
        UpstreamUnavailable: it is an error under a status of success.
    """
    event = _parsed(body)
    if event.error and not event.choices:
        raise reported(event.error, event.reported())
    if event.choices is None:
        nothing = UpstreamBroken("upstream's reply has no choices")
        nothing.used = event.reported()
        raise nothing
    said = _said(event.choices)
    return Chunk(
        data=body,
        text=said.text,
        aside=said.aside,
        finish_reason=said.finish_reason,
        usage=event.reported(),
        tool_calls=said.tool_calls,
        final=True,
        confidence=event.sure(),
        confident_tokens=event.weighed(),
        signals=event.signals(),
    )


class ReplyStream:
    """A streamed reply. ``done`` once nothing more can come: [DONE], or an error upstream reported."""

    def __init__(self) -> None:
        self.done = False
        self.begun = False
        self._parser = SSEParser()
        self._usage: Usage | None = None
        self._tier: Any = None
        self._finished = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that ``data`` completes; no data is the end of the stream.

        Raises:
            UpstreamBroken: an event is not JSON or too large, or the stream ended before its answer did.
            UpstreamUnavailable: the very first event is an error: another target may still answer.
        """
        try:
            events = self._parser.feed(data) if data else self._parser.end()
        except EventTooLarge as error:
            raise UpstreamBroken(f"upstream's stream cannot be read: {error}") from None
        for event in events:
            if event == b"[DONE]":
                self.done = True
                if not self.begun:
                    raise UpstreamBroken("upstream's stream held nothing")
                return
            yield self._chunk(event)
            if self.done:
                return
        if not data:
            self.done = True
            if not self._finished:
                raise UpstreamBroken("upstream's stream ended before its answer did")

    def _chunk(self, data: bytes) -> Chunk:
        event = _parsed(data)
        if event.error:
            return self._failed(data, event)
        self.begun = True
        said = _said(event.choices or [])
        self._finished = self._finished or said.finish_reason is not None
        self._tier = event.service_tier or self._tier
        usage = event.reported(self._tier)
        if usage:
            self._usage = usage = merged(self._usage, usage)
        return Chunk(
            data=data.replace(b"\n", b" ") if b"\n" in data else data,
            text=said.text,
            aside=said.aside,
            finish_reason=said.finish_reason,
            usage=usage,
            usage_only=not event.choices and usage is not None,
            tool_calls=said.tool_calls,
            confidence=event.sure(),
            confident_tokens=event.weighed(),
            signals=event.signals(),
        )

    def _failed(self, data: bytes, event: _Event) -> Chunk:
        failure = reported(event.error, event.reported(self._tier))
        if not self.begun:
            raise failure
        self.done = True
        return Chunk(data=data.replace(b"\n", b" "), error=failure.message)


def _parsed(data: bytes) -> _Event:
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamBroken(f"upstream's reply cannot be read: {error}") from None


class _Said(NamedTuple):
    """``text`` of the first choice, the first finish reason, whether tools are called; ``aside``: all else."""

    text: str
    finish_reason: str | None
    tool_calls: bool
    aside: str


def _said(choices: list[_Choice]) -> _Said:
    text, aside, finish_reason, tool_calls = "", "", None, False
    for choice in choices:
        message = choice.delta or choice.message
        if message is not None:
            if choice.index == 0 or choice.index is None:
                text += message.text()
            else:
                aside += message.text()
            aside += message.aside()
            tool_calls = tool_calls or message.calls_tools()
        if finish_reason is None and isinstance(choice.finish_reason, str) and choice.finish_reason:
            finish_reason = choice.finish_reason
    return _Said(text, finish_reason, tool_calls, aside)


def _arguments(calls: msgspec.Raw) -> list[Any]:
    """Names and arguments of tool calls, or of the one function call of old."""
    if bytes(calls) in _ABSENT:
        return []
    given = msgspec.json.decode(calls)
    functions = (
        [call.get("function") for call in given if isinstance(call, dict)] if isinstance(given, list) else [given]
    )
    return [function.get(key) for function in functions if isinstance(function, dict) for key in ("name", "arguments")]


def reported(error: Any, used: Usage | None = None) -> UpstreamError:
    """An error that came under a status of success, in a body or as an event: billed only if it says what was used."""
    status = error.get("code") if isinstance(error, dict) else None
    failure = UpstreamUnavailable(
        error_message(error), upstream_status=status if type(status) is int and 400 <= status < 600 else None
    )
    failure.used = used or _UNBILLED
    return failure


def error_message(error: Any) -> str:
    """The words in an ``error`` value: OpenAI's object, or a string."""
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else "upstream reported an error"
