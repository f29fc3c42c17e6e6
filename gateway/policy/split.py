"""What a policy does with prompts of many kinds, before anybody asks one: which rule takes them, and where they go.

The prompts are those that this project wrote to train and to probe with. They are scored by the rules, as in cases, and
every configured model is taken to be there: the figures say what a change of the policy changes, not what traffic does.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.errors import GatewayError
from gateway.policy.dial import Dialled
from gateway.policy.engine import CompiledPolicy
from gateway.policy.model import Policy
from gateway.policy.probe import questions
from gateway.policy.scorer import RuleScorer
from gateway.types import ChatRequest, Frozen, Principal

REFUSED = "refused"
"""The target of a prompt that no rule takes or no model can answer."""

_PRIVATE = (
    "Draft a reply to anna.berg@example.com about her refund.",
    "My card 4111 1111 1111 1111 was charged twice. What should I write to the bank?",
    "Call me back on +49 30 901820 tomorrow. Put that politely.",
    "Is DE89 3704 0044 0532 0130 00 a German IBAN?",
    "My password is hunter2-Xk9! Please make it stronger.",
    "Summarise: employee 078-05-1120 has been ill since May.",
)
_ASKING = Principal(key_id="check")


class Went(Frozen, frozen=True, kw_only=True):
    """Where one prompt goes: the rule that takes it, and the first target."""

    prompt: str
    rule: str
    target: str


class Moved(Frozen, frozen=True, kw_only=True):
    """One prompt under two policies."""

    was: Went
    now: Went


@functools.cache
def samples() -> tuple[str, ...]:
    """Some 1,200 prompts: small talk to proofs, examination questions, a few with personal data."""
    from gateway.policy.graded import anchors, subjects

    asked = [question.prompt for question in questions()]
    return (*asked, *(row.prompt for row in anchors()), *(row.prompt for row in subjects()), *_PRIVATE)


def went(policy: CompiledPolicy, prompts: Sequence[str]) -> Iterator[Went]:
    """One for each prompt, in order."""
    scorer = Dialled(RuleScorer())
    for prompt in prompts:
        request = ChatRequest(id="check", model="auto", messages=[{"role": "user", "content": prompt}], fields={})
        features = policy.features(request, _ASKING)
        try:
            local_only = policy.gate(features).local_only
            decision = policy.decide(
                features, scorer.score(features), unavailable=lambda _: None, local_only=local_only
            )
        except GatewayError as error:
            yield Went(prompt=prompt, rule=error.code or "", target=REFUSED)
        else:
            yield Went(prompt=prompt, rule=decision.rule, target=decision.targets[0])


def shares(found: Sequence[Went]) -> list[tuple[str, str, float]]:
    """Rule, target and the share of the prompts that go there, the largest first."""
    counted = Counter((one.rule, one.target) for one in found)
    return [(rule, target, count / len(found)) for (rule, target), count in counted.most_common()]


def moved(was: Sequence[Went], now: Sequence[Went]) -> list[Moved]:
    """Those of the same prompts whose rule or target is another one."""
    return [Moved(was=before, now=after) for before, after in zip(was, now, strict=True) if before != after]


def altered(was: Policy, now: Policy) -> list[tuple[str, str, str]]:
    """What is written differently: path (``cache.ttl``, ``rules.easy.when``), before, after; '' where it is not."""
    before, after = _flat(was), _flat(now)
    return [
        (path, _plain(before.get(path)), _plain(after.get(path)))
        for path in dict.fromkeys((*before, *after))
        if before.get(path) != after.get(path)
    ]


def _flat(policy: Policy) -> dict[str, Any]:
    """Every value by its path; rules by their names, in whose order they stand."""
    whole: dict[str, Any] = msgspec.to_builtins(policy)
    rules = {rule.pop("name"): rule for rule in whole.pop("rules")}
    paths: dict[str, Any] = {"order of rules": list(rules)}
    for top, value in (*whole.items(), *((f"rules.{name}", rule) for name, rule in rules.items())):
        inner = value if isinstance(value, dict) else {"": value}
        paths |= {f"{top}.{key}".rstrip("."): one for key, one in inner.items() if one is not None}
    return paths


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
