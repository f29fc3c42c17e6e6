"""What is kept of a prompt and its answer, where the policy says so: redacted or encrypted, bounded, with the row.

Of the messages, who said what and which tools were called; of parts that are no text, only that they were there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.redaction import Unclear, redact
from gateway.types import Content

if TYPE_CHECKING:
    from gateway.sealing import Seal
    from gateway.types import LedgerEntry
    from gateway.visit import Visit

MOST_BYTES = 128 * 1024
"""Of a prompt and its answer together, as JSON; what is longer is not kept."""
_AT_ONCE_BYTES = 8 * 1024  # more would hold up the loop
_PARTS = {"image_url": "[IMAGE]", "input_audio": "[AUDIO]", "file": "[FILE]"}
_ODD = (ValueError, AttributeError, TypeError, LookupError)


async def kept(visit: Visit, entry: LedgerEntry, seal: Seal | None) -> Content | None:
    """What the policy has kept of a request that was answered, as far as it was; None where that is nothing.

    What is to be encrypted is not kept where there is no key.
    """
    encrypted = visit.contents.keep == "encrypted"
    if not visit.contents.keeps or not visit.answered or (encrypted and seal is None):
        return None
    try:
        said = [*map(_shown, visit.request.messages), _answer(visit)]
    except _ODD:  # a body that nobody could read as messages
        return None
    size = len(msgspec.json.encode(said))
    if len(said[-1]) == 1 or size > MOST_BYTES:
        return None
    if encrypted and seal is not None:
        return seal.close(_content(visit, entry, said, "plain"))
    try:
        said = _redacted(said) if size <= _AT_ONCE_BYTES else await asyncio.to_thread(_redacted, said)
    except Unclear:
        return None
    return _content(visit, entry, said, "redacted")


def messages(content: Content) -> list[Any]:
    """The conversation with its answer, as messages; of a content that is not encrypted."""
    asked, answer = _decoded(content.prompt), _decoded(content.answer)
    before = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    return [*before, answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}]


def _decoded(value: bytes) -> Any:
    """JSON where it is that (messages, a message), else the text as it is."""
    if value[:1] in (b"[", b"{"):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            pass
    return value.decode(errors="replace")


def _content(visit: Visit, entry: LedgerEntry, said: Sequence[dict[str, Any]], form: str) -> Content:
    *prompt, answer = said
    return Content(
        request_id=entry.request_id,
        ts_ms=entry.ts_ms,
        expires_ms=entry.ts_ms + visit.contents.retention_s * 1000,
        prompt=msgspec.json.encode(prompt),
        answer=msgspec.json.encode(answer),
        form=form,
        organisation=entry.organisation,
        team=entry.team,
        key_id=entry.key_id,
        end_user=entry.end_user,
    )


def _answer(visit: Visit) -> dict[str, Any]:
    """The first choice as a message; its role alone where nothing was said."""
    if not visit.request.stream:
        message = msgspec.json.decode(visit.said[-1])["choices"][0]["message"] if visit.said else {}
    else:
        message = {"content": visit.text, "tool_calls": _joined(visit.said)}
    return _shown({**message, "role": "assistant"})


def _joined(events: Iterable[bytes]) -> list[dict[str, Any]]:
    """The tool calls that the events of a stream are pieces of."""
    calls: dict[int, dict[str, Any]] = {}
    for event in map(msgspec.json.decode, events):
        for choice in event["choices"]:
            pieces = (choice["delta"].get("tool_calls") or ()) if not choice.get("index") else ()
            for piece in pieces:
                call = calls.setdefault(piece.get("index", 0), {"function": {"name": "", "arguments": ""}})
                call["id"] = call.get("id") or piece.get("id")
                for name in call["function"]:
                    call["function"][name] += (piece.get("function") or {}).get(name) or ""
    return [calls[index] for index in sorted(calls)]


def _shown(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what is not known to be text: a participant's name, and whatever else a client may add."""
    shown: dict[str, Any] = {"role": str(message["role"])}
    if content := message.get("content"):
        shown["content"] = content if isinstance(content, str) else [*map(_part, content)]
    if calls := message.get("tool_calls"):
        shown["tool_calls"] = [*map(_call, calls)]
    return shown | {name: str(message[name]) for name in ("refusal", "tool_call_id") if message.get(name)}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    text = part["text"] if part.get("type") == "text" else _PARTS.get(str(part.get("type")), "[PART]")
    return {"type": "text", "text": str(text)}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    called = {name: str(function[name]) for name in ("name", "arguments")}
    return {"id": str(call.get("id") or ""), "type": "function", "function": called}


def _redacted(value: Any) -> Any:
    """Raises Unclear."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return {name: _redacted(each) for name, each in value.items()}
