"""``POST /v1/responses``: OpenAI's Responses as chats. Nothing is kept: each request brings its whole conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.http.formats import response_items
from gateway.http.formats.exchange import Format
from gateway.http.formats.fields import OF_A_CHAT, Object, digest, encoded, kept, objects, text_of, unsupported, wrong
from gateway.http.formats.response_reply import ResponseReply
from gateway.http.parse import TEXT_MAX, Count, checked, options
from gateway.types import ChatRequest

_USER_MAX = 64  # OpenAI refuses longer ones
_STATEFUL = ("previous_response_id", "conversation", "prompt", "background")
_REFUSED = ("context_management", "moderation")
_NOTHING = frozenset({b"null", b"false"})
_LOGPROBS = "message.output_text.logprobs"


class _Body(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: str | list[Object]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    text: Object | None = None
    reasoning: Object | None = None
    metadata: Object | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stop: str | list[str] | None = None


_body = msgspec.json.Decoder(_Body)


def read(raw: bytes, headers: Mapping[str, str], request_id: str) -> ResponseReply:
    """Raises InvalidRequest naming the field."""
    fields, body = checked(raw, _body)
    for name in _STATEFUL:
        if name in fields and bytes(fields[name]) not in _NOTHING:
            message = (
                f"'{name}' is not supported: this gateway keeps no responses. Send the whole conversation as 'input'"
            )
            raise InvalidRequest(message, code="unsupported", param=name)
    for name in _REFUSED:
        if bytes(fields.get(name, b"null")) not in _NOTHING:
            raise unsupported(name)
    said = response_items.turns(body.instructions, body.input)
    if not body.input or not said:
        raise wrong("input", "something to answer")
    user = body.user or body.safety_identifier or ""
    question = response_items.asked(body.input if isinstance(body.input, str) else body.input[-1])
    tools = [_tool(tool, at) for at, tool in objects(body.tools or [], "tools")]
    request = ChatRequest(
        id=request_id,
        model=body.model,
        messages=said,
        fields=_fields(fields, body, said, tools, user),
        stream=bool(body.stream),
        include_usage=bool(body.stream),
        max_tokens=body.max_output_tokens,
        logprobs=_wants_logprobs(body),
        user=user[:TEXT_MAX],
        options=options(headers),
        body_bytes=len(raw),
        apart=digest(fields, "input", question),
    )
    return ResponseReply(request, _echoed(body))


RESPONSES = Format(read)


def _fields(
    fields: Mapping[str, msgspec.Raw], body: _Body, said: list[Object], tools: list[Object], user: str
) -> dict[str, msgspec.Raw]:
    """A chat's body. Not its bound on the answer, which each provider is given under the name that it takes."""
    names = (OF_A_CHAT | {"stop", "stream"}) - (set() if tools else {"parallel_tool_calls"})
    found = {"model": fields["model"], "messages": encoded(said), **kept(fields, names)}
    given = {
        "tools": tools,
        "tool_choice": _choice(body.tool_choice, bool(tools)),
        "response_format": _format(body.text),
        "reasoning_effort": _word(body.reasoning, "reasoning", "effort"),
        "verbosity": _word(body.text, "text", "verbosity"),
        "logprobs": _wants_logprobs(body),
        "top_logprobs": body.top_logprobs,
        "user": user[:_USER_MAX],
    }
    return found | {name: encoded(value) for name, value in given.items() if value}


def _wants_logprobs(body: _Body) -> bool:
    return bool(body.top_logprobs) or _LOGPROBS in (body.include or ())


def _tool(tool: Object, at: str) -> Object:
    if tool.get("type") != "function":
        raise unsupported(f"{at}.type", f"a tool of type {tool.get('type')!r}")
    function = {"name": text_of(tool, "name", at)}
    more = {name: tool[name] for name in ("description", "parameters", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function | more}


def _choice(choice: Any, tools: bool) -> Any:
    if choice is None or (choice in ("auto", "none") and not tools):
        return None
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise wrong("tool_choice", "auto, none, required or an object")
    elif choice.get("type") != "function":
        raise unsupported("tool_choice.type", f"a choice of type {choice.get('type')!r}")
    if not tools:
        raise wrong("tool_choice", "given with tools")
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": text_of(choice, "name", "tool_choice")}}


def _format(text: Object | None) -> Object | None:
    form = (text or {}).get("format")
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema" or not isinstance(form.get("schema"), dict):
        raise wrong("text.format", "of type text, json_object or json_schema, the last with a schema")
    more = {name: form[name] for name in ("description", "strict") if form.get(name) is not None}
    schema = {"name": text_of(form, "name", "text.format"), "schema": form["schema"]}
    return {"type": "json_schema", "json_schema": schema | more}


def _word(holder: Object | None, field: str, name: str) -> str | None:
    value = (holder or {}).get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(f"{field}.{name}", "a string")
    return value


def _echoed(body: _Body) -> Object:
    """What a response says of the request it answers."""
    reasoning = body.reasoning or {}
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "background": False,
        "store": False,
        "temperature": body.temperature,
        "text": {"format": {"type": "text"}} | (body.text or {}),
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }
