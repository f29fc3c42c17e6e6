"""Which policy answers a request, and where that sends it: step 6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Forbidden, NotFound, Overloaded, Unpriced
from gateway.routing import situation_of, with_params

if TYPE_CHECKING:
    from gateway.policy.compile import CompiledPolicy
    from gateway.types import ChatRequest, Decision, Principal
    from gateway.view import View
    from gateway.visit import Visit

_NOT_ALLOWED = "this key may not use it"
NO_PRICE = "its price is not known (set `price` in gateway.yaml, or `unpriced: allow` in the policy)"


def policy_of(view: View, model: str) -> CompiledPolicy:
    """``auto``, ``auto:<policy>`` or a configured model (under the default policy). Raises NotFound."""
    default = view.settings.config.policies.default
    name = default if model == "auto" or view.settings.model(model) else model.removeprefix("auto:")
    policy = view.policies.get(name) if name == default or model.startswith("auto:") else None
    if policy is None:
        raise NotFound(f"the model '{model}' does not exist", code="model_not_found", param="model")
    return policy


def permit(view: View, request: ChatRequest, principal: Principal, policy: str) -> None:
    """Raises Forbidden where the key, its team or its organisation does not allow what is asked for."""
    if not principal.allowed:
        return
    if not principal.may_use("policies", policy):
        raise Forbidden(f"this key may not use the policy '{policy}'", code="policy_not_allowed", param="model")
    if view.settings.model(request.model) and not principal.may_use("models", request.model):
        raise Forbidden(f"this key may not use the model '{request.model}'", code="model_not_allowed", param="model")
    for tag in request.options.tags:
        if not principal.may_use("tags", tag):
            message = f"this key may not use the tag '{tag}'"
            raise Forbidden(message, code="tag_not_allowed", param="x-gateway-tags")


def wants_embedding(view: View, visit: Visit) -> bool:
    """Whether the score may change with an embedding that is not there yet, and may be had for this request."""
    if "difficulty" not in visit.policy.variables or visit.vector is not None:
        return False
    if visit.local_only or view.settings.model(visit.request.model) is not None:
        return False  # where it goes does not hang on its difficulty
    if visit.short is not None and view.prices.paid("embedder"):
        return False  # nothing is left to pay for it
    return view.scorer.wants_embedding(visit.features)


def decide(view: View, visit: Visit) -> Decision:
    """Score and policy, with what the world is like at this moment. The visit keeps what comes of it.

    Raises:
        Forbidden: the key may use none of the targets.
        Overloaded: none of them is available.
        Unpriced: none of them has a price, and the policy wants one.
    """
    policy, request = visit.policy, visit.request
    pinned = request.model if view.settings.model(request.model) is not None else None
    if pinned and (reason := _unpriced(view, policy, pinned)):
        raise Unpriced(f"{pinned}: {reason}")

    away: dict[str, str | None] = {}

    def unavailable(name: str) -> str | None:
        allowed = visit.principal.may_use("models", name)
        away[name] = (view.fleet.unavailable(name) or _unpriced(view, policy, name)) if allowed else _NOT_ALLOWED
        return away[name]

    score = view.scorer.score(visit.features, visit.vector)
    try:
        decision = policy.decide(
            visit.features,
            score,
            unavailable=unavailable,
            local_only=visit.local_only,
            pinned=pinned,
            situation=situation_of(view, visit),
        )
    except Overloaded as error:
        if set(away.values()) == {_NOT_ALLOWED}:
            raise Forbidden(error.message, code="model_not_allowed", param="model") from None
        if set(away.values()) == {NO_PRICE}:  # trying again later will not help
            raise Unpriced(error.message) from None
        raise
    visit.decision, visit.degraded = decision, decision.degraded
    if decision.params:
        visit.request = with_params(visit.request, decision)
        visit.max_tokens = visit.request.max_tokens or visit.max_tokens
    return decision


def _unpriced(view: View, policy: CompiledPolicy, name: str) -> str | None:
    if policy.policy.unpriced == "allow" or view.settings.model(name) is None or view.prices.price(name) is not None:
        return None
    return NO_PRICE
