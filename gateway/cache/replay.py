"""Between the forms of an answer: a stream folded into a plain ``chat.completion``, a stored one streamed again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from gateway.types import CacheEntry, Chunk, Usage

_WORDS_PER_CHUNK = 4
_REPLAYED = ("content",)
_SPOKEN = ("content", "reasoning_content", "reasoning")
_ALWAYS_TOLD = ("cached_tokens", "reasoning_tokens")


def fold(chunks: Iterable[bytes], usage: Usage) -> bytes | None:
    """A stream's events as one ``chat.completion`` body; None where they hold what a plain answer cannot replay
    (tool calls, log-probabilities, fields of a delta other than role, content and refusal, or these in other types
    than OpenAI's).
    """
    events, choices = _read(chunks, _REPLAYED)
    if choices is None:
        return None
    head = next(filter(None, map(_head, events)), {})
    body = {**head, "object": "chat.completion", "choices": choices, "usage": usage_object(usage)}
    return msgspec.json.encode(body)


def whole(chunks: Iterable[bytes]) -> bytes | None:
    """A stream's events as the plain reply that upstream would have given instead: with its reasoning, and whatever
    it says beside the choices as it said it last. None as for :func:`fold`.
    """
    events, choices = _read(chunks, _SPOKEN)
    if choices is None:
        return None
    said = {key: value for event in events for key, value in event.items() if value is not None}
    told = [{**choice, "message": {**choice["message"], "refusal": None}, "logprobs": None} for choice in choices]
    return msgspec.json.encode({**said, "object": "chat.completion", "choices": told})


def _head(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in {"choices", "usage", "object"}}


def _read(chunks: Iterable[bytes], texts: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """The events, and the choices they amount to."""
    try:
        events = [msgspec.json.decode(data) for data in chunks]
        return events, _choices(events, texts)
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError):
        return [], None


def _choices(events: Iterable[dict[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]] | None:
    """The choices of a plain answer, their messages of ``texts``; None where one holds more, or has not ended."""
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        for choice in event.get("choices") or ():
            if not _merge(choices, choice, texts):
                return None
    if not choices or any(choice["finish_reason"] is None for choice in choices.values()):
        return None
    return [choices[index] for index in sorted(choices)]


def _merge(choices: dict[int, dict[str, Any]], choice: dict[str, Any], texts: Sequence[str]) -> bool:
    delta = choice.get("delta") or {}
    if choice.get("logprobs") or any(value for key, value in delta.items() if key not in ("role", *texts)):
        return False
    index = choice.get("index", 0)
    message = {"role": "assistant", "content": ""}
    held = choices.setdefault(index, {"index": index, "message": message, "finish_reason": None})
    for name in texts:
        if said := delta.get(name):
            held["message"][name] = held["message"].get(name, "") + said
    held["finish_reason"] = choice.get("finish_reason") or held["finish_reason"]
    return True


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage in OpenAI's shape."""
    prompt = {
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "audio_tokens": usage.audio_input_tokens,
        "image_tokens": usage.image_input_tokens,
    }
    completion = {
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_tokens": usage.audio_output_tokens,
        "image_tokens": usage.image_output_tokens,
    }
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {name: count for name, count in prompt.items() if count or name in _ALWAYS_TOLD},
        "completion_tokens_details": {name: n for name, n in completion.items() if n or name in _ALWAYS_TOLD},
    }


def plain_chunk(entry: CacheEntry) -> Chunk:
    """A stored answer as a plain reply."""
    return Chunk(data=entry.body, usage=entry.usage, finish_reason="stop", final=True)


def stream_chunks(entry: CacheEntry) -> Iterator[Chunk]:
    """A stored answer as the stream it would have been: role, a few words at a time, finish, usage."""
    body = msgspec.json.decode(entry.body)
    head = {key: value for key, value in body.items() if key not in {"choices", "usage", "object"}}
    head["object"] = "chat.completion.chunk"
    for choice in body["choices"]:
        index, message = choice.get("index", 0), choice["message"]
        more = {key: value for key, value in message.items() if value and key not in {"role", "content"}}
        yield _event(head, index, {"role": "assistant", "content": "", **more})
        for piece in _pieces(message["content"]):
            yield _event(head, index, {"content": piece}, text=piece)
        yield _event(head, index, {}, finish=choice.get("finish_reason") or "stop")
    usage = body.get("usage") or usage_object(entry.usage)
    data = msgspec.json.encode({**head, "choices": [], "usage": usage})
    yield Chunk(data=data, usage=entry.usage, usage_only=True)


def _pieces(text: str) -> Iterator[str]:
    words = text.split(" ")
    for start in range(0, len(words), _WORDS_PER_CHUNK):
        piece = " ".join(words[start : start + _WORDS_PER_CHUNK])
        yield piece if start == 0 else " " + piece


def _event(
    head: dict[str, Any], index: int, delta: dict[str, Any], *, text: str = "", finish: str | None = None
) -> Chunk:
    data = msgspec.json.encode({**head, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})
    return Chunk(data=data, text=text, finish_reason=finish)
