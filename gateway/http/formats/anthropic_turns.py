"""Anthropic's turns as a chat's messages: text, images, documents, calls of tools and their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from gateway.http.formats.fields import SHOWN_NEXT, Object, objects, plain, returned_by, text_of, unsupported, wrong

_ROLES = ("user", "assistant", "system")
# What providers of chats refuse to see in a message, and Anthropic, through litellm, does not.
_ANTHROPICS_OWN = ("cache_control", "thinking_blocks")


def turns(system: Any, messages: Iterable[Object]) -> list[Object]:
    """The conversation with all that Anthropic itself can read of it.

    Raises:
        InvalidRequest: naming the block.
    """
    said: list[Object] = []
    if system:
        said.append({"role": "system", "content": _text(system, "system")})
    for place, message in enumerate(messages):
        said += _turn(message, f"messages[{place}]")
    return said


def for_others(said: list[Object]) -> list[Object]:
    """The same without what only Anthropic can read."""
    return [_for_others(message) for message in said]


def _for_others(message: Object) -> Object:
    found = {name: value for name, value in message.items() if name not in _ANTHROPICS_OWN}
    if isinstance(content := found.get("content"), list):
        parts = [{name: value for name, value in part.items() if name != "cache_control"} for part in content]
        found["content"] = plain(parts)
    return found


def asked(message: Object) -> str | None:
    """The text of a user's turn that is nothing else; None of any other."""
    content = plain(content) if isinstance(content := message.get("content"), list) else content
    return content if isinstance(content, str) and message.keys() == {"role", "content"} else None


def _turn(message: Object, at: str) -> Iterator[Object]:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise wrong(f"{at}.role", "user or assistant")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    blocks = list(objects(content, f"{at}.content"))
    if not blocks and role == "user":
        raise wrong(f"{at}.content", "something to answer")
    if role == "assistant":
        yield _answer(blocks)
    elif role == "system":
        yield {"role": "system", "content": _text(content, f"{at}.content")}
    else:
        yield from _users(blocks)


def _text(value: Any, at: str) -> str | list[Object]:
    if isinstance(value, str):
        return value
    return plain([_text_part(block, where) for where, block in objects(value, at)])


def _text_part(block: Object, at: str) -> Object:
    if block.get("type") != "text":
        raise unsupported(f"{at}.type", "a block that is not text")
    return _with_breakpoint({"type": "text", "text": text_of(block, "text", at)}, block)


def _with_breakpoint(part: Object, block: Object) -> Object:
    mark = block.get("cache_control")
    return {**part, "cache_control": mark} if isinstance(mark, dict) else part


def _answer(blocks: Iterable[tuple[str, Object]]) -> Object:
    """An assistant's turn: one message, whatever order its blocks stand in."""
    parts: list[Object] = []
    calls: list[Object] = []
    thoughts: list[Object] = []
    for at, block in blocks:
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(_call(block, at))
        elif kind == "redacted_thinking" or (kind == "thinking" and block.get("signature")):
            thoughts.append(block)
        elif kind != "thinking":
            parts.append(_text_part(block, at))
    message: Object = {"role": "assistant", "content": plain(parts) if parts else None if calls else ""}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["thinking_blocks"] = thoughts
    return message


def _call(block: Object, at: str) -> Object:
    function = {
        "name": text_of(block, "name", at),
        "arguments": msgspec.json.encode(block.get("input") or {}).decode(),
    }
    return {"id": text_of(block, "id", at), "type": "function", "function": function}


def _users(blocks: Iterable[tuple[str, Object]]) -> Iterator[Object]:
    """A user's turn: results of tools first, as a chat wants them right after their calls, then what else it holds."""
    parts: list[Object] = []
    images: list[Object] = []
    for at, block in blocks:
        if block.get("type") == "tool_result":
            result, seen = _result(block, at)
            yield result
            images += seen
        else:
            parts.append(_part(block, at))
    if images or parts:
        yield {"role": "user", "content": plain([*images, *parts])}


def _result(block: Object, at: str) -> tuple[Object, list[Object]]:
    """The message of a tool, and its images, which a chat takes from users only."""
    call_id = text_of(block, "tool_use_id", at)
    held = block.get("content")
    parts = [] if held is None else [{"type": "text", "text": held}] if isinstance(held, str) else _parts(held, at)
    texts = [part for part in parts if part["type"] == "text"]
    others = [part for part in parts if part["type"] != "text"]
    if block.get("is_error"):
        texts.insert(0, {"type": "text", "text": "Error: "})
    if others:
        texts.append({"type": "text", "text": SHOWN_NEXT})
        others.insert(0, returned_by(call_id))
    marked = any("cache_control" in part for part in texts)
    content: Any = texts if marked else "".join(part["text"] for part in texts)
    return _with_breakpoint({"role": "tool", "tool_call_id": call_id, "content": content}, block), others


def _parts(held: Any, at: str) -> list[Object]:
    return [_part(block, where) for where, block in objects(held, f"{at}.content")]


def _part(block: Object, at: str) -> Object:
    kind = block.get("type")
    if kind == "image":
        return _with_breakpoint({"type": "image_url", "image_url": {"url": _image(block, at)}}, block)
    if kind == "document":
        return _with_breakpoint(_document(block, at), block)
    if kind != "text":
        raise unsupported(f"{at}.type", f"a block of type {kind!r}")
    return _text_part(block, at)


def _image(block: Object, at: str) -> str:
    source = _source(block, at)
    if source.get("type") == "url":
        return text_of(source, "url", f"{at}.source")
    return _data_url(source, at)


def _document(block: Object, at: str) -> Object:
    source = _source(block, at)
    if source.get("type") == "text":
        return {"type": "text", "text": text_of(source, "data", f"{at}.source")}
    title = block.get("title")
    name = title if isinstance(title, str) and title else "document.pdf"
    return {"type": "file", "file": {"filename": name, "file_data": _data_url(source, at)}}


def _data_url(source: Object, at: str) -> str:
    if source.get("type") != "base64":
        raise unsupported(f"{at}.source.type", f"a source of type {source.get('type')!r}")
    kind, data = text_of(source, "media_type", f"{at}.source"), text_of(source, "data", f"{at}.source")
    return f"data:{kind};base64,{data}"


def _source(block: Object, at: str) -> Object:
    source = block.get("source")
    if not isinstance(source, dict):
        raise wrong(f"{at}.source", "an object")
    return source
