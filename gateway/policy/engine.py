"""A policy that decides: the gate and the route of a request. Pure, microseconds, no network.

A rule's expressions share one CEL context, because filling it costs more than evaluating: about 1 µs a variable, 5 µs a
list, against 0.4 µs for an expression.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cel
import msgspec

from gateway.config import ModelConfig
from gateway.errors import Forbidden, GatewayError, NotFound, Overloaded
from gateway.features import extract
from gateway.policy.choosing import Asked, Choice, Unavailable, Wishes
from gateway.policy.model import PINNED, Canary, Policy, Shadow
from gateway.policy.situation import NOWHERE, Situation
from gateway.pricing import PriceBook
from gateway.types import ChatRequest, Decision, Features, Frozen, Principal, Rejected, Score
from gateway.yamlfile import Document

OnError = Callable[[str, str], None]
"""Told the rule and the error when an expression fails while serving: what is metered."""

EVALUATION_ERRORS = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError)
"""What CEL raises."""


class Program(Protocol):
    """A compiled CEL expression."""

    def execute(self, context: Any) -> Any: ...
    def variables(self) -> list[str]: ...
    def functions(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression and which of the features it reads."""

    source: str
    program: Program
    variables: frozenset[str]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule whose expressions run. ``when`` is None where the rule matches everything.

    ``canary_use`` and ``canary_wishes`` are what ``use`` and ``wishes`` are for the requests of the canary.
    """

    name: str
    use: tuple[str, ...]
    when: Expression | None
    local_only: bool
    escalate: Expression | None
    wishes: Wishes
    hold_tokens: int = 0
    timeout_s: float | None = None
    params: tuple[tuple[str, msgspec.Raw], ...] = ()
    canary: Canary | None = None
    canary_use: tuple[str, ...] = ()
    canary_wishes: Wishes | None = None
    shadow: Shadow | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every model the rule may answer with."""
        return tuple(dict.fromkeys(self.use + self.canary_use))


class Origin(NamedTuple):
    """Where a rule is written: the file, and the path in it."""

    document: Document
    path: str


class GateResult(Frozen, frozen=True, kw_only=True):
    """Whether a request must stay here, and the rule that says so."""

    local_only: bool = False
    rule: str = ""


