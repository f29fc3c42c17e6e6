"""What a decision is given of the world, and what of it the call has to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.entry import budget_left
from gateway.helped import help_by, nano_of
from gateway.policy.situation import Situation, identities, likely_nano
from gateway.types import Live

if TYPE_CHECKING:
    from gateway.prompt_bound import PromptBound
    from gateway.types import ChatRequest, Decision
    from gateway.view import View
    from gateway.visit import Visit

# Two names for one bound: a body may have one of them.
_LIMITS = ("max_tokens", "max_completion_tokens")


def worst_nano(view: View, visit: Visit, name: str, bound: PromptBound | None = None) -> int | None:
    """The most a request may cost at a target, nano-dollars, with what has helped to decide; None where its price is
    not known. ``bound``: of another prompt than the request's.
    """
    if view.prices.price(name, visit.ts_ms) is None:
        return None
    model, context = view.settings.model(name), view.prices.context(name)
    tokens = visit.max_tokens if context is None else min(visit.max_tokens, context)
    prompt = (bound or visit.bound).tokens(model.upstream_name if model else name, context)
    tokens *= max(1, visit.request.n)
    helped = nano_of(help_by(visit.helped, view.prices, visit.ts_ms)) if visit.helped else 0
    return helped + view.prices.worst_case_nano(name, prompt, tokens, tier=visit.tier, at_ms=visit.ts_ms)


def situation_of(view: View, visit: Visit) -> Situation:
    """The world as this request finds it."""
    request, features, prices = visit.request, visit.features, view.prices
    options, principal = request.options, visit.principal

    def worst(name: str) -> int | None:
        return worst_nano(view, visit, name)

    warm = visit.warm

    def likely(name: str, cached: int = 0) -> int | None:
        model = view.settings.model(name)
        return likely_nano(prices, model, features.prompt_tokens, features.max_tokens, visit.ts_ms, cached)

    def live(name: str) -> Live:
        """The same throughout the request, and what its row says it was."""
        if name not in visit.live:
            visit.live[name] = view.fleet.live(name, stream=request.stream)
        return visit.live[name]

    return Situation(
        now_ms=visit.ts_ms,
        budget_left=budget_left(visit.admission),
        deadline_ms=options.deadline_ms,
        live=live,
        worst_nano=worst,
        likely_nano=likely,
        warm=warm,
        warm_nano=lambda name: likely(name, warm.get(name, 0)),
        identities=identities(request.id, options.session, request.user, principal.key_id),
    )


def decided(view: View, visit: Visit) -> Decision | None:
    """What was decided before admission, in the order of what the conversation turned out to have cached."""
    if visit.decision is not None and visit.conversation is not None:
        visit.decision = visit.policy.reordered(visit.decision, visit.features, situation_of(view, visit))
    return visit.decision


def with_params(request: ChatRequest, decision: Decision) -> ChatRequest:
    """The request with the rule's fields instead of the client's."""
    if not decision.params:
        return request
    given = dict(decision.params)
    limit = given.get("max_completion_tokens") or given.get("max_tokens")
    kept = {name: raw for name, raw in request.fields.items() if limit is None or name not in _LIMITS}
    return msgspec.structs.replace(
        request,
        fields={**kept, **given},
        max_tokens=request.max_tokens if limit is None else msgspec.json.decode(limit, type=int | None),
    )


def deadline_s(request: ChatRequest, decision: Decision, spent_s: float) -> float | None:
    """Seconds the call may take: what is left of the client's deadline, and no more than the rule's ``timeout``."""
    client = request.options.deadline_ms
    left = None if client is None else client / 1000 - spent_s
    bounds = [bound for bound in (left, decision.timeout_s) if bound is not None]
    return min(bounds, default=None)
