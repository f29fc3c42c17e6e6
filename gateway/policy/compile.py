"""From a policy as data to one that runs: checked at load, with file and line of what is wrong, and its expressions
tried, so that serving cannot trip over it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.config import ModelConfig
from gateway.policy.choosing import Wishes
from gateway.policy.engine import CompiledPolicy, CompiledRule, OnError, Origin
from gateway.policy.expressions import ANSWERED, FEATURES, SCORED, compiled
from gateway.policy.model import ContentsConfig, Policy, Rule, Use, Weighted, names_of, short_seconds
from gateway.policy.reach import always, unreachable
from gateway.pricing import PriceBook
from gateway.yamlfile import Document, did_you_mean

__all__ = ["CompiledPolicy", "compile_policy", "policy_hash", "unmetered"]


def unmetered(rule: str, error: str) -> None:
    """The listener of those who have no metrics: the command line and tests."""


def compile_policy(
    policy: Policy,
    document: Document,
    models: Sequence[ModelConfig],
    prices: PriceBook,
    on_error: OnError = unmetered,
    origins: Sequence[Origin] = (),
) -> CompiledPolicy:
    """Compile and check a policy against the configured models and what ``prices`` knows of them.

    ``origins``: where each rule stands, where not all of them stand in ``document``.

    Raises:
        ConfigError: with file, line and path: a syntax error, an unknown variable or function, an expression that is
            not a condition or fails on a sample request, a score or an answer's confidence in a local-only rule.
    """
    by_name = {model.name: model for model in models}
    places = tuple(origins) or tuple(Origin(document, f".rules[{index}]") for index in range(len(policy.rules)))
    rules = tuple(_rule(rule, *place) for rule, place in zip(policy.rules, places, strict=True))
    conditions = [(rule, rule.when.variables) for rule in rules if rule.when is not None]
    return CompiledPolicy(
        policy=policy,
        document=document,
        origins=places,
        models=by_name,
        prices=prices,
        on_error=on_error,
        rules=rules,
        hash=policy_hash(policy),
        gate_variables=_union(variables for rule, variables in conditions if rule.local_only),
        variables=_union(variables for _, variables in conditions),
        warnings=tuple(_warnings(policy, rules, document, places, by_name)),
    )


def policy_hash(policy: Policy) -> str:
    """The first twelve hex digits of the SHA-256 of the policy's canonical JSON: of how it decides, not of which other
    policies it is compared with or what is kept of its requests.
    """
    decides = msgspec.structs.replace(policy, experiment=None, contents=ContentsConfig())
    return hashlib.sha256(msgspec.json.encode(decides, order="deterministic")).hexdigest()[:12]


def _union(sets: Iterable[frozenset[str]]) -> tuple[str, ...]:
    return tuple(sorted(frozenset[str]().union(*sets)))


def _rule(rule: Rule, document: Document, path: str) -> CompiledRule:
    known = FEATURES if rule.local_only else (*FEATURES, *SCORED)
    when = compiled(rule.when, known, document, path, rule.local_only) if rule.when is not None else None
    escalate, canary = rule.escalate, rule.canary
    return CompiledRule(
        name=rule.name,
        use=names_of(rule.use),
        when=when,
        local_only=rule.local_only,
        escalate=compiled(escalate.when, (*FEATURES, *SCORED, *ANSWERED), document, f"{path}.escalate")
        if escalate
        else None,
        wishes=_wishes(rule, rule.use),
        hold_tokens=escalate.hold_tokens if escalate else 0,
        timeout_s=short_seconds(rule.timeout) if rule.timeout else None,
        params=tuple((name, msgspec.Raw(msgspec.json.encode(value))) for name, value in rule.params.items()),
        canary=canary,
        canary_use=names_of(canary.use) if canary else (),
        canary_wishes=_wishes(rule, canary.use) if canary else None,
        shadow=rule.shadow,
    )


def _wishes(rule: Rule, use: Use) -> Wishes:
    """Weights that are written are meant, also where no strategy is named."""
    weights = {each.model: each.weight for each in use if isinstance(each, Weighted)}
    return Wishes(
        strategy="weighted" if weights and rule.strategy == "order" else rule.strategy,
        weights=weights,
        max_wait_s=short_seconds(rule.max_wait) if rule.max_wait else None,
        max_cost_usd=rule.max_cost,
        ttft_ms=rule.slo.ttft_ms if rule.slo else None,
    )


def _warnings(
    policy: Policy,
    rules: Sequence[CompiledRule],
    document: Document,
    places: Sequence[Origin],
    models: Mapping[str, ModelConfig],
) -> Iterable[str]:
    def at(index: int, key: str) -> str:
        place = places[index]
        return f"{place.document.file}:{place.document.line(place.path, key)}: rule '{rules[index].name}'"

    if policy.baseline is not None and policy.baseline not in models:
        line = document.line("", "baseline")
        yield f"{document.file}:{line}: baseline '{policy.baseline}' is not a model of gateway.yaml"
    for index, rule in enumerate(rules):
        for name in (name for name, times in Counter(rule.use).items() if times > 1):
            yield f"{at(index, 'use')} names '{name}' twice: it is asked again where it failed"
        for key, name in _named(rule):
            if name not in models:
                yield f"{at(index, key)} names '{name}', which gateway.yaml lacks{did_you_mean(name, models)}"
            elif rule.local_only and not models[name].is_local:
                yield f"{at(index, key)} is local_only and will never use '{name}', which is hosted"
        if rule.wishes.max_wait_s is not None and not any(
            name in models and models[name].is_local for name in rule.names
        ):
            yield f"{at(index, 'max_wait')} bounds the wait for a local model and uses none"
        if rule.escalate is not None and not any(name in models and models[name].is_local for name in rule.use[:-1]):
            yield f"{at(index, 'escalate')} needs a local model, which says how sure it is, and another one behind it"
    for index, why in unreachable(rules):
        yield f"{at(index, 'name')} is never reached: {why}"
    if rules and not any(map(always, rules)):
        yield f"{at(len(rules) - 1, 'when')} is the last and has a condition: requests may match no rule"


def _named(rule: CompiledRule) -> Iterable[tuple[str, str]]:
    """The key and every model that stands under it."""
    yield from (("use", name) for name in rule.use)
    yield from (("canary", name) for name in rule.canary_use)
    yield from (("shadow", name) for name in (rule.shadow.use if rule.shadow else ()))
