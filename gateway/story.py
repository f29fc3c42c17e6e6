"""Why a request went where it went, told the same way for a request that was answered and for one that is imagined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.features import extract
from gateway.types import NANO, ChatRequest, Decision, LedgerEntry, Principal, RequestOptions, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.pipeline import View
    from gateway.pricing import PriceBook

_IMAGINED = Principal(key_id="explain", name="explain")


def of_entry(entry: LedgerEntry, prices: PriceBook, models: Iterable[str]) -> dict[str, Any]:
    """The reply of ``GET /v1/requests/{id}``."""
    row = msgspec.to_builtins({name: getattr(entry, name) for name in entry.__struct_fields__})
    detail = row.pop("detail")
    usage = Usage(
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=entry.completion_tokens,
        cached_tokens=entry.cached_tokens,
        cache_write_tokens=entry.cache_write_tokens,
        reasoning_tokens=entry.reasoning_tokens,
        **(detail.get("usage") or {}),
    )
    money = {name.removesuffix("_nano"): row.pop(name) / NANO for name in list(row) if name.endswith("_nano")}
    decision = detail.get("decision")
    return {
        "id": row.pop("request_id"),
        "object": "gateway.request",
        **row,
        **{f"{name}_usd": value for name, value in money.items()},
        **(dict.fromkeys(("cost_usd", "baseline_usd", "saved_usd")) if entry.unpriced else {}),
        **_told(detail.get("features") or {}, decision),
        "local_only": detail.get("local_only", False),
        "attempts": detail.get("attempts", []),
        "alternatives": _alternatives(
            prices,
            models,
            lambda name: prices.cost_nano(name, usage, entry.ts_ms),
            at_ms=entry.ts_ms,
            without=entry.model,
        ),
    }


def explain(
    view: View, prompt: str, *, policy: str = "", tags: tuple[str, ...] = (), quality: int | None = None
) -> dict[str, Any]:
    """What would happen to ``prompt`` now; nothing is called and nothing is charged.

    Raises:
        GatewayError: it would be refused.
    """
    request = _imagined(prompt, policy, tags, quality)
    compiled = view.policies.get(policy or view.settings.config.policies.default)
    if compiled is None:
        from gateway.errors import NotFound

        raise NotFound(f"no policy named '{policy}'", code="model_not_found")
    features = extract(request, _IMAGINED, default_max_tokens=compiled.policy.default_max_tokens)
    gate = compiled.gate(features)
    score = view.scorer.score(features)
    decision = compiled.decide(features, score, unavailable=view.fleet.unavailable, local_only=gate.local_only)

    def worst(name: str) -> int:
        return view.prices.worst_case_nano(name, features.prompt_tokens, features.max_tokens)

    return {
        "policy": compiled.label,
        "rule": decision.rule,
        "model": decision.targets[0],
        "degraded": decision.degraded,
        **_told(
            msgspec.to_builtins(msgspec.structs.replace(features, last_user_text="")), msgspec.to_builtins(decision)
        ),
        "local_only": gate.local_only,
        "alternatives": _alternatives(view.prices, [model.name for model in view.settings.config.models], worst),
    }


def _imagined(prompt: str, policy: str, tags: tuple[str, ...], quality: int | None) -> ChatRequest:
    return ChatRequest(
        id="explain",
        model=f"auto:{policy}" if policy else "auto",
        messages=[{"role": "user", "content": prompt}],
        fields={},
        options=RequestOptions(tags=tags, quality=quality),
    )


def _told(features: dict[str, Any], decision: dict[str, Any] | Decision | None) -> dict[str, Any]:
    features = {name: value for name, value in features.items() if name != "last_user_text"}
    if not isinstance(decision, dict):
        return {"features": features, "difficulty": None, "targets": [], "rejected": [], "unmatched": []}
    return {
        "features": features,
        "difficulty": decision.get("difficulty"),
        "contributions": decision.get("contributions", []),
        "targets": decision.get("targets", []),
        "last_resort": decision.get("last_resort", []),
        "rejected": decision.get("rejected", []),
        "unmatched": decision.get("unmatched", []),
    }


def _alternatives(
    prices: PriceBook,
    models: Iterable[str],
    cost_nano: Callable[[str], int],
    *,
    at_ms: int | None = None,
    without: str = "",
) -> list[dict[str, Any]]:
    """What the same tokens would have cost elsewhere; None where no price is known."""
    return [
        {"model": name, "cost_usd": cost_nano(name) / NANO if prices.price(name, at_ms) is not None else None}
        for name in models
        if name != without
    ]
