"""Tool calls: offered through the model's own template, asked for by grammar, read back from its answer.

The format is the one Hermes and Qwen models are trained on: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
https://huggingface.co/docs/transformers/chat_extras#tools
"""

from __future__ import annotations

import json
import secrets
from typing import Any, Literal

import msgspec

from local_models.chat import grammar
from local_models.errors import InvalidRequest, Unsupported

BEFORE, AFTER = "<tool_call>\n", "\n</tool_call>"
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Function(msgspec.Struct, frozen=True):
    """A function the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """One of a request's `tools`."""

    type: Literal["function"]
    function: Function


class Choice(msgspec.Struct, frozen=True):
    """What `tools` and `tool_choice` come to: what the template is shown, and whether a call is forced."""

    offered: list[dict[str, Any]] | None = None
    forced: tuple[Tool, ...] = ()

    def grammar(self) -> str:
        """For a forced call; else empty. Raises Unsupported."""
        if not self.forced:
            return ""
        tools = [(tool.function.name, tool.function.parameters or {"type": "object"}) for tool in self.forced]
        try:
            return grammar.tool_calls(tools, BEFORE, AFTER)
        except grammar.SchemaUnsupported as error:
            raise Unsupported(f"a tool's parameters cannot be enforced: {error}", "tools") from error


def choice(tools: list[Tool] | None, wanted: Any) -> Choice:
    """Read `tools` and `tool_choice`. Raises InvalidRequest."""
    if not tools or wanted == "none":
        return Choice()
    offered = [msgspec.to_builtins(tool) for tool in tools]
    if wanted in (None, "auto"):
        return Choice(offered)
    if wanted == "required":
        return Choice(offered, tuple(tools))
    function = wanted.get("function") if isinstance(wanted, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    named = tuple(tool for tool in tools if tool.function.name == name)
    if not named:
        raise InvalidRequest("tool_choice must be none, auto, required, or name one of the tools", "tool_choice")
    return Choice(offered, named)


def rendered(calls: list[Any], at: str) -> list[dict[str, Any]]:
    """An assistant message's `tool_calls` as templates take them: arguments as an object. Raises InvalidRequest."""
    result = []
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest("a tool call needs a function with a name", f"{at}.tool_calls[{place}]")
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest("a tool call's arguments must be JSON", f"{at}.tool_calls[{place}]") from error
        result.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return result


class Reader:
    """Splits an answer's text, as it comes, into content and tool calls."""

    def __init__(self) -> None:
        self._held = ""
        self.calls = 0

    def feed(self, text: str, last: bool = False) -> tuple[str, list[dict[str, Any]]]:
        """Content that can go out now, and the calls that were completed. What is no call in the end is content."""
        self._held += text
        content, calls = "", []
        while (start := self._held.find(_OPEN)) >= 0:
            end = self._held.find(_CLOSE, start)
            if end < 0:
                break
            call = self._call(self._held[start + len(_OPEN) : end])
            stop = end + len(_CLOSE)
            content += self._held[:start] if call else self._held[:stop]
            calls += [call] if call else []
            self._held = self._held[stop:]
        keep = 0 if last else len(self._held) - start if start >= 0 else _overlap(self._held)
        cut = len(self._held) - keep
        content, self._held = content + self._held[:cut], self._held[cut:]
        # Models put calls on lines of their own: the line breaks are no content.
        return ("" if self.calls and content.isspace() else content), calls

    def _call(self, text: str) -> dict[str, Any] | None:
        try:
            body = json.loads(text)
            name, arguments = body["name"], body.get("arguments", {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        self.calls += 1
        function = {"name": str(name), "arguments": json.dumps(arguments, ensure_ascii=False)}
        return {
            "index": self.calls - 1,
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": function,
        }


def _overlap(text: str) -> int:
    longest = min(len(text), len(_OPEN) - 1)
    return next((size for size in range(longest, 0, -1) if _OPEN.startswith(text[-size:])), 0)
