"""Which of a rule's models are asked, in which order, and why the others are not.

What a model cannot do comes first, then what the rule forbids, then what is only wished for: a target that is too slow
is better than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from gateway.config import ModelConfig
from gateway.policy.model import Strategy
from gateway.policy.situation import Situation
from gateway.pricing import PriceBook
from gateway.types import NANO, Features, Rejected, Score

NO_KEY = "no api_key"
"""How the reason of a target without its API key begins."""

Unavailable = Callable[[str], str | None]
"""Why a model cannot be asked right now; None where it can."""

_UNKNOWN_QUALITY = 0.5
_YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a rule says about its targets: seconds, dollars, milliseconds; None where it says nothing."""

    strategy: Strategy = "order"
    weights: Mapping[str, float] | None = None
    max_wait_s: float | None = None
    max_cost_usd: float | None = None
    ttft_ms: float | None = None

    @property
    def weighs_cost(self) -> bool:
        """Whether what a target costs decides, alone or between equals."""
        return self.strategy in ("cheapest", "best")


class Asked(NamedTuple):
    """One request, as far as the choice of its targets goes."""

    features: Features
    score: Score
    situation: Situation
    unavailable: Unavailable
    local_only: bool


class Choice:
    """The choice for one request; ``rejected`` grows with every target that is passed over."""

    def __init__(self, models: Mapping[str, ModelConfig], prices: PriceBook, asked: Asked) -> None:
        self._models, self._prices, self._asked = models, prices, asked
        self._away: dict[str, str] = {}
        self.rejected: list[Rejected] = []

    def usable(self, names: Iterable[str], wishes: Wishes | None = None) -> list[str]:
        """Those that can be asked, in order; the others go to ``rejected``."""
        kept = []
        for name in names:
            reason = self._reason(name) or (self._too_dear(name, wishes) if wishes else None)
            if reason is None:
                kept.append(name)
            else:
                self.rejected.append(Rejected(model=name, reason=reason))
        return kept

    def ordered(self, names: Sequence[str], wishes: Wishes) -> list[str]:
        """In order of trial: by the rule's strategy, without those that know too little or are too slow, unless all."""
        for unfit in self._unfit(wishes):
            found = {name: reason for name in names if (reason := unfit(name)) is not None}
            if 0 < len(found) < len(names):
                self.rejected += (Rejected(model=name, reason=reason) for name, reason in found.items())
                names = [name for name in names if name not in found]
        return self.ranked(names, wishes)

    def _unfit(self, wishes: Wishes) -> Iterator[Callable[[str], str | None]]:
        """What may speak against a model that can be asked: for most requests nothing."""
        features, situation = self._asked.features, self._asked.situation
        if features.about_now or features.year:
            yield self._outdated
        if wishes.max_wait_s is not None or wishes.ttft_ms is not None or situation.deadline_ms is not None:
            yield lambda name: self._too_slow(name, wishes)

    def ranked(self, names: Sequence[str], wishes: Wishes) -> list[str]:
        """By the rule's strategy."""
        return sorted(names, key=self._rank(wishes)) if wishes.strategy != "order" else list(names)

    def degraded(self, wished: Sequence[str], targets: Sequence[str]) -> str:
        """What ``x-gateway-degraded`` says where a rule wishes for hosted models and none can be asked."""
        models = self._models
        if self._asked.local_only or any(not models[name].is_local for name in targets):
            return ""
        away = [self._away[name] for name in wished if name in self._away]
        if away:
            return "no-hosted-key" if all(reason.startswith(NO_KEY) for reason in away) else "hosted-unavailable"
        hosted = any(name in models and not models[name].is_local for name in wished)
        return "hosted-unavailable" if hosted and not targets else ""

    def _reason(self, name: str) -> str | None:
        model = self._models.get(name)
        if model is None:
            return "not in gateway.yaml"
        if self._asked.local_only and not model.is_local:
            return "local only"
        reason = incapable(self._prices, self._asked.features, name)
        if reason is None and (reason := self._asked.unavailable(name)) is not None and not model.is_local:
            self._away[name] = reason
        return reason

    def _too_dear(self, name: str, wishes: Wishes) -> str | None:
        if wishes.max_cost_usd is None:
            return None
        worst = self._asked.situation.worst_nano(name)
        if worst is None or worst <= wishes.max_cost_usd * NANO:
            return None
        return f"may cost {worst / NANO:.6f} USD, over max_cost {wishes.max_cost_usd:g}"

    def _outdated(self, name: str) -> str | None:
        """A question about a year wants a model that has seen some of it, one about now a model of the last year."""
        features, cutoff = self._asked.features, self._models[name].knowledge_cutoff
        if cutoff is None:
            return None
        today = datetime.fromtimestamp(self._asked.situation.now_ms / 1000, UTC).date()
        wanted = date(features.year, 1, 1) if features.year else today - _YEAR
        return f"its knowledge ends {cutoff}" if cutoff < wanted else None

    def _too_slow(self, name: str, wishes: Wishes) -> str | None:
        situation = self._asked.situation
        live = situation.live(name)
        if wishes.max_wait_s is not None and live.wait_s > wishes.max_wait_s:
            return f"would wait {live.wait_s:.2f} s, over max_wait {wishes.max_wait_s:g} s"
        expected = (live.ttft_ms or 0.0) + live.wait_s * 1000
        if wishes.ttft_ms is not None and expected > wishes.ttft_ms:
            return f"first token expected after {expected:.0f} ms, slo {wishes.ttft_ms:g} ms"
        if situation.deadline_ms is not None and expected > situation.deadline_ms:
            return f"first token expected after {expected:.0f} ms, deadline {situation.deadline_ms:g} ms"
        return None

    def _rank(self, wishes: Wishes) -> Callable[[str], tuple[float, ...]]:
        return {
            "cheapest": self._by_cost,
            "fastest": self._by_speed,
            "best": self._by_quality,
            "weighted": lambda name: self._by_weight(name, wishes.weights or {}),
        }[wishes.strategy]

    def _by_cost(self, name: str) -> tuple[float, ...]:
        likely = self._asked.situation.expected_nano(name)
        return (float("inf") if likely is None else float(likely),)

    def _by_speed(self, name: str) -> tuple[float, ...]:
        """A target that fails half of the time costs twice the wait; one that is not known is tried, to be known."""
        live = self._asked.situation.live(name)
        return (((live.ttft_ms or 0.0) + live.wait_s * 1000) / max(1e-3, 1.0 - live.error_rate),)

    def _by_quality(self, name: str) -> tuple[float, ...]:
        return (-dict(self._asked.score.quality).get(name, _UNKNOWN_QUALITY), *self._by_cost(name))

    def _by_weight(self, name: str, weights: Mapping[str, float]) -> tuple[float, ...]:
        """A weighted draw without replacement: the largest of u^(1/w) is first (Efraimidis and Spirakis, 2006)."""
        return (-(self._asked.situation.draw("request", f"weight:{name}") ** (1 / weights.get(name, 1.0))),)


def incapable(prices: PriceBook, features: Features, name: str) -> str | None:
    """What a model lacks for a request: a capability, or context for prompt and answer. None: nothing known."""
    missing = [need for need in features.needs if need not in prices.supports(name)]
    if missing:
        return f"lacks {', '.join(missing)}"
    context, needed = prices.context(name), features.prompt_tokens + features.max_tokens
    if context is not None and needed > context:
        return f"context of {context} < {needed} tokens"
    return None
