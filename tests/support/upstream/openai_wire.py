"""OpenAI's wire format: chat completions plain and streamed, embeddings, models, errors."""

import base64
import math
import random
import time
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from tests.support.upstream.answer import Answer
from tests.support.upstream.plan import Plan, Usage
from tests.support.upstream.reply import Event, Reply, encode, failure, merged, plain

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def chat(answer: Answer) -> Reply:
    """A whole chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.plan.tool_calls:
        message["tool_calls"] = answer.plan.tool_calls
    reply = _object(answer, "chat.completion") | {
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
            for index in range(answer.choices)
        ]
    }
    reported = None if answer.plan.usage == "missing" else answer.usage
    if reported:
        reply["usage"] = _usage(reported)
    return plain(answer.plan, reply, reported)


def chat_stream(answer: Answer) -> Reply:
    """A chat completion as server-sent events."""
    return Reply(answer.plan, events=_events(answer))


def _events(answer: Answer) -> Iterator[Event]:
    mode, choices = answer.plan.usage, range(answer.choices)
    for index in choices:
        yield _chunk(answer, index, {"role": "assistant", "content": "", "refusal": None}, said=0)
    deltas = list(_deltas(answer))
    for number, delta in enumerate(deltas, start=1):
        said = answer.usage.completion_tokens * number // len(deltas)
        for index in choices:
            yield _chunk(answer, index, delta, said=said, piece=index == 0)
    last = answer.usage.completion_tokens if mode in ("with_choices", "every") else None
    for index in choices:
        yield _chunk(answer, index, {}, said=last, finish_reason=answer.finish_reason)
    if mode == "final" and answer.include_usage:
        chunk = _object(answer, "chat.completion.chunk") | {"choices": [], "usage": _usage(answer.usage)}
        yield Event(_sse(answer.plan, chunk), usage=answer.usage)
    yield Event(b"data: [DONE]\n\n")


def _deltas(answer: Answer) -> Iterator[dict[str, Any]]:
    for piece in answer.pieces():
        yield {"content": piece}
    for index, call in enumerate(answer.plan.tool_calls):
        function, arguments = call["function"], call["function"]["arguments"]
        half = len(arguments) // 2
        yield {"tool_calls": [merged({"index": index, **call}, {"function": {**function, "arguments": ""}})]}
        for part in (arguments[:half], arguments[half:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": part}}]}


def _chunk(
    answer: Answer,
    index: int,
    delta: dict[str, Any],
    *,
    said: int | None,
    finish_reason: str | None = None,
    piece: bool = False,
) -> Event:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = _object(answer, "chat.completion.chunk") | {"choices": [choice]}
    mode, reported = answer.plan.usage, None
    if said is not None and (mode == "every" or (mode == "with_choices" and finish_reason)):
        reported = Usage(answer.usage.prompt_tokens, said, answer.usage.cached_tokens)
        chunk["usage"] = _usage(reported)
    elif answer.include_usage and mode == "final":
        chunk["usage"] = None
    return Event(_sse(answer.plan, chunk), piece, reported)


def _sse(plan: Plan, chunk: dict[str, Any]) -> bytes:
    return b"data: " + encode(merged(chunk, plan.extra) if plan.extra else chunk) + b"\n\n"


def _object(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def embeddings(body: dict[str, Any], plan: Plan) -> Reply:
    """One normalised vector an input; texts that share words are near each other."""
    given = body.get("input")
    inputs = given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
    texts = [text if isinstance(text, str) else " ".join(map(str, text or ())) for text in inputs]
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
        for index, vector in enumerate(embed(text, body.get("dimensions") or 384) for text in texts)
    ]
    counted = sum(len(text.split()) for text in texts) if plan.prompt_tokens is None else plan.prompt_tokens
    reply: dict[str, Any] = {"object": "list", "data": data, "model": body.get("model")}
    if plan.usage == "missing":
        return plain(plan, reply)
    reply["usage"] = {"prompt_tokens": counted, "total_tokens": counted}
    return plain(plan, reply, Usage(counted, 0))


def moderations(body: dict[str, Any], plan: Plan) -> Reply:
    """A verdict on each text, one on all parts: flagged where they say so. Nothing is counted, as with OpenAI."""
    given = body.get("input")
    texts = given if isinstance(given, list) and not any(isinstance(one, dict) for one in given) else [given]
    results = [
        {"flagged": "flagged" in str(text), "categories": {"violence": "flagged" in str(text)}, "category_scores": {}}
        for text in texts
    ]
    return plain(plan, {"id": "modr-1", "model": body.get("model"), "results": results})


def embed(text: str, dimensions: int) -> list[float]:
    """The sum of a fixed random vector for each word, normalised."""
    words = text.lower().split() or [""]
    vectors = [_word_vector(word, dimensions) for word in words]
    total = [math.fsum(column) for column in zip(*vectors, strict=True)]
    length = math.hypot(*total) or 1.0
    return [value / length for value in total]


@lru_cache(maxsize=4096)
def _word_vector(word: str, dimensions: int) -> tuple[float, ...]:
    drawn = random.Random(word)
    return tuple(drawn.gauss(0.0, 1.0) for _ in range(dimensions))


def _packed(vector: Iterable[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


def models(names: Iterable[str], plan: Plan) -> Reply:
    """The list of models."""
    common = {"object": "model", "created": 1_700_000_000, "owned_by": "scripted"}
    return plain(plan, {"object": "list", "data": [{"id": name, **common} for name in names]})


def error(plan: Plan, status: int, message: str, code: str | None = None) -> Reply:
    """An error in OpenAI's format, unless the plan brings its own body."""
    kind = _ERROR_TYPES.get(status, "server_error")
    return failure(plan, status, {"error": {"message": message, "type": kind, "param": None, "code": code}})
