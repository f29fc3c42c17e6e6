"""Why a request went where it went, told the same way for a request that was answered and for one that is imagined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway import costs
from gateway.errors import GatewayError, InvalidRequest
from gateway.policy.dial import DIALLED, without
from gateway.policy.situation import Situation, priced
from gateway.policy.unmatched import why_not
from gateway.types import NANO, ChatRequest, Decision, LedgerEntry, Principal, RequestOptions, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from gateway.policy.engine import CompiledPolicy
    from gateway.policy.replay import Told
    from gateway.view import View

_IMAGINED = Principal(key_id="explain", name="explain")


def of_entry(entry: LedgerEntry, view: View) -> dict[str, Any]:
    """The reply of ``GET /v1/requests/{id}``. What is not in the row is found again from what is."""
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
    decision, warm = detail.get("decision"), detail.get("warm") or {}
    features = detail.get("features") or {}
    policy = view.policies.get(entry.policy.partition("@")[0])
    zone = policy.policy.time_zone if policy else "UTC"
    situation = Situation(now_ms=entry.ts_ms, budget_left=detail.get("budget_left", 1.0))
    values = _values(features, decision, situation, zone)
    return {
        "id": row.pop("request_id"),
        "object": "gateway.request",
        **row,
        **{f"{name}_usd": value for name, value in money.items()},
        **(dict.fromkeys(("cost_usd", "baseline_usd", "saved_usd")) if entry.unpriced else {}),
        **_told(features, decision, values),
        "expected": costs.expected(view, decision, features, warm, entry.ts_ms),
        "local_only": detail.get("local_only", False),
        **({"experiment": detail["experiment"]} if "experiment" in detail else {}),
        **{name: detail[name] for name in ("confidence", "raw_confidence") if name in detail},
        "attempts": detail.get("attempts", []),
        **{name: detail[name] for name in ("operation", "inputs") if name in detail},
        "alternatives": [] if "operation" in detail else costs.elsewhere(view, entry, usage, warm),
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
    world = priced(view.prices, view.settings.model, features, view.prices.now_ms)
    decision = compiled.decide(
        features, score, unavailable=view.fleet.unavailable, local_only=gate.local_only, situation=world
    )
    told = msgspec.to_builtins(msgspec.structs.replace(features, last_user_text=""))
    decided = msgspec.to_builtins(decision)
    return {
        "policy": compiled.label,
        "rule": decision.rule,
        "model": decision.targets[0],
        "degraded": decision.degraded,
        **_told(told, decided, _values(told, decided, world, compiled.policy.time_zone)),
        "local_only": gate.local_only,
        **_experiment(view, request, compiled, local_only=gate.local_only),
        "expected": costs.expected(view, decided, told, {}, world.now_ms),
        "alternatives": costs.at_most(view, world),
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
    world = priced(view.prices, view.settings.model, features, view.prices.now_ms)
    score = view.scorer.score(features)
    try:
        decision = policy.decide(
            features, score, unavailable=view.fleet.unavailable, local_only=local_only, situation=world
        )
    except GatewayError:
        return "", 0, ""
    first = decision.targets[0]
    return first, world.worst_nano(first), decision.rule


def _imagined(prompt: str, policy: str, tags: tuple[str, ...], quality: int | None) -> ChatRequest:
    return ChatRequest(
        id="explain",
        model=f"auto:{policy}" if policy else "auto",
        messages=[{"role": "user", "content": prompt}],
        fields={},
        options=RequestOptions(tags=tags, quality=quality),
    )


def _told(
    features: dict[str, Any], decision: dict[str, Any] | Decision | None, values: Mapping[str, Any]
) -> dict[str, Any]:
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
        "unmatched": [_unmatched(one, values) for one in decision.get("unmatched", [])],
    }


def _neutral(decision: dict[str, Any]) -> float | None:
    """The difficulty that the dial has moved."""
    difficulty = decision.get("difficulty")
    if difficulty is None:
        return None
    return round(without(difficulty, decision.get("contributions") or (), DIALLED), 3)


def _values(
    features: Mapping[str, Any], decision: Mapping[str, Any] | None, situation: Situation, zone: str
) -> dict[str, Any]:
    """What the conditions of rules could read."""
    hour, weekday = situation.clock(zone)
    scored = {name: (decision or {}).get(name) for name in ("difficulty", "scorer")}
    known = {"hour": hour, "weekday": weekday, "budget_left": situation.budget_left}
    return {**features, **known, **{name: value for name, value in scored.items() if value is not None}}


def _unmatched(rule: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    why = why_not(rule["model"], rule["reason"], values)
    return {"model": why.rule, "when": why.when, "clause": why.clause, "values": why.values, "reason": why.reason}
