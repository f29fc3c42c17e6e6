"""OpenAI's chat completion format: what an answer is made of.

Beside OpenAI's fields a chunk carries `confidence` (0..1, over the answer so far) with `confidence_details`, and the
last one `timings`; clients that do not know them ignore them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from local_models.chat.confidence import Confidence
from local_models.chat.stream import Delta, Timings, TokenLogprob
from local_models.chat.tools import Reader


def usage(timings: Sequence[Timings]) -> dict[str, Any]:
    """Token counts of a finished answer: the prompt once, and what was drawn for each choice."""
    prompt = timings[0].prompt_n + timings[0].cache_n
    completion = sum(each.predicted_n for each in timings)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": timings[0].cache_n},
    }


class Answer:
    """One answer's envelope: the same id and time in each of its chunks."""

    def __init__(self, model: str, choices: int = 1, reads_tools: bool = False) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._readers = [Reader() for _ in range(choices)] if reads_tools else None

    def first(self, index: int, **extra: Any) -> dict[str, Any]:
        """The chunk that opens a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None, extra)

    def chunks(self, index: int, delta: Delta, **extra: Any) -> list[dict[str, Any]]:
        """What a delta of a choice becomes; an ending one has the finish reason in a chunk of its own."""
        body, finish = self._body(index, delta)
        sure = _sure(delta.confidence)
        made = [self._chunk(index, body, None, {**sure, **extra}, delta.logprobs)] if body else []
        if finish:
            made.append(self._chunk(index, {}, finish, {**sure, **extra}))
        return made

    def usage_chunk(self, timings: Sequence[Timings]) -> dict[str, Any]:
        """The chunk after the last one, with no choices, where the client asked for usage."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], **account(timings)}

    def whole(self, choices: Sequence[Sequence[Delta]]) -> dict[str, Any]:
        """The plain reply: the fold of the streams, one a choice."""
        folded = [self._choice(index, deltas) for index, deltas in enumerate(choices)]
        timings = [ended(deltas[-1]) for deltas in choices]
        sure = _sure(choices[0][-1].confidence)
        return {**self._head, "object": "chat.completion", "choices": folded, **sure, **account(timings)}

    def _choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        bodies = [self._body(index, delta) for delta in deltas]
        calls = [call for body, _ in bodies for call in body.get("tool_calls", ())]
        text = "".join(body.get("content", "") for body, _ in bodies)
        message: dict[str, Any] = {"role": "assistant", "content": text or None if calls else text, "refusal": None}
        if calls:
            message["tool_calls"] = [{name: call[name] for name in ("id", "type", "function")} for call in calls]
        drawn = [each for delta in deltas for each in delta.logprobs]
        return {"index": index, "message": message, "finish_reason": bodies[-1][1], "logprobs": _logprobs(drawn)}

    def _body(self, index: int, delta: Delta) -> tuple[dict[str, Any], str | None]:
        if self._readers is None:
            return ({"content": delta.text} if delta.text or delta.logprobs else {}), delta.finish
        reader = self._readers[index]
        content, calls = reader.feed(delta.text, last=delta.finish is not None)
        body: dict[str, Any] = {"content": content} if content else {}
        if calls:
            body["tool_calls"] = calls
        called = delta.finish == "stop" and reader.calls
        return body, "tool_calls" if called else delta.finish

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish: str | None,
        extra: dict[str, Any],
        drawn: Sequence[TokenLogprob] = (),
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": _logprobs(drawn)}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **extra}


def ended(delta: Delta) -> Timings:
    """The timings of a choice's last delta."""
    assert delta.timings is not None, "the last delta has timings"
    return delta.timings


def account(timings: Sequence[Timings]) -> dict[str, Any]:
    """`usage` and `timings` of an answer; with several choices the timings add up."""
    if len(timings) == 1:
        return {"usage": usage(timings), "timings": timings[0]}
    fields = [msgspec.structs.asdict(each) for each in timings]
    return {"usage": usage(timings), "timings": {name: sum(each[name] for each in fields) for name in fields[0]}}


def _sure(confidence: Confidence | None) -> dict[str, Any]:
    return {"confidence": confidence.score, "confidence_details": confidence} if confidence else {}


def _logprobs(drawn: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not drawn:
        return None
    content = [
        {**_token(each.piece, each.logprob), "top_logprobs": [_token(*other) for other in each.top]} for each in drawn
    ]
    return {"content": content, "refusal": None}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}
