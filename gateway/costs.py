"""What a request costs at each target: where it went and elsewhere, with the conversation cached there and without.

``cold_usd``: nothing of the prompt is cached. ``warm_usd``: what of it is, or would be, where the conversation goes on.
None where no price is known, or nothing could have been cached.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.policy.situation import likely_busy_s, likely_nano
from gateway.types import NANO, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config import ModelConfig
    from gateway.policy.situation import Situation
    from gateway.types import LedgerEntry
    from gateway.view import View


def expected(
    view: View, decision: Mapping[str, Any] | None, features: Mapping[str, Any], warm: Mapping[str, int], at_ms: int
) -> list[dict[str, Any]]:
    """What the decision could expect of each target of its rule, before anybody had answered: ``expected_usd``."""
    if not decision or "prompt_tokens" not in features:
        return []
    passed_over = [one["model"] for one in decision.get("rejected", ())]
    prompt, answer = features["prompt_tokens"], features.get("max_tokens", 0)
    reusable = max(warm.values(), default=prompt)
    rows = []
    for name in dict.fromkeys([*decision.get("targets", ()), *passed_over]):
        likely = partial(likely_nano, view.prices, view.settings.model(name), prompt, answer, at_ms)
        rows.append({"model": name, **_both(likely, warm.get(name, 0), reusable, "expected_usd")})
    return rows


def elsewhere(view: View, entry: LedgerEntry, usage: Usage, warm: Mapping[str, int]) -> list[dict[str, Any]]:
    """What the same tokens would have cost at the other models: ``cost_usd``."""
    reusable = max([entry.cached_tokens, *warm.values()])
    others = [model for model in view.settings.config.models if model.name != entry.model]
    costs = {model.name: partial(_cost_nano, view, model, usage, entry.ts_ms) for model in others}
    return [{"model": name, **_both(cost, warm.get(name, 0), reusable, "cost_usd")} for name, cost in costs.items()]


def at_most(view: View, world: Situation) -> list[dict[str, Any]]:
    """The worst case of a request that nobody has answered, at every model: ``cost_usd``."""
    models = view.settings.config.models
    return [{"model": model.name, "cost_usd": _usd(world.worst_nano(model.name))} for model in models]


def _both(cost: Callable[[int], int | None], cached: int, reusable: int, name: str) -> dict[str, Any]:
    """The price under ``name`` is the warm one where something is cached, else the cold one."""
    cold, warm = _usd(cost(0)), _usd(cost(cached or reusable)) if cached or reusable else None
    return {name: warm if cached else cold, "cold_usd": cold, "warm_usd": warm, "cached_tokens": cached}


def _cost_nano(view: View, model: ModelConfig, usage: Usage, at_ms: int, cached: int) -> int | None:
    if view.prices.price(model.name, at_ms) is None:
        return None
    cached = min(cached, usage.prompt_tokens)
    there = msgspec.structs.replace(usage, cached_tokens=cached, cache_write_tokens=0, cache_write_1h_tokens=0)
    if model.is_local:
        busy_s = likely_busy_s(usage.prompt_tokens - cached, usage.completion_tokens)
        there = msgspec.structs.replace(there, busy_s=busy_s)
    return view.prices.cost_nano(model.name, there, at_ms)


def _usd(nano: int | None) -> float | None:
    return None if nano is None else nano / NANO
