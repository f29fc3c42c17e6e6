"""The small model first, the next target if it is not sure: the beginning of an answer is held back and weighed.

Nothing reaches the client before it is settled whose answer it gets, so the model never changes in the middle of one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.errors import BudgetExhausted, UpstreamBroken, UpstreamError
from gateway.policy.model import ESCALATED
from gateway.routing import situation_of
from gateway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.backends.fleet import Answer
    from gateway.pipeline import View
    from gateway.policy.competence import Competence
    from gateway.policy.engine import CompiledRule
    from gateway.types import Attempt, Chunk, Decision, Signals
    from gateway.visit import Visit


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


async def weigh(
    view: View,
    visit: Visit,
    decision: Decision,
    answer: Answer,
    again: Callable[[Decision], Awaitable[Answer]],
    began: float,
) -> tuple[Sequence[Chunk], Answer]:
    """What the client is to get, and how it opens: this answer, or, where it is not sure enough, the next target's.

    ``again`` reserves for what is left of a decision and calls it. ``began``: when the call did (``perf_counter``).

    Raises:
        GatewayError: the answer broke off while it was held back, and there is no other.
    """
    rule, rest = visit.policy.rule(decision.rule), after(decision, answer.model)
    model = view.settings.model(answer.model)
    if rule is None or rule.escalate is None or rest is None or model is None or not model.is_local:
        return (answer.first,), answer
    try:
        return await _surer(view, visit, rule, rest, answer, again, began)
    except BaseException:  # also where the client leaves: the target is to stop working for it
        await answer.rest.aclose()
        raise


async def _surer(
    view: View,
    visit: Visit,
    rule: CompiledRule,
    rest: Decision,
    answer: Answer,
    again: Callable[[Decision], Awaitable[Answer]],
    began: float,
) -> tuple[Sequence[Chunk], Answer]:
    held, broken, since = NOTHING, None, time.perf_counter()
    try:
        held = await hold(answer, rule.hold_tokens, opening=answer.model in view.competences)
    except UpstreamBroken as error:  # nothing of it has left yet
        broken = error
    finally:
        visit.upstream_s += time.perf_counter() - since
    if broken is None and _sure_enough(view, visit, rest, answer.model, held):
        return held.chunks, answer
    try:
        better = await again(within(rest, time.perf_counter() - began))
    except (UpstreamError, BudgetExhausted) as error:
        if broken is not None:
            raise
        # An unsure answer is better than none.
        visit.degraded = visit.degraded or ("budget" if isinstance(error, BudgetExhausted) else "hosted-failed")
        return held.chunks, answer
    await answer.rest.aclose()
    visit.attempts[:] = given_up(visit.attempts, answer.model, held, time.perf_counter() - since)
    return (better.first,), better


def _sure_enough(view: View, visit: Visit, rest: Decision, model: str, held: Held) -> bool:
    if held.confidence is None:
        return True
    right = _right(view.competences.get(model), visit, held.signals)
    visit.raw_confidence = None if right is None else held.confidence
    visit.confidence = confidence = held.confidence if right is None else right
    return not visit.policy.escalates(rest, visit.features, confidence, situation_of(view, visit))


def _right(competence: Competence | None, visit: Visit, signals: Signals | None) -> float | None:
    """The calibrated chance that the answer is right; None where the model has no profile that tells."""
    return None if competence is None or signals is None else competence.answered(signals, visit.vector)


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
        held.append(chunk)
        confidence = chunk.confidence if chunk.confidence is not None else confidence
        signals = chunk.signals or signals
        seen = max(seen, chunk.confident_tokens)
        ended = chunk.final or chunk.finish_reason is not None
    return Held(held, confidence, seen, signals)


def after(decision: Decision, model: str) -> Decision | None:
    """What is left of a decision once a target has been given up; None where that was the last one."""
    if model not in decision.targets:
        return None
    rest = decision.targets[decision.targets.index(model) + 1 :]
    return msgspec.structs.replace(decision, targets=rest, last_resort=()) if rest else None


def within(rest: Decision, spent_s: float) -> Decision:
    """With what is left of the rule's ``timeout``, which bounds the whole call."""
    if rest.timeout_s is None:
        return rest
    return msgspec.structs.replace(rest, timeout_s=max(0.0, rest.timeout_s - spent_s))


def given_up(attempts: Sequence[Attempt], model: str, held: Held, busy_s: float) -> list[Attempt]:
    """The attempts, of which the answered one of ``model`` was given up after ``busy_s`` seconds of work."""
    used = held.usage or Usage(completion_tokens=held.tokens, source="estimated", busy_s=busy_s)
    told = list(attempts)
    for place in reversed(range(len(told))):
        if told[place].model == model and told[place].status == 200:
            told[place] = msgspec.structs.replace(told[place], error=ESCALATED, usage=used)
            break
    return told
