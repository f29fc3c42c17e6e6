"""Why a request went where it went, told the same way for a request that was answered and for one that is imagined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.errors import GatewayError, InvalidRequest
from gateway.policy.dial import DIALLED, without
from gateway.types import NANO, ChatRequest, Decision, LedgerEntry, Principal, RequestOptions, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from gateway.pipeline import View
    from gateway.policy.engine import CompiledPolicy
    from gateway.policy.replay import Told
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
        **({"experiment": detail["experiment"]} if "experiment" in detail else {}),
        **{name: detail[name] for name in ("confidence", "raw_confidence") if name in detail},
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
    view: View,
    prompt: str,
    *,
    policy: str = "",
    tags: tuple[str, ...] = (),
    quality: int | None = None,
    embed: Callable[[str], NDArray[np.float32]] | None = None,
) -> dict[str, Any]:
    """What would happen to ``prompt`` now; nothing is called and nothing is charged.

    ``embed`` is asked where the score hangs on it, as in service; without it the rules score.

    Raises:
        GatewayError: it would be refused.
    """
    request = _imagined(prompt, policy, tags, quality)
    compiled = view.policies.get(policy or view.settings.config.policies.default)
    if compiled is None:
        from gateway.errors import NotFound

        raise NotFound(f"no policy named '{policy}'", code="model_not_found")
    features = compiled.features(request, _IMAGINED)
    gate = compiled.gate(features)
    wanted = embed is not None and view.scorer.wants_embedding(features)
    score = view.scorer.score(features, embed(prompt) if embed is not None and wanted else None)
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
        **_experiment(view, request, compiled, local_only=gate.local_only),
        "alternatives": _alternatives(view.prices, [model.name for model in view.settings.config.models], worst),
    }


def _experiment(view: View, request: ChatRequest, policy: CompiledPolicy, *, local_only: bool) -> dict[str, Any]:
    """What each arm would make of it; which one it is in hangs on who asks. What must stay local is in none."""
    experiment = view.policies.experiments.get(policy.name)
    if experiment is None or local_only:
        return {}
    arms = []
    for name, share in experiment.shares.items():
        chosen = view.policies.policies[name]
        model, _, rule = _outcome(view, chosen, request)
        arms.append({"arm": name, "share": round(share, 9), "policy": chosen.label, "rule": rule, "model": model})
    return {"experiment": {"name": experiment.name, "by": experiment.by, "arms": arms}}


def compare(view: View, policy: CompiledPolicy, lines: Iterable[Mapping[str, Any]]) -> Iterator[Told]:
    """What ``policy`` would make of prompts beside the policy in force of its name, or the default one.

    Costs are worst cases, since nobody has answered.

    Raises:
        InvalidRequest: a line has neither ``prompt`` nor ``messages``.
    """
    from gateway.policy.replay import Told

    now = view.policies.get(policy.name) or view.policies.policies[view.policies.default]
    for number, line in enumerate(lines):
        messages = line.get("messages") or ([{"role": "user", "content": line["prompt"]}] if "prompt" in line else None)
        if not isinstance(messages, list):
            raise InvalidRequest(f"line {number + 1} has neither 'prompt' nor 'messages'")
        request = ChatRequest(id=f"line-{number + 1}", model="auto", messages=messages, fields={})
        (was, cost_was, rule_was), (first, cost, rule) = (_outcome(view, one, request) for one in (now, policy))
        yield Told(
            request_id=request.id,
            ts_ms=0,
            team="",
            key_id=_IMAGINED.key_id,
            was=was,
            now=first,
            rule_was=rule_was,
            rule_now=rule,
            cost_was_nano=cost_was or 0,
            cost_nano=cost,
        )


def _outcome(view: View, policy: CompiledPolicy, request: ChatRequest) -> tuple[str, int | None, str]:
    """First target, worst case in nano-dollars (None: no known price) and rule; '' where it is refused."""
    features = policy.features(request, _IMAGINED)
    local_only = policy.gate(features).local_only
    try:
        decision = policy.decide(
            features, view.scorer.score(features), unavailable=view.fleet.unavailable, local_only=local_only
        )
    except GatewayError:
        return "", 0, ""
    first = decision.targets[0]
    priced = view.prices.price(first) is not None
    cost = view.prices.worst_case_nano(first, features.prompt_tokens, features.max_tokens) if priced else None
    return first, cost, decision.rule


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
        "scorer": decision.get("scorer", ""),
        "neutral_difficulty": _neutral(decision),
        "targets": decision.get("targets", []),
        "last_resort": decision.get("last_resort", []),
        "rejected": decision.get("rejected", []),
        "unmatched": decision.get("unmatched", []),
    }


def _neutral(decision: dict[str, Any]) -> float | None:
    """The difficulty that the dial has moved."""
    difficulty = decision.get("difficulty")
    if difficulty is None:
        return None
    return round(without(difficulty, decision.get("contributions") or (), DIALLED), 3)


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
