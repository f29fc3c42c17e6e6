"""Where requests go: the first rule that matches, what is filtered, and what happens when nothing is left."""

from __future__ import annotations

import time

import msgspec
import pytest

from gateway.backends.fleet import Fleet
from gateway.config import ModelConfig, load
from gateway.errors import Forbidden, NotFound, Overloaded
from gateway.policy.compile import CompiledPolicy
from gateway.types import Principal, RequestOptions
from tests.support.pace import allowed
from tests.unit.policy.support import MODELS, TWO_LOCAL, away, decide, features, policy

ROUTES = """
{name: stays, when: "'confidential' in tags", use: [local-small], local_only: true}
{name: easy, when: "difficulty < 0.35", use: [local-small, gpt-4o-mini]}
{name: hard, use: [gpt-4o-mini, claude]}
"""
CONFIDENTIAL = features(principal=Principal(key_id="k", tags=("confidential",)))
NO_KEYS = away(gpt_4o_mini="no api_key is set", claude="no api_key is set")


@pytest.fixture(scope="module")
def routes() -> CompiledPolicy:
    return policy(ROUTES)


def test_the_first_rule_that_matches_decides(routes: CompiledPolicy) -> None:
    assert decide(routes, 0.34).rule == "easy"
    assert decide(routes, 0.35).rule == "hard"
    assert decide(routes, 0.34).targets == ("local-small", "gpt-4o-mini")


def test_a_decision_tells_which_rules_did_not_match_and_why(routes: CompiledPolicy) -> None:
    told = [(row.model, row.reason) for row in decide(routes, 0.9).unmatched]
    assert told == [("stays", "'confidential' in tags"), ("easy", "difficulty < 0.35")]


def test_difficulty_and_contributions_are_passed_on(routes: CompiledPolicy) -> None:
    assert decide(routes, 0.42).difficulty == 0.42


def test_unavailable_targets_are_skipped_with_their_reason(routes: CompiledPolicy) -> None:
    decision = decide(routes, 0.9, unavailable=away(gpt_4o_mini="cooling down"))
    assert decision.targets == ("claude",)
    assert [(row.model, row.reason) for row in decision.rejected] == [("gpt-4o-mini", "cooling down")]
    assert decision.degraded == ""


def test_local_models_are_the_last_resort_of_hosted_routes(routes: CompiledPolicy) -> None:
    assert decide(routes, 0.9).last_resort == ("local-small",)
    assert decide(routes, 0.1).last_resort == ()
    assert decide(routes, 0.9, unavailable=away(local_small="not running")).last_resort == ()


def test_without_hosted_keys_everything_is_answered_locally_and_says_so(routes: CompiledPolicy) -> None:
    for difficulty in (0.1, 0.9):
        decision = decide(routes, difficulty, unavailable=NO_KEYS)
        assert decision.targets == ("local-small",)
        assert decision.degraded == "no-hosted-key"


def test_local_models_that_the_rule_does_not_name_stand_behind_those_it_does() -> None:
    compiled = policy("{name: all, use: [local-big, gpt-4o-mini]}", models=TWO_LOCAL)
    decision = decide(compiled, unavailable=NO_KEYS)
    assert (decision.targets, decision.last_resort) == (("local-big", "local-small"), ())
    assert decision.degraded == "no-hosted-key"


def test_hosted_targets_that_are_away_for_another_reason(routes: CompiledPolicy) -> None:
    decision = decide(routes, 0.9, unavailable=away(gpt_4o_mini="cooling down", claude="no api_key is set"))
    assert (decision.targets, decision.degraded) == (("local-small",), "hosted-unavailable")


def test_a_rule_that_wishes_for_local_models_only_is_not_degraded() -> None:
    compiled = policy("{name: all, use: [local-small]}")
    assert decide(compiled, unavailable=NO_KEYS).degraded == ""


def test_nothing_left_is_refused_with_every_reason(routes: CompiledPolicy) -> None:
    gone = away(gpt_4o_mini="no api_key is set", claude="cooling down", local_small="not running")
    with pytest.raises(Overloaded) as refused:
        decide(routes, 0.9, unavailable=gone)
    assert refused.value.code == "no_target_available"
    for reason in ("gpt-4o-mini: no api_key is set", "claude: cooling down", "local-small: not running"):
        assert reason in refused.value.message


def test_no_rule_matches() -> None:
    compiled = policy("{name: german, when: \"language == 'de'\", use: [local-small]}")
    with pytest.raises(Overloaded) as refused:
        decide(compiled)
    assert refused.value.code == "no_rule_matched"


