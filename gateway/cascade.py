"""The small model first, the next target if it is not sure: the beginning of an answer is held back and weighed.

Nothing reaches the client before it is settled whose answer it gets, so the model never changes in the middle of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.backends.fleet import Answer
    from gateway.types import Attempt, Chunk, Decision

ESCALATED = "escalated"
"""The ``error`` of the try that was given up."""


class Held(NamedTuple):
    """What has come of an answer. ``confidence`` (0 … 1) is the target's own, None where it reports none."""

    chunks: list[Chunk]
    confidence: float | None
    tokens: int

    @property
    def usage(self) -> Usage | None:
        return next((chunk.usage for chunk in reversed(self.chunks) if chunk.usage is not None), None)


NOTHING = Held([], None, 0)


async def hold(answer: Answer, tokens: int) -> Held:
    """Read on until ``tokens`` of the answer are there, or all of it.

    Raises:
        UpstreamBroken: it broke off.
    """
    held, confidence, seen = [answer.first], answer.first.confidence, answer.first.confident_tokens
    ended = answer.first.final or answer.first.finish_reason is not None
    while not ended and seen < tokens:
        chunk = await anext(answer.rest, None)
        if chunk is None:
            break
        held.append(chunk)
        confidence = chunk.confidence if chunk.confidence is not None else confidence
        seen = max(seen, chunk.confident_tokens)
        ended = chunk.final or chunk.finish_reason is not None
    return Held(held, confidence, seen)


def after(decision: Decision, model: str) -> Decision | None:
    """What is left of a decision once a target has been given up; None where that was the last one."""
    if model not in decision.targets:
        return None
    rest = decision.targets[decision.targets.index(model) + 1 :]
    return msgspec.structs.replace(decision, targets=rest, last_resort=()) if rest else None


def given_up(attempts: Sequence[Attempt], model: str, held: Held, busy_s: float) -> list[Attempt]:
    """The attempts, of which the answered one of ``model`` was given up after ``busy_s`` seconds of work."""
    used = held.usage or Usage(completion_tokens=held.tokens, source="estimated", busy_s=busy_s)
    told = list(attempts)
    for place in reversed(range(len(told))):
        if told[place].model == model and told[place].status == 200:
            told[place] = msgspec.structs.replace(told[place], error=ESCALATED, usage=used)
            break
    return told
