"""``POST /v1/messages``: Anthropic's requests as chats, and how it words refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from gateway.errors import GatewayError, InvalidRequest
from gateway.http.formats import anthropic_turns
from gateway.http.formats.anthropic_reply import MessageReply
from gateway.http.formats.exchange import Format
from gateway.http.formats.fields import OF_A_CHAT, Object, digest, encoded, kept, objects, text_of, unsupported, wrong
from gateway.http.parse import TEXT_MAX, Count, checked, options
from gateway.types import ChatRequest

_USER_MAX = 64  # OpenAI refuses longer ones; Claude Code's are
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
# A budget of thought in tokens, and the effort that it is nearest to.
_BUDGETS = ((10_000, "high"), (5_000, "medium"), (0, "low"))
_TIERS = {"standard_only": "default"}
_REFUSED = ("container", "context_management", "inference_geo", "mcp_servers")
_NOTHING = frozenset({b"null", b"false", b"[]", b"{}"})
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _Counted(msgspec.Struct, kw_only=True):
    """What a request to count its tokens has as well."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Object], msgspec.Meta(min_length=1)]
    system: str | list[Object] | None = None
    tools: list[Object] | None = None
    tool_choice: Object | None = None
    thinking: Object | None = None
    output_config: Object | None = None
    metadata: Any = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    service_tier: str | None = None
    cache_control: Object | None = None
    max_tokens: Count | None = None


class _Body(_Counted, kw_only=True):
    max_tokens: Count


_body, _counted = msgspec.json.Decoder(_Body), msgspec.json.Decoder(_Counted)


def read(raw: bytes, headers: Mapping[str, str], request_id: str) -> MessageReply:
    """Raises InvalidRequest naming the field."""
    fields, body = checked(raw, _body)
    return MessageReply(_request(raw, fields, body, headers, request_id), tuple(body.stop_sequences or ()))


def read_to_count(raw: bytes, headers: Mapping[str, str], request_id: str) -> ChatRequest:
    """The same of a request whose tokens are to be counted: it bounds no answer."""
    fields, body = checked(raw, _counted)
    return _request(raw, fields, body, headers, request_id)


def refusal(error: GatewayError, request_id: str) -> bytes:
    """Anthropic's error JSON, with the gateway's own ``code`` and ``param`` beside its words."""
    told: Object = {
        "type": error_type(error.status),
        "message": error.message,
        "param": error.param,
        "code": error.code,
    }
    told["details"] = {"error_code": error.code}
    return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id})


def error_type(status: int) -> str:
    return _ERRORS.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


MESSAGES = Format(read, refusal, "request-id")


def _request(
    raw: bytes, fields: dict[str, msgspec.Raw], body: _Counted, headers: Mapping[str, str], request_id: str
) -> ChatRequest:
    for name in _REFUSED:
        if name in fields and bytes(fields[name]) not in _NOTHING:
            raise unsupported(name)
    if bytes(fields.get("thread", b"null")) not in _NOTHING:  # Anthropic's client then sends the conversation whole
        message = "'thread' is not supported: this gateway keeps no conversations. Send the whole of it as 'messages'"
        raise InvalidRequest(message, code="thread_unsupported_request", param="thread")
    said = anthropic_turns.turns(body.system, body.messages)
    if body.cache_control is not None:
        said[-1] = _marked(said[-1], body.cache_control)
    user = _user(body.metadata)
    question = anthropic_turns.asked(body.messages[-1]) if said[-1]["role"] == "user" else None
    return ChatRequest(
        id=request_id,
        model=body.model,
        messages=said,
        fields=_fields(fields, body, said, user),
        stream=bool(body.stream),
        include_usage=bool(body.stream),
        max_tokens=body.max_tokens,
        user=user[:TEXT_MAX],
        options=options(headers),
        body_bytes=len(raw),
        apart=digest(fields, "messages", question),
    )


def _user(metadata: Any) -> str:
    named = metadata.get("user_id") if isinstance(metadata, dict) else None
    return named if isinstance(named, str) else ""


def _marked(message: Object, mark: Object) -> Object:
    """With the breakpoint that the body names for its end."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) and content else content
    return {**message, "content": [*parts[:-1], {**parts[-1], "cache_control": mark}]} if parts else message


def _fields(fields: Mapping[str, msgspec.Raw], body: _Counted, said: list[Object], user: str) -> dict[str, msgspec.Raw]:
    """A chat's body. Not its bound on the answer, which each provider is given under the name that it takes."""
    found = {"model": fields["model"], "messages": encoded(anthropic_turns.for_others(said))}
    found |= kept(fields, OF_A_CHAT | {"stream", "top_k"})
    given = {
        "stop": body.stop_sequences,
        "tools": [_tool(tool, at) for at, tool in objects(body.tools or [], "tools")],
        "tool_choice": _choice(body.tool_choice, body.tools),
        "reasoning_effort": _effort(body),
        "response_format": _format(body.output_config),
        "service_tier": _TIERS.get(body.service_tier or ""),
        "user": user[:_USER_MAX],
    }
    if body.tools and (body.tool_choice or {}).get("disable_parallel_tool_use") is True:
        given["parallel_tool_calls"] = False
    return found | {name: encoded(value) for name, value in given.items() if value or value is False}


def _tool(tool: Object, at: str) -> Object:
    if tool.get("type") not in (None, "custom"):
        raise unsupported(f"{at}.type", f"a tool of type {tool.get('type')!r}")
    schema = tool.get("input_schema")
    if not isinstance(schema, dict):
        raise wrong(f"{at}.input_schema", "an object")
    function = {"name": text_of(tool, "name", at), "parameters": schema}
    more = {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function | more}


def _choice(choice: Object | None, tools: Any) -> Any:
    if choice is None:
        return None
    kind = choice.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise wrong("tool_choice.type", "auto, any, tool or none")
    if not tools:
        if kind in ("any", "tool"):
            raise wrong("tool_choice", "given with tools")
        return None
    if kind == "tool":
        return {"type": "function", "function": {"name": text_of(choice, "name", "tool_choice")}}
    return "required" if kind == "any" else kind


def _effort(body: _Counted) -> str | None:
    """How much thought is asked for: in words, else by a budget in tokens; where neither is said, the model's own."""
    effort = (body.output_config or {}).get("effort")
    if effort is not None:
        if effort not in _EFFORTS:
            raise wrong("output_config.effort", "low, medium, high, xhigh or max")
        return _EFFORTS[effort]
    thinking = body.thinking or {}
    if thinking.get("type") != "enabled":
        return None
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < 1:
        raise wrong("thinking.budget_tokens", "a whole number above zero")
    return next(effort for least, effort in _BUDGETS if budget >= least)


def _format(config: Object | None) -> Object | None:
    form = (config or {}).get("format")
    if form is None:
        return None
    if not isinstance(form, dict) or form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise wrong("output_config.format", "an object of type json_schema with a schema")
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form["schema"], "strict": True}}
