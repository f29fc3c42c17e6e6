"""What stands in ``policies/*.yaml``: data, nothing compiled yet."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gateway.config import Strict
from gateway.types import Scope
from gateway.yamlfile import Document

PINNED = "pinned"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = r"^[1-9][0-9]{0,6}[smhd]$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Name = Annotated[str, Meta(pattern=_NAME, description="Letters, digits, '.', '_' and '-', at most 64.")]
Duration = Annotated[str, Meta(pattern=_DURATION, description="A number and s, m, h or d: 90s, 30m, 24h, 7d.")]
Expression = Annotated[str, Meta(min_length=1, description="CEL over the features: see docs/policies.md.")]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]


class CacheConfig(Strict, frozen=True, kw_only=True):
    """Which stored answers may be reused, for whom, and how long. ``max_wrong_rate`` is a share of semantic hits."""

    exact: bool = True
    semantic: bool = True
    max_wrong_rate: Share = 0.01
    scope: Scope = "key"
    ttl: Duration = "24h"

    @property
    def ttl_s(self) -> int:
        return seconds(self.ttl)


class Escalate(Strict, frozen=True, kw_only=True):
    """Move on to the next target while the first ``hold_tokens`` of the answer are held back and ``when`` is true."""

    when: Expression
    hold_tokens: Positive = 24


class Rule(Strict, frozen=True, kw_only=True):
    """Where a request goes that ``when`` is true of; without ``when``, every request."""

    name: Name
    use: Annotated[tuple[str, ...], Meta(min_length=1, description="Models of gateway.yaml, in order of trial.")]
    when: Expression | None = None
    local_only: bool = False
    escalate: Escalate | None = None


class Policy(Strict, frozen=True, kw_only=True):
    """One routing policy. ``baseline`` is the model that savings are measured against."""

    name: Name
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, description="The first one that matches wins.")]
    baseline: str | None = None
    cache: CacheConfig = CacheConfig()
    default_max_tokens: Positive = 1024
    on_budget_exhausted: Literal["local", "cheaper", "reject"] = "local"
    on_redis_down: Literal["allow", "deny"] | None = None
    unpriced: Literal["reject", "allow"] = "reject"


def seconds(duration: str) -> int:
    """Seconds of ``90s``, ``30m``, ``24h`` or ``7d``."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


def read_policy(document: Document) -> Policy:
    """The policy in a file.

    Raises:
        ConfigError: with file, line and path: an unknown key, a wrong type, a name used twice.
    """
    policy = document.convert(Policy, document.value or {})
    seen: set[str] = set()
    for index, rule in enumerate(policy.rules):
        if rule.name in seen:
            raise document.error(f"rule '{rule.name}' is defined twice", f".rules[{index}]", "name")
        if rule.name == PINNED:
            raise document.error(f"'{PINNED}' is the rule of requests that name a model", f".rules[{index}]", "name")
        seen.add(rule.name)
    return policy