class TestCapabilities:
    """What a model cannot do comes before what the rule wishes."""

    def test_tools(self) -> None:
        asked = features(body={"tools": [{"type": "function", "function": {"name": "f"}}]})
        decision = decide(policy("{name: all, use: [local-small, gpt-4o-mini]}"), features=asked)
        assert decision.targets == ("gpt-4o-mini",)
        assert [(row.model, row.reason) for row in decision.rejected] == [("local-small", "lacks tools")]

    def test_context_holds_prompt_and_answer(self) -> None:
        compiled = policy("{name: all, use: [local-small, gpt-4o-mini]}")
        fitting = 8192 - features().prompt_tokens
        assert decide(compiled, features=features(max_tokens=fitting)).targets[0] == "local-small"
        over = decide(compiled, features=features(max_tokens=fitting + 1))
        assert over.targets == ("gpt-4o-mini",)
        assert "8192" in over.rejected[0].reason

    def test_a_hosted_model_that_nobody_knows_is_taken_to_do_all(self) -> None:
        models = (ModelConfig(name="mine", provider="openai_compatible", base_url="http://h/v1"),)
        asked = features(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])
        assert decide(policy("{name: all, use: [mine]}", models=models), features=asked).targets == ("mine",)

    def test_a_capable_local_model_takes_over_and_says_so(self) -> None:
        compiled = policy("{name: all, use: [gpt-4o-mini]}", models=TWO_LOCAL)
        asked = features(body={"tools": [{"type": "function"}]})
        decision = decide(compiled, features=asked, unavailable=away(gpt_4o_mini="cooling down"))
        assert (decision.targets, decision.degraded) == (("local-big",), "hosted-unavailable")

    def test_wishes_that_are_all_incapable_are_degraded_too(self) -> None:
        small = ModelConfig(name="small", provider="openai_compatible", base_url="http://h/v1", supports=())
        compiled = policy("{name: all, use: [small]}", models=(small, *TWO_LOCAL))
        decision = decide(compiled, features=features(body={"tools": [{"type": "function"}]}))
        assert (decision.targets, decision.degraded) == (("local-big",), "hosted-unavailable")


class TestLocalOnly:
    """Such a request is answered here or not at all."""

    def test_the_gate_says_which_rule(self, routes: CompiledPolicy) -> None:
        result = routes.gate(CONFIDENTIAL)
        assert (result.local_only, result.rule) == (True, "stays")
        assert not routes.gate(features()).local_only

    def test_a_local_only_rule_counts_wherever_it_stands(self) -> None:
        compiled = policy("""
            {name: all, use: [gpt-4o-mini, claude]}
            {name: stays, when: "'confidential' in tags", use: [local-small], local_only: true}
        """)
        assert compiled.gate(CONFIDENTIAL).local_only
        decision = decide(compiled, features=CONFIDENTIAL, local_only=True)
        assert (decision.rule, decision.targets, decision.last_resort) == ("all", ("local-small",), ())
        assert {row.reason for row in decision.rejected} == {"local only"}

    def test_other_local_models_stand_in(self) -> None:
        compiled = policy(ROUTES, models=TWO_LOCAL)
        decision = decide(compiled, features=CONFIDENTIAL, local_only=True)
        assert (decision.targets, decision.last_resort) == (("local-small",), ("local-big",))
        gone = decide(compiled, features=CONFIDENTIAL, local_only=True, unavailable=away(local_small="not running"))
        assert (gone.targets, gone.degraded) == (("local-big",), "")

    def test_it_fails_rather_than_leaves(self, routes: CompiledPolicy) -> None:
        with pytest.raises(Overloaded) as refused:
            decide(routes, features=CONFIDENTIAL, local_only=True, unavailable=away(local_small="not running"))
        assert refused.value.code == "no_local_target"

    def test_a_rule_without_a_condition_keeps_everything_here(self) -> None:
        compiled = policy("{name: all, use: [local-small], local_only: true}")
        assert compiled.gate(features()).local_only

    @pytest.mark.parametrize("target", ["gpt-4o-mini", "claude"])
    def test_pinned_to_a_hosted_model(self, routes: CompiledPolicy, target: str) -> None:
        with pytest.raises(Forbidden) as refused:
            decide(routes, features=CONFIDENTIAL, local_only=True, pinned=target)
        assert refused.value.code == "local_only"

    def test_quality_10_does_not_open_the_gate(self, routes: CompiledPolicy) -> None:
        asked = features(principal=Principal(key_id="k", tags=("confidential",)), options=RequestOptions(quality=10))
        assert routes.gate(asked).local_only