_OPEN = GateResult()
_CLOCK = frozenset({"hour", "weekday"})
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class CompiledPolicy:
    """A policy that can decide: immutable, shared by all requests of a worker until a reload swaps it.

    ``hash`` covers what the policy means, not how its file is written. ``gate_variables`` and ``variables`` are all
    that the local-only rules, and all rules, read. ``prices`` knows contexts and capabilities.
    """

    policy: Policy
    document: Document
    origins: tuple[Origin, ...]
    models: Mapping[str, ModelConfig]
    prices: PriceBook
    on_error: OnError
    rules: tuple[CompiledRule, ...]
    hash: str
    gate_variables: tuple[str, ...]
    variables: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.policy.name

    @functools.cached_property
    def label(self) -> str:
        """``name@hash``."""
        return f"{self.policy.name}@{self.hash}"

    @functools.cached_property
    def timed(self) -> bool:
        """Whether a rule reads the clock."""
        escalates = (rule.escalate.variables for rule in self.rules if rule.escalate)
        return not _CLOCK.isdisjoint(frozenset(self.variables).union(*escalates))

    @functools.cached_property
    def reads_budget(self) -> bool:
        """Whether a rule reads what is left of a budget, which is known once a request is admitted."""
        return "budget_left" in self.variables

    @functools.cached_property
    def weighs_cost(self) -> bool:
        """Whether a rule compares what its targets cost, so that it matters what a conversation has cached where."""
        wishes = [each for rule in self.rules for each in (rule.wishes, rule.canary_wishes) if each]
        return any(each.weighs_cost for each in wishes)

    @functools.cached_property
    def gate_rules(self) -> tuple[CompiledRule, ...]:
        """The rules that keep a request here."""
        return tuple(rule for rule in self.rules if rule.local_only)

    def features(self, request: ChatRequest, principal: Principal) -> Features:
        """What the rules look at, with the policy's own answer where the request leaves something open."""
        tokens, quality = self.policy.default_max_tokens, self.policy.cost_quality
        return extract(request, principal, default_max_tokens=tokens, default_quality=quality)

    def gate(self, features: Features) -> GateResult:
        """Whether a local-only rule, wherever it stands, matches. An expression that fails counts as a match."""
        if not self.gate_rules:
            return _OPEN
        context = _context(self.gate_variables, features)
        for rule in self.gate_rules:
            if self._matches(rule, context):
                return GateResult(local_only=True, rule=rule.name)
        return GateResult()

    def decide(
        self,
        features: Features,
        score: Score,
        *,
        unavailable: Unavailable,
        local_only: bool = False,
        pinned: str | None = None,
        situation: Situation = NOWHERE,
    ) -> Decision:
        """The targets of a request in order of trial, and why.

        ``unavailable`` gives a reason that begins with ``no api_key`` for a target that has none. A pinned model is
        asked whatever is known of its capabilities: the client chose it.

        Raises:
            NotFound: ``pinned`` is not a configured model (``model_not_found``).
            Forbidden: a local-only request is pinned to a hosted model (``local_only``).
            Overloaded: nothing is left to ask (``no_target_available``, ``no_local_target``), or no rule matches
                (``no_rule_matched``).
        """
        if pinned is not None:
            return self._pinned(score, unavailable, local_only, pinned)
        rule, unmatched = self._first_match(features, score, situation)
        arm, use, wishes = _arm(rule, situation)
        choice = Choice(self.models, self.prices, Asked(features, score, situation, unavailable, local_only))
        targets = choice.ordered(choice.usable(use, wishes), wishes)
        others = choice.usable([name for name in self._local_models if name not in use])
        degraded = choice.degraded(use, targets)
        if degraded or not targets:
            targets, others = targets + others, []
        if not targets:
            raise _nothing_left(choice, local_only)
        return Decision(
            rule=rule.name,
            targets=tuple(targets),
            last_resort=tuple(others),
            arm=arm,
            shadow=() if local_only else _shadow(rule, situation, targets[0]),
            params=rule.params,
            timeout_s=rule.timeout_s,
            local_only=local_only,
            difficulty=score.difficulty,
            contributions=score.contributions,
            quality=score.quality,
            scorer=score.scorer,
            rejected=tuple(choice.rejected),
            unmatched=unmatched,
            degraded=degraded,
        )

    def reordered(self, decision: Decision, features: Features, situation: Situation) -> Decision:
        """The same targets in the order of what is known by now: neither more of them nor others."""
        rule = self.rule(decision.rule)
        if rule is None:
            return decision
        _, use, wishes = _arm(rule, situation)
        score = Score(difficulty=decision.difficulty or 0.0, quality=decision.quality)
        asked = Asked(features, score, situation, lambda _: None, decision.local_only)
        wished = [name for name in decision.targets if name in use]
        targets = Choice(self.models, self.prices, asked).ranked(wished, wishes)
        targets += [name for name in decision.targets if name not in use]
        shadow = () if decision.local_only else _shadow(rule, situation, targets[0])
        return msgspec.structs.replace(decision, targets=tuple(targets), shadow=shadow)

    def escalates(self, decision: Decision, features: Features, confidence: float, situation: Situation) -> bool:
        """Whether an answer of this confidence (0 … 1) is to be given up. An expression that fails keeps it."""
        rule = self.rule(decision.rule)
        if rule is None or rule.escalate is None:
            return False
        score = Score(difficulty=decision.difficulty or 0.0, scorer=decision.scorer)
        context = _context(
            rule.escalate.variables, features, {**self._beside(score, situation), "confidence": confidence}
        )
        try:
            return rule.escalate.program.execute(context) is True
        except EVALUATION_ERRORS as error:
            self.on_error(rule.name, str(error))
            return False

    def rule(self, name: str) -> CompiledRule | None:
        """The rule of that name."""
        return self._by_name.get(name)

    @functools.cached_property
    def _by_name(self) -> Mapping[str, CompiledRule]:
        return {rule.name: rule for rule in self.rules}

    def for_budget(
        self, decision: Decision, fits: Callable[[str], bool] = lambda _: False, *, whole: bool = True
    ) -> Decision | None:
        """The same decision with what may still be tried once a budget is spent. None: answer 402.

        ``fits``: whether the worst case of a model is still left. ``whole``: a budget of the request is spent, and not
        only one model's, which would leave all other models to be tried.
        """
        rule = self.policy.on_budget_exhausted
        candidates = (*decision.targets, *decision.last_resort)
        kept: list[str] = []
        for name in candidates:
            local = self.models[name].is_local and rule != "reject"
            if local or ((not whole or rule == "cheaper") and fits(name)):
                kept.append(name)
        if not kept or (whole and rule == "reject"):
            return None
        spent = tuple(Rejected(model=name, reason="budget exhausted") for name in candidates if name not in kept)
        return msgspec.structs.replace(
            decision, targets=tuple(kept), last_resort=(), rejected=decision.rejected + spent, degraded="budget"
        )

    @functools.cached_property
    def _local_models(self) -> tuple[str, ...]:
        return tuple(name for name, model in self.models.items() if model.is_local)

    def _pinned(self, score: Score, unavailable: Unavailable, local_only: bool, name: str) -> Decision:
        model = self.models.get(name)
        if model is None:
            raise NotFound(f"the model '{name}' does not exist", code="model_not_found", param="model")
        if local_only and not model.is_local:
            raise Forbidden(f"this request must stay local and '{name}' is hosted", code="local_only", param="model")
        reason = unavailable(name)
        if reason is not None:
            raise Overloaded(f"'{name}' cannot be asked: {reason}", code="no_target_available")
        return Decision(
            rule=PINNED,
            targets=(name,),
            local_only=local_only,
            difficulty=score.difficulty,
            contributions=score.contributions,
            scorer=score.scorer,
        )

    def _first_match(
        self, features: Features, score: Score, situation: Situation
    ) -> tuple[CompiledRule, tuple[Rejected, ...]]:
        context = _context(self.variables, features, self._beside(score, situation))
        unmatched: list[Rejected] = []
        for rule in self.rules:
            if self._matches(rule, context):
                return rule, tuple(unmatched)
            unmatched.append(Rejected(model=rule.name, reason=rule.when.source if rule.when else ""))
        raise Overloaded(f"no rule of policy '{self.name}' matches this request", code="no_rule_matched")

    def _beside(self, score: Score, situation: Situation) -> Mapping[str, Any]:
        """The values of the variables that are not features."""
        beside: dict[str, Any] = {"difficulty": score.difficulty, "scorer": score.scorer}
        beside["budget_left"] = situation.budget_left
        if self.timed:
            beside["hour"], beside["weekday"] = situation.clock(self.policy.time_zone)
        return beside

    def _matches(self, rule: CompiledRule, context: cel.Context) -> bool:
        if rule.when is None:
            return True
        try:
            return rule.when.program.execute(context) is True
        except EVALUATION_ERRORS as error:
            self.on_error(rule.name, str(error))
            return rule.local_only


