"""The input of OpenAI's Responses as a chat's messages."""

from __future__ import annotations

from typing import Any

from gateway.http.formats.fields import SHOWN_NEXT, Object, objects, plain, returned_by, text_of, unsupported, wrong

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "summary_text": "text", "refusal": "refusal"}


def turns(instructions: str | None, given: str | list[Object]) -> list[Object]:
    """The conversation.

    Raises:
        InvalidRequest: naming the item.
    """
    said = _Turns()
    if instructions:
        said.messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*said.messages, {"role": "user", "content": given}]
    for place, item in enumerate(given):
        said.item(item, f"input[{place}]")
    return said.end()


def asked(item: str | Object) -> str | None:
    """The text of a user's turn that is nothing else; None of any other."""
    if isinstance(item, str):
        return item
    content = item.get("content")
    if isinstance(content, list) and len(content) == 1 and content[0].keys() == {"type", "text"}:
        content = content[0]["text"]
    simple = item.keys() <= {"type", "role", "content"} and item.get("role") == "user"
    return content if simple and isinstance(content, str) else None


class _Turns:
    """``seen``: what tools returned that is no text, which a chat takes from users only, after all results."""

    def __init__(self) -> None:
        self.messages: list[Object] = []
        self.seen: list[Object] = []

    def item(self, item: Object, at: str) -> None:
        """Reasoning is passed over: a chat's provider takes none back."""
        kind = item.get("type", "message")
        if kind == "function_call_output":
            self._result(item, at)
            return
        self.end()
        if kind == "message":
            self._message(item, at)
        elif kind == "function_call":
            self._call(item, at)
        elif kind != "reasoning":
            raise unsupported(f"{at}.type", f"an item of type {kind!r}")

    def end(self) -> list[Object]:
        """The messages, once no further result can follow those before."""
        if self.seen:
            self.messages.append({"role": "user", "content": self.seen})
            self.seen = []
        return self.messages

    def _message(self, item: Object, at: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role not in _ROLES:
            raise wrong(f"{at}.role", "user, assistant, system or developer")
        if not isinstance(content, str):
            content = plain(_parts(content, f"{at}.content"))
        last = self.messages[-1] if self.messages else {}
        if role == "assistant" and last.get("tool_calls") and not last["content"]:
            last["content"] = content  # what tools return must follow the message that calls them
        else:
            self.messages.append({"role": role, "content": content})

    def _call(self, item: Object, at: str) -> None:
        """A turn's calls, and what is said beside them, are one message of a chat."""
        function = {"name": text_of(item, "name", at), "arguments": text_of(item, "arguments", at)}
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": None})
        calls = self.messages[-1].setdefault("tool_calls", [])
        calls.append({"id": text_of(item, "call_id", at), "type": "function", "function": function})

    def _result(self, item: Object, at: str) -> None:
        call_id, output = text_of(item, "call_id", at), item.get("output")
        parts = [{"type": "text", "text": output}] if isinstance(output, str) else _parts(output, f"{at}.output")
        others = [part for part in parts if part["type"] != "text"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if others:
            text += SHOWN_NEXT
            self.seen += [returned_by(call_id), *others]
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})


def _parts(value: Any, at: str) -> list[Object]:
    return [_part(part, where) for where, part in objects(value, at)]


def _part(part: Object, at: str) -> Object:
    kind = part.get("type")
    if kind in _TEXTS:
        name = _TEXTS[kind]
        return {"type": name, name: text_of(part, name, at)}
    if kind == "input_image":
        return _image(part, at)
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "input_file" and isinstance(part.get("file_data"), str):
        return {"type": "file", "file": {name: part[name] for name in ("filename", "file_data") if name in part}}
    raise unsupported(at, f"a part of type {kind!r} as it stands here")


def _image(part: Object, at: str) -> Object:
    image: dict[str, Any] = {"url": text_of(part, "image_url", at)}
    if isinstance(part.get("detail"), str):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}