class TestErrorsWhileServing:
    """An expression may still fail on a request that no sample resembles."""

    RULES = """
    {name: stays, when: "100 / (words - 3) > 1000", use: [local-small], local_only: true}
    {name: odd, when: "100 / (words - 3) > 1000", use: [claude]}
    {name: rest, use: [gpt-4o-mini]}
    """

    def test_in_a_local_only_rule_it_is_a_match_elsewhere_none_and_both_are_metered(self) -> None:
        heard: list[str] = []
        compiled = policy(self.RULES, on_error=lambda rule, error: heard.append(f"{rule}: {error}"))
        asked = features("one two three")
        assert compiled.gate(asked).rule == "stays"
        assert len(heard) == 1
        assert "division by zero" in heard[0]
        assert decide(compiled, features=asked, local_only=True).targets == ("local-small",)

    def test_no_match_in_any_other(self) -> None:
        heard: list[str] = []
        rules = "\n".join(self.RULES.strip().splitlines()[1:])
        compiled = policy(rules, on_error=lambda rule, error: heard.append(rule))
        assert decide(compiled, features=features("one two three")).rule == "rest"
        assert heard == ["odd"]


class TestPinned:
    def test_only_that_model(self, routes: CompiledPolicy) -> None:
        decision = decide(routes, 0.1, pinned="claude")
        assert (decision.rule, decision.targets, decision.last_resort) == ("pinned", ("claude",), ())

    def test_its_capabilities_are_the_clients_business(self, routes: CompiledPolicy) -> None:
        asked = features(body={"tools": [{"type": "function"}]})
        assert decide(routes, features=asked, pinned="local-small").targets == ("local-small",)

    def test_unavailable(self, routes: CompiledPolicy) -> None:
        with pytest.raises(Overloaded, match="cooling down"):
            decide(routes, pinned="claude", unavailable=away(claude="cooling down"))

    def test_unknown(self, routes: CompiledPolicy) -> None:
        with pytest.raises(NotFound) as refused:
            decide(routes, pinned="gpt-5")
        assert refused.value.code == "model_not_found"


class TestBudget:
    """What a spent budget leaves of a decision."""

    def test_local_targets_remain(self, routes: CompiledPolicy) -> None:
        left = routes.for_budget(decide(routes, 0.9))
        assert left is not None
        assert (left.targets, left.degraded, left.rule) == (("local-small",), "budget", "hard")
        assert ("gpt-4o-mini", "budget exhausted") in [(row.model, row.reason) for row in left.rejected]

    def test_nothing_local(self, routes: CompiledPolicy) -> None:
        assert routes.for_budget(decide(routes, 0.9, unavailable=away(local_small="not running"))) is None
        assert routes.for_budget(decide(routes, pinned="claude")) is None

    def test_reject(self) -> None:
        compiled = policy("{name: all, use: [gpt-4o-mini]}", top="name: test\non_budget_exhausted: reject")
        assert compiled.for_budget(decide(compiled)) is None


def test_every_feature_can_be_used() -> None:
    from gateway.policy.expressions import FEATURES

    kinds = {int: "{} >= 0", bool: "{} || true", str: "{} != '?'", tuple: "size({}) >= 0"}
    asked = features()
    parts = [kinds[type(getattr(asked, name))].format(name) for name in FEATURES]
    compiled = policy('{name: all, when: "' + " && ".join(parts) + '", use: [local-small]}')
    assert compiled.variables == tuple(sorted(FEATURES))
    assert decide(compiled, features=asked).rule == "all"
    assert set(FEATURES) == set(msgspec.structs.asdict(asked)) - {"last_user_text"}


def test_fifty_rules_are_decided_well_within_a_millisecond() -> None:
    rules = [
        f"{{name: r{i}, when: \"difficulty < 0.{i % 10} && language == 'x{i}' && '{i}' in tags\", use: [local-small]}}"
        for i in range(49)
    ]
    compiled = policy("\n".join([*rules, "{name: last, use: [gpt-4o-mini]}"]))
    asked, times = features(), []
    for _ in range(50):
        begun = time.perf_counter()
        compiled.gate(asked)
        decide(compiled, 0.05, features=asked)
        times.append(time.perf_counter() - begun)
    assert min(times) < allowed(0.001)


def test_models_are_those_of_the_configuration(routes: CompiledPolicy) -> None:
    assert list(routes.models) == [model.name for model in MODELS]


def test_the_reason_of_a_missing_key_is_recognised() -> None:
    """Backends word the reason and policies read it; neither imports the other."""
    settings = load(env={})
    fleet = Fleet.build(settings)
    compiled = policy("{name: all, use: [gpt-4o-mini, claude]}")
    hosted = {name: fleet.unavailable(name) for name in ("gpt-4o-mini", "claude")}
    assert all(hosted.values())
    assert decide(compiled, unavailable=hosted.get).degraded == "no-hosted-key"
