"""What stands in ``policies/*.yaml``: data, nothing compiled yet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from gateway.config import Strict
from gateway.types import Scope
from gateway.yamlfile import Document

PINNED = "pinned"
ESCALATED = "escalated"
"""The ``error`` of a try that was given up because the model was not sure enough."""

Strategy = Literal["order", "weighted", "cheapest", "fastest", "best"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Python's $ is also before a line break at the end.
_DURATION = r"^[1-9][0-9]{0,6}[smhd]$(?!\n)"
_SHORT = r"^[1-9][0-9]{0,6}(ms|s|m)$(?!\n)"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)"

Name = Annotated[str, Meta(pattern=_NAME, description="Letters, digits, '.', '_' and '-', at most 64.")]
Duration = Annotated[str, Meta(pattern=_DURATION, description="A number and s, m, h or d: 90s, 30m, 24h, 7d.")]
Expression = Annotated[
    str, Meta(min_length=1, max_length=8000, description="CEL over the features: see docs/policies.md.")
]
ShortDuration = Annotated[str, Meta(pattern=_SHORT, description="A number and ms, s or m: 250ms, 30s, 2m.")]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]
Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
Usd = Annotated[float, Meta(gt=0, le=1e9, description="US dollars.")]
CostQuality = Annotated[int, Meta(ge=0, le=10, description="0 cheapest … 10 best; 5: as the thresholds are written.")]
By = Literal["key", "session", "user", "request"]
MorePercent = Annotated[str, Meta(pattern=r"^\+[0-9]{1,4}(\.[0-9]{1,3})?%$(?!\n)", description="How much more: +20%.")]

# What the gateway itself reads or the client alone may say.
_NO_PARAMS = ("model", "messages", "stream", "stream_options", "n", "user", "tools", "functions", "metadata")


class CacheConfig(Strict, frozen=True, kw_only=True):
    """Which stored answers may be reused, for whom, and how long. ``max_wrong_rate`` is a share of semantic hits.

    ``mode``: what makes two questions one. ``faq`` is for canned answers: there, an intent decides.
    ``max_temperature``: above it every request is answered afresh; one that names none has 1, as with OpenAI.
    """

    exact: bool = True
    semantic: bool = True
    max_wrong_rate: Share = 0.01
    mode: Literal["question", "faq"] = "question"
    scope: Scope = "key"
    ttl: Duration = "24h"
    max_temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0

    @property
    def ttl_s(self) -> int:
        return seconds(self.ttl)


class ContentsConfig(Strict, frozen=True, kw_only=True):
    """What of prompts and answers is kept in the ledger's database: nothing, both with personal data and secrets
    replaced, or both as they were, encrypted; for how long; and whether ``gateway export`` may take the rows out, with
    what is kept of them.
    """

    keep: Literal["none", "redacted", "encrypted"] = "none"
    retention: Duration = "30d"
    export: bool = False

    @property
    def keeps(self) -> bool:
        return self.keep != "none"

    @property
    def retention_s(self) -> int:
        return seconds(self.retention)


class Escalate(Strict, frozen=True, kw_only=True):
    """Move on to the next target while the first ``hold_tokens`` of the answer are held back and ``when`` is true."""

    when: Expression
    hold_tokens: Tokens = 24


class Weighted(Strict, frozen=True, kw_only=True):
    """A model with its share of the requests, in proportion to the weights of the others."""

    model: str
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0


Use = Annotated[
    tuple[str | Weighted, ...], Meta(min_length=1, description="Models of gateway.yaml, in order of trial.")
]


class Canary(Strict, frozen=True, kw_only=True):
    """Send ``share`` of the requests to other models. The same ``by`` always gets the same side."""

    use: Use
    share: Share
    by: By = "session"


class Shadow(Strict, frozen=True, kw_only=True):
    """Ask other models as well, for comparison: not awaited, never shown, at most ``usd_per_day``."""

    use: Annotated[tuple[str, ...], Meta(min_length=1)]
    usd_per_day: Usd
    share: Share = 1.0


class Slo(Strict, frozen=True, kw_only=True):
    """What a target has to keep to be asked: the time to its first token, in milliseconds."""

    ttft_ms: Positive


class Rule(Strict, frozen=True, kw_only=True):
    """Where a request goes that ``when`` is true of; without ``when``, every request.

    ``max_wait`` bounds the predicted wait for a local model, ``max_cost`` the worst case in dollars, ``timeout`` the
    whole call. ``params`` are fields of the body that are sent instead of the client's.
    """

    name: Name
    use: Use
    when: Expression | None = None
    local_only: bool = False
    strategy: Strategy = "order"
    escalate: Escalate | None = None
    max_wait: ShortDuration | None = None
    max_cost: Usd | None = None
    timeout: ShortDuration | None = None
    slo: Slo | None = None
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    canary: Canary | None = None
    shadow: Shadow | None = None


class Stop(Strict, frozen=True, kw_only=True):
    """When an arm has lost: how much worse than the control it may not surely be.

    ``cost`` and ``latency`` in percent of the control's, ``errors`` in percentage points, ``quality`` in points of
    feedback, which is from -1 to 1.
    """

    cost: MorePercent | None = None
    latency: MorePercent | None = None
    errors: MorePercent | None = None
    quality: Annotated[float, Meta(ge=-2, lt=0)] | None = None


class Experiment(Strict, frozen=True, kw_only=True):
    """Send shares of the requests for this policy to other policies, to compare them. What is left over stays with this
    policy: the control. The same ``by`` always gets the same arm.
    """

    name: Name
    arms: Annotated[
        dict[Name, Annotated[float, Meta(gt=0, lt=1)]],
        Meta(min_length=1, max_length=8, description="Shares of the requests, by the policy that decides them."),
    ]
    by: By = "session"
    stop: Stop = Stop()


class Policy(Strict, frozen=True, kw_only=True):
    """One routing policy. ``baseline`` is the model that savings are measured against, ``time_zone`` that of ``hour``
    and ``weekday``. ``extends`` names the policy whose keys and rules hold where this one says nothing.
    ``cost_quality`` is the ``quality`` of requests that ask for none.
    """

    name: Name
    rules: Annotated[tuple[Rule, ...], Meta(description="The first one that matches wins.")] = ()
    extends: Name | None = None
    baseline: str | None = None
    time_zone: str = "UTC"
    cache: CacheConfig = CacheConfig()
    contents: ContentsConfig = ContentsConfig()
    default_max_tokens: Tokens = 1024
    cost_quality: CostQuality = 5
    on_budget_exhausted: Literal["local", "cheaper", "reject"] = "local"
    on_redis_down: Literal["allow", "deny"] | None = None
    unpriced: Literal["reject", "allow"] = "reject"
    experiment: Experiment | None = None


def seconds(duration: str) -> int:
    """Seconds of ``90s``, ``30m``, ``24h`` or ``7d``."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


