"""An answer that is held back: its beginning, to be weighed, or all of it, for a client that wants one plain reply.

A local model that may be given up is asked for a stream even then, so that it works no longer than it is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.backends.wire import read_reply
from gateway.cache.replay import whole
from gateway.errors import UpstreamBroken
from gateway.policy.model import ESCALATED
from gateway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.backends.fleet import Answer
    from gateway.types import Attempt, ChatRequest, Chunk, Signals
    from gateway.view import View
    from gateway.visit import Visit

# Fields of the body whose answer a stream tells in another form, and the values that ask for nothing by them.
_TOLD_OTHERWISE = ("n", "logprobs", "tools", "functions")
_ASKS_NOTHING = frozenset({b"null", b"false", b"[]", b"1"})


class Held(NamedTuple):
    """What has come of an answer. ``confidence`` (0 … 1) and ``signals`` are the target's own, None where it reports
    none.
    """

    chunks: list[Chunk]
    confidence: float | None
    tokens: int
    signals: Signals | None = None

    @property
    def usage(self) -> Usage | None:
        return next((chunk.usage for chunk in reversed(self.chunks) if chunk.usage is not None), None)


NOTHING = Held([], None, 0)


def streamable(request: ChatRequest) -> bool:
    """Whether the answer to a plain request can be put together from a stream: one choice, of nothing but text."""
    raw = (request.fields.get(name) for name in _TOLD_OTHERWISE)
    return all(value is None or bytes(value) in _ASKS_NOTHING for value in raw)


async def hold(answer: Answer, tokens: int, *, opening: bool = False) -> Held:
    """Read on until ``tokens`` of the answer are there, or all of it; where nothing but its ``opening`` counts, no
    further than that is known.

    Raises:
        UpstreamBroken: it broke off.
    """
    held, confidence, seen = [answer.first], answer.first.confidence, answer.first.confident_tokens
    signals = answer.first.signals
    ended = answer.first.final or answer.first.finish_reason is not None
    while not ended and seen < tokens and not (opening and signals is not None and signals.tokens < seen):
        chunk = await anext(answer.rest, None)
        if chunk is None:
            break
        held.append(_sound(chunk))
        confidence = chunk.confidence if chunk.confidence is not None else confidence
        signals = chunk.signals or signals
        seen = max(seen, chunk.confident_tokens)
        ended = chunk.final or chunk.finish_reason is not None
    return Held(held, confidence, seen, signals)


async def collected(answer: Answer, held: Held) -> Held:
    """All of a streamed answer, as the one chunk of the plain reply that its target would have given instead.

    Raises:
        UpstreamBroken: it broke off, or holds what no plain reply can be made of.
    """
    chunks = [*held.chunks, *[_sound(chunk) async for chunk in answer.rest]]
    body = whole(chunk.data for chunk in chunks)
    if body is None:
        raise UpstreamBroken("upstream's stream is not that of a plain answer")
    everything = held._replace(chunks=chunks)
    return held._replace(chunks=[msgspec.structs.replace(read_reply(body), usage=everything.usage)])


def given_up(attempts: Sequence[Attempt], model: str, used: Usage, held_s: float) -> list[Attempt]:
    """The attempts, of which the answered one of ``model`` was given up ``held_s`` seconds after its first token."""
    told = list(attempts)
    for place in reversed(range(len(told))):
        tried = told[place]
        if tried.model == model and tried.status == 200:
            busy_s = tried.duration_ms / 1000 + held_s if used.busy_s is None else used.busy_s
            used = msgspec.structs.replace(used, busy_s=busy_s)
            told[place] = msgspec.structs.replace(tried, error=ESCALATED, usage=used)
            break
    return told


def estimated(view: View, visit: Visit, model: str, held: Held) -> Usage:
    """What a try has used that was broken off. Its prompt is left to be counted only where its tokens are paid for."""
    period = view.prices.period(model, visit.ts_ms)
    paid = period is not None and not period.sheet.usd_per_hour
    prompt = 0 if paid else visit.features.prompt_tokens
    return Usage(prompt_tokens=prompt, completion_tokens=held.tokens, source="estimated")


def _sound(chunk: Chunk) -> Chunk:
    if chunk.error:
        raise UpstreamBroken(chunk.error)
    return chunk
