"""The small model first, the next target if it is not sure: the beginning of an answer is held back and weighed.

Nothing reaches the client before it is settled whose answer it gets, so the model never changes in the middle of one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.errors import BudgetExhausted, UpstreamBroken, UpstreamError
from gateway.held import NOTHING, Held, collected, estimated, given_up, hold, streamable
from gateway.routing import situation_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.backends.fleet import Answer
    from gateway.policy.competence import Competence
    from gateway.policy.engine import CompiledRule
    from gateway.types import Chunk, Decision, Signals
    from gateway.view import View
    from gateway.visit import Visit

    Reserved = Callable[[], Awaitable[None]]
    Again = Callable[[Decision, Reserved], Awaitable[Answer]]


class _Try(NamedTuple):
    """An answer that may be given up, to a call that began at ``began`` (``perf_counter``); ``rest``: what is left of
    the decision without it. ``apart``: it is streamed, though its client wants one plain reply.
    """

    answer: Answer
    rule: CompiledRule
    rest: Decision
    again: Again
    began: float
    apart: bool


class _Weighed(NamedTuple):
    """What a try came to: whether it is the answer, and what broke it off, if anything. ``since``: when it was first
    held (``perf_counter``).
    """

    held: Held
    sure: bool
    since: float
    broken: UpstreamBroken | None = None


def as_streams(view: View, visit: Visit, decision: Decision) -> frozenset[str]:
    """The targets to ask for a stream, though the client wants one plain reply: those that may be given up."""
    if visit.request.stream or not streamable(visit.request):
        return frozenset()
    return _doubted(view, visit, decision)


async def weigh(
    view: View, visit: Visit, decision: Decision, answer: Answer, again: Again, began: float
) -> tuple[Sequence[Chunk], Answer]:
    """What the client is to get, and how it opens: this answer, or, where it is not sure enough, the next target's.

    ``again`` reserves for what is left of a decision, awaits its second argument and calls it. ``began``: when the
    call did (``perf_counter``).

    Raises:
        GatewayError: the answer broke off while it was held back, and there is no other.
    """
    rule, rest = visit.policy.rule(decision.rule), after(decision, answer.model)
    if rule is None or rest is None or answer.model not in _doubted(view, visit, decision):
        return (answer.first,), answer
    apart = answer.model in as_streams(view, visit, decision)
    try:
        return await _surer(view, visit, _Try(answer, rule, rest, again, began, apart))
    except BaseException:  # also where the client leaves: the target is to stop working for it
        await answer.rest.aclose()
        raise


def _doubted(view: View, visit: Visit, decision: Decision) -> frozenset[str]:
    """The local targets of a rule with ``escalate``, but for the last of all."""
    rule = visit.policy.rule(decision.rule)
    if rule is None or rule.escalate is None:
        return frozenset()
    models = map(view.settings.model, decision.targets[:-1])
    return frozenset(model.name for model in models if model is not None and model.is_local)


async def _surer(view: View, visit: Visit, tried: _Try) -> tuple[Sequence[Chunk], Answer]:
    weighed = await _weighed(view, visit, tried)
    if weighed.broken is None and weighed.sure:
        return weighed.held.chunks, tried.answer
    return await _next(view, visit, tried, weighed)


async def _weighed(view: View, visit: Visit, tried: _Try) -> _Weighed:
    answer, held, sure, broken, since = tried.answer, NOTHING, False, None, time.perf_counter()
    try:
        held = await hold(answer, tried.rule.hold_tokens, opening=answer.model in view.competences)
        sure = _sure_enough(view, visit, tried.rest, answer.model, held)
        if sure and tried.apart:
            held = await collected(answer, held)
            view.fleet.answered_whole(answer.model, time.perf_counter() - tried.began)
    except UpstreamBroken as error:  # nothing of it has left yet
        broken = error
    finally:
        visit.upstream_s += time.perf_counter() - since
    return _Weighed(held, sure, since, broken)


async def _next(view: View, visit: Visit, tried: _Try, weighed: _Weighed) -> tuple[Sequence[Chunk], Answer]:
    """The next target's answer. The try is given up first, since its model would work on meanwhile, and asked anew
    should the next one fail too; a stream whose time is bounded waits instead, since none may be left for that.
    """
    gone, used = False, weighed.held.usage or estimated(view, visit, tried.answer.model, weighed.held)
    waits = not tried.apart and (tried.rest.timeout_s is not None or visit.request.options.deadline_ms is not None)

    async def give_up() -> None:
        nonlocal gone
        gone = True
        await tried.answer.rest.aclose()
        busy_s = time.perf_counter() - weighed.since
        visit.attempts[:] = given_up(visit.attempts, tried.answer.model, used, busy_s)

    try:
        better = await tried.again(_left(tried), _nothing if waits else give_up)
    except (UpstreamError, BudgetExhausted) as error:
        if weighed.broken is not None:
            raise
        kept = await _unsure(visit, tried, weighed.held, gone=gone, error=error)
        visit.degraded = visit.degraded or ("budget" if isinstance(error, BudgetExhausted) else "hosted-failed")
        return kept
    if not gone:
        await give_up()
    return (better.first,), better


async def _unsure(
    visit: Visit, tried: _Try, held: Held, *, gone: bool, error: UpstreamError | BudgetExhausted
) -> tuple[Sequence[Chunk], Answer]:
    """The answer that was not sure enough is better than none."""
    if gone:
        same = msgspec.structs.replace(_left(tried), targets=(tried.answer.model,))
        try:
            anew = await tried.again(same, _nothing)
        except (UpstreamError, BudgetExhausted):
            raise error from None
        return (anew.first,), anew
    if not tried.apart:
        return held.chunks, tried.answer
    since = time.perf_counter()
    try:
        return (await collected(tried.answer, held)).chunks, tried.answer
    finally:
        visit.upstream_s += time.perf_counter() - since


async def _nothing() -> None:
    """There is nothing to give up."""


def _left(tried: _Try) -> Decision:
    return within(tried.rest, time.perf_counter() - tried.began)


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