def short_seconds(duration: str) -> float:
    """Seconds of ``250ms``, ``30s`` or ``2m``."""
    return int(duration[:-2]) / 1000 if duration.endswith("ms") else float(seconds(duration))


def names_of(use: Iterable[str | Weighted]) -> tuple[str, ...]:
    """The models, without their weights."""
    return tuple(each if isinstance(each, str) else each.model for each in use)


def read_policy(document: Document) -> Policy:
    """The policy in a file, without what it inherits.

    Raises:
        ConfigError: with file, line and path: an unknown key, a wrong type, a name used twice.
    """
    policy = document.convert(Policy, document.value or {})
    if not policy.rules and policy.extends is None:
        raise document.error("a policy needs at least one rule", "", "rules")
    try:
        ZoneInfo(policy.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise document.error(f"no time zone is called '{policy.time_zone}'", "", "time_zone") from None
    if policy.experiment is not None:
        _check_experiment(policy.name, policy.experiment, document)
    seen: set[str] = set()
    for index, rule in enumerate(policy.rules):
        at = f".rules[{index}]"
        if rule.name in seen:
            raise document.error(f"rule '{rule.name}' is defined twice", at, "name")
        if rule.name == PINNED:
            raise document.error(f"'{PINNED}' is the rule of requests that name a model", at, "name")
        _check_params(rule.params, document, f"{at}.params")
        seen.add(rule.name)
    return policy


def _check_params(params: Mapping[str, Any], document: Document, at: str) -> None:
    for name, value in params.items():
        if name in _NO_PARAMS:
            raise document.error(f"'{name}' is not a parameter that a rule may set", at, name)
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:  # a set or a date of YAML's, or infinity
            raise document.error(f"not to be sent as JSON: {error}", at, name) from None


def _check_experiment(name: str, experiment: Experiment, document: Document) -> None:
    if name in experiment.arms:
        reason = f"'{name}' is the control: it gets what the others leave"
        raise document.error(reason, ".experiment.arms", name)
    total = sum(experiment.arms.values())
    if total >= 1:
        raise document.error(f"the shares come to {total:g} and leave nothing for the control", ".experiment", "arms")