def _arm(rule: CompiledRule, situation: Situation) -> tuple[str, tuple[str, ...], Wishes]:
    """Which side of the rule's canary a request is on, and what is asked there."""
    canary = rule.canary
    if canary is not None and situation.draw(canary.by, f"canary:{rule.name}") < canary.share:
        return "canary", rule.canary_use, rule.canary_wishes or rule.wishes
    return ("stable" if canary else ""), rule.use, rule.wishes


def _shadow(rule: CompiledRule, situation: Situation, first: str) -> tuple[str, ...]:
    shadow = rule.shadow
    if shadow is None or situation.draw("request", f"shadow:{rule.name}") >= shadow.share:
        return ()
    return tuple(name for name in shadow.use if name != first)


def _context(variables: Iterable[str], features: Features, beside: Mapping[str, Any] = _NOTHING) -> cel.Context:
    """``beside``: what is not a feature."""
    return cel.Context({name: beside[name] if name in beside else getattr(features, name) for name in variables})


def _nothing_left(choice: Choice, local_only: bool) -> GatewayError:
    reasons = "; ".join(f"{rejected.model}: {rejected.reason}" for rejected in choice.rejected)
    if local_only:
        message = "this request must stay local and no local model can take it"
        return Overloaded(f"{message} ({reasons})", code="no_local_target")
    return Overloaded(f"no model can take this request ({reasons})", code="no_target_available")
