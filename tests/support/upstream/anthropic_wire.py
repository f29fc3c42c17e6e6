"""Anthropic's wire format: messages plain and streamed, and errors."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tests.support.upstream.answer import Answer
from tests.support.upstream.plan import Plan, Usage
from tests.support.upstream.reply import Event, Reply, encode, failure, merged, plain

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def message(answer: Answer) -> Reply:
    """A whole message."""
    plan, usage = answer.plan, answer.usage
    blocks: list[dict[str, Any]] = [] if answer.text is None else [{"type": "text", "text": answer.text}]
    blocks += [_tool_use(call, msgspec.json.decode(_arguments(call))) for call in plan.tool_calls]
    reply = _message(answer) | {"content": blocks, "stop_reason": _stop_reason(answer)}
    if plan.usage == "missing":
        return plain(plan, reply)
    return plain(plan, reply | {"usage": _usage(usage, usage.completion_tokens)}, usage)


def message_stream(answer: Answer) -> Reply:
    """A message as server-sent events."""
    return Reply(answer.plan, events=_events(answer))


def _events(answer: Answer) -> Iterator[Event]:
    plan, started = answer.plan, Usage(answer.usage.prompt_tokens, 1, answer.usage.cached_tokens)
    reports = plan.usage != "missing"
    opening = _message(answer) | ({"usage": _usage(answer.usage, 1)} if reports else {})
    yield _event(plan, {"type": "message_start", "message": opening}, usage=started if reports else None)
    yield _event(plan, {"type": "ping"})
    for index, (block, deltas) in enumerate(_blocks(answer)):
        yield _event(plan, {"type": "content_block_start", "index": index, "content_block": block})
        for delta in deltas:
            yield _event(plan, {"type": "content_block_delta", "index": index, "delta": delta}, piece=True)
        yield _event(plan, {"type": "content_block_stop", "index": index})
    closing: dict[str, Any] = {"delta": {"stop_reason": _stop_reason(answer), "stop_sequence": None}}
    if reports:
        closing["usage"] = _usage(answer.usage, answer.usage.completion_tokens)
    yield _event(plan, {"type": "message_delta", **closing}, usage=answer.usage if reports else None)
    yield _event(plan, {"type": "message_stop"})


def _blocks(answer: Answer) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    if answer.text is not None:
        deltas = [{"type": "text_delta", "text": piece} for piece in answer.pieces()]
        yield {"type": "text", "text": ""}, deltas
    for call in answer.plan.tool_calls:
        given = _arguments(call)
        halves = given[: len(given) // 2], given[len(given) // 2 :]
        yield _tool_use(call, {}), [{"type": "input_json_delta", "partial_json": part} for part in halves]


def _event(plan: Plan, event: dict[str, Any], *, piece: bool = False, usage: Usage | None = None) -> Event:
    body = encode(merged(event, plan.extra) if plan.extra else event)
    return Event(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), body), piece, usage)


def _message(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage(usage: Usage, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _stop_reason(answer: Answer) -> str:
    return _STOP_REASONS.get(answer.finish_reason, answer.finish_reason)


def _arguments(call: Any) -> str:
    return str(call["function"]["arguments"])


def _tool_use(call: Any, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": given}


def error(plan: Plan, status: int, message: str) -> Reply:
    """An error in Anthropic's format, unless the plan brings its own body."""
    kind = _ERROR_TYPES.get(status, "api_error")
    return failure(plan, status, {"type": "error", "error": {"type": kind, "message": message}})
