"""What a rule may say about its targets: weights, strategies, bounds, canaries, shadows; and the clock."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest

from gateway.config import ModelConfig
from gateway.policy.compile import CompiledPolicy
from gateway.policy.situation import Situation
from gateway.types import NANO, Decision, Live, Principal, Score
from tests.unit.policy.support import TWO_LOCAL, away, decide, features, policy

LIVE = {"gpt-4o-mini": Live(ttft_ms=400), "claude": Live(ttft_ms=250, error_rate=0.5), "local-small": Live(wait_s=1.5)}
COSTS = {"gpt-4o-mini": 2_000_000, "claude": 9_000_000, "local-small": 100}


def situation(request: str = "r1", session: str = "s1", **changes: Any) -> Situation:
    known: dict[str, Any] = {
        "live": lambda name: LIVE.get(name, Live()),
        "worst_nano": COSTS.get,
        "likely_nano": COSTS.get,
        "identities": {"request": request, "session": session, "key": "k"},
    }
    return Situation(**(known | changes))


def ask(rule: str, difficulty: float = 0.5, **changes: Any) -> Decision:
    changes.setdefault("situation", situation())
    return decide(policy(rule), difficulty, **changes)


def reasons(decision: Decision) -> dict[str, str]:
    return {row.model: row.reason for row in decision.rejected}


class TestStrategies:
    def test_cheapest_is_what_the_request_is_expected_to_cost(self) -> None:
        assert ask("{name: all, use: [claude, gpt-4o-mini], strategy: cheapest}").targets == ("gpt-4o-mini", "claude")

    def test_a_target_of_unknown_price_is_the_dearest(self) -> None:
        known = situation(likely_nano={"claude": 5}.get)
        decision = ask("{name: all, use: [gpt-4o-mini, claude], strategy: cheapest}", situation=known)
        assert decision.targets == ("claude", "gpt-4o-mini")

    def test_what_a_conversation_has_cached_somewhere_makes_it_cheaper_there(self) -> None:
        warm = situation(warm={"claude": 8000}, warm_nano={"claude": 1_500_000}.get)
        rule = "{name: all, use: [gpt-4o-mini, claude], strategy: cheapest}"
        assert ask(rule, situation=warm).targets == ("claude", "gpt-4o-mini")
        dear = situation(warm={"claude": 8000}, warm_nano={"claude": 2_500_000}.get)
        assert ask(rule, situation=dear).targets == ("gpt-4o-mini", "claude")

    @pytest.mark.parametrize(
        "rule",
        [
            "{name: all, use: [gpt-4o-mini, claude]}",
            "{name: all, use: [gpt-4o-mini, {model: claude, weight: 0.5}]}",
            "{name: all, use: [gpt-4o-mini], canary: {use: [claude], share: 0.5, by: request}, strategy: cheapest}",
            "{name: all, use: [gpt-4o-mini, claude], strategy: fastest}",
        ],
    )
    def test_it_changes_no_order_that_is_not_by_cost(self, rule: str) -> None:
        compiled, score = policy(rule), Score(difficulty=0.5)

        def first(number: int, **warm: Any) -> str:
            world = situation(request=f"r{number}", **warm)
            return compiled.decide(features(), score, unavailable=away(), situation=world).targets[0]

        warm: dict[str, Any] = {"warm": {"claude": 8000}, "warm_nano": {"claude": 1}.get}
        assert [first(n, **warm) for n in range(40)] == [first(n) for n in range(40)]

    def test_of_equal_quality_the_warm_one_is_first(self) -> None:
        rule = policy("{name: all, use: [gpt-4o-mini, claude, local-small], strategy: best}")
        score = Score(difficulty=0.5, quality=(("claude", 0.9), ("gpt-4o-mini", 0.9), ("local-small", 0.95)))
        warm = situation(warm={"claude": 8000}, warm_nano={"claude": 1}.get)
        decision = rule.decide(features(), score, unavailable=away(), situation=warm)
        assert decision.targets == ("local-small", "claude", "gpt-4o-mini")

    def test_what_was_decided_before_is_put_in_order_and_nothing_else_changes(self) -> None:
        rule = policy("{name: all, use: [gpt-4o-mini, claude, local-small], strategy: cheapest}")
        before = rule.decide(features(), Score(difficulty=0.5), unavailable=away(), situation=situation())
        warm = situation(warm={"claude": 8000}, warm_nano={"claude": 1}.get)
        after = rule.reordered(before, features(), warm)
        assert after.targets == ("claude", "local-small", "gpt-4o-mini")
        assert msgspec.structs.replace(after, targets=before.targets) == before
        assert rule.reordered(after, features(), situation()) == before

    def test_fastest_counts_failures_as_time_lost(self) -> None:
        assert ask("{name: all, use: [claude, gpt-4o-mini], strategy: fastest}").targets == ("gpt-4o-mini", "claude")

    def test_best_goes_by_predicted_quality_and_then_by_cost(self) -> None:
        rule = policy("{name: all, use: [gpt-4o-mini, claude, local-small], strategy: best}")
        score = Score(difficulty=0.5, quality=(("claude", 0.9), ("gpt-4o-mini", 0.7), ("local-small", 0.7)))
        decision = rule.decide(features(), score, unavailable=away(), situation=situation())
        assert decision.targets == ("claude", "local-small", "gpt-4o-mini")

    def test_weights_are_shares_of_the_requests_and_the_others_stay_as_fallbacks(self) -> None:
        rule = policy("{name: all, use: [{model: gpt-4o-mini, weight: 3}, claude]}")
        firsts = Counter(decide(rule, situation=situation(f"r{index}")).targets for index in range(2_000))
        assert set(firsts) == {("gpt-4o-mini", "claude"), ("claude", "gpt-4o-mini")}
        assert 1_400 < firsts["gpt-4o-mini", "claude"] < 1_600

    def test_a_decision_can_be_made_again(self) -> None:
        rule = policy("{name: all, use: [{model: gpt-4o-mini, weight: 1}, claude]}")
        assert len({decide(rule, situation=situation("the same")).targets for _ in range(20)}) == 1


class TestBounds:
    def test_a_local_model_with_a_queue_is_passed_over(self) -> None:
        decision = ask("{name: easy, use: [local-small, gpt-4o-mini], max_wait: 500ms}")
        assert decision.targets == ("gpt-4o-mini",)
        assert reasons(decision)["local-small"] == "would wait 1.50 s, over max_wait 0.5 s"

    def test_waiting_is_better_than_no_answer(self) -> None:
        decision = ask("{name: easy, use: [local-small], max_wait: 500ms}")
        assert decision.targets == ("local-small",)

    def test_a_slow_target_misses_the_slo(self) -> None:
        decision = ask("{name: all, use: [gpt-4o-mini, claude], slo: {ttft_ms: 300}}")
        assert decision.targets == ("claude",)
        assert "slo 300 ms" in reasons(decision)["gpt-4o-mini"]

    def test_the_client_s_deadline_is_one_too(self) -> None:
        decision = ask("{name: all, use: [gpt-4o-mini, claude]}", situation=situation(deadline_ms=300.0))
        assert decision.targets == ("claude",)

    def test_what_may_cost_too_much_is_never_asked(self) -> None:
        decision = ask("{name: all, use: [claude, gpt-4o-mini], max_cost: 0.005}")
        assert decision.targets == ("gpt-4o-mini",)
        assert reasons(decision)["claude"] == "may cost 0.009000 USD, over max_cost 0.005"

    def test_where_everything_costs_too_much_a_local_model_answers(self) -> None:
        decision = ask("{name: all, use: [claude], max_cost: 0.005}")
        assert decision.targets == ("local-small",)
        assert COSTS["claude"] / NANO > 0.005

    def test_params_and_timeout_travel_with_the_decision(self) -> None:
        decision = ask("{name: all, use: [claude], timeout: 20s, params: {temperature: 0.2, stop: [END]}}")
        assert decision.timeout_s == 20.0
        assert {name: msgspec.json.decode(raw) for name, raw in decision.params} == {
            "temperature": 0.2,
            "stop": ["END"],
        }


class TestCanary:
    RULE = "{name: all, use: [gpt-4o-mini], canary: {use: [claude], share: 0.2, by: session}}"

    def test_a_session_stays_on_its_side(self) -> None:
        rule = policy(self.RULE)
        arms = {
            (session, decide(rule, situation=situation(request, f"s{session}")).arm)
            for session in range(50)
            for request in ("a", "b", "c")
        }
        assert len(arms) == 50

    def test_the_share_is_kept(self) -> None:
        rule = policy(self.RULE)
        decisions = [decide(rule, situation=situation("r", f"s{session}")) for session in range(2_000)]
        canaries = [decision for decision in decisions if decision.arm == "canary"]
        assert 320 < len(canaries) < 480
        assert {decision.targets for decision in canaries} == {("claude",)}
        assert {decision.targets for decision in decisions if decision.arm == "stable"} == {("gpt-4o-mini",)}


class TestShadow:
    def test_shadows_are_named_but_not_asked_for_an_answer(self) -> None:
        decision = ask("{name: all, use: [gpt-4o-mini], shadow: {use: [claude, gpt-4o-mini], usd_per_day: 1}}")
        assert (decision.targets, decision.shadow) == (("gpt-4o-mini",), ("claude",))

    def test_a_request_that_stays_here_has_no_shadow(self) -> None:
        rule = """{name: all, when: "'c' in tags", use: [local-small], local_only: true,
            shadow: {use: [claude], usd_per_day: 1}}""".replace("\n", " ")
        confidential = features(principal=Principal(key_id="k", tags=("c",)))
        decision = ask(rule, features=confidential, local_only=True)
        assert decision.shadow == ()


class TestTheWorld:
    @pytest.fixture
    def nightly(self) -> CompiledPolicy:
        rules = """
            {name: night, when: "hour < 6 || weekday in ['sat', 'sun']", use: [local-small]}
            {name: poor, when: "budget_left < 0.1", use: [gpt-4o-mini]}
            {name: rest, use: [claude]}
        """
        return policy(rules, top="name: test\ntime_zone: Europe/Berlin")

    @staticmethod
    def at(text: str, **changes: Any) -> Situation:
        return situation(now_ms=int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000), **changes)

    def test_the_clock_is_that_of_the_policy_s_time_zone(self, nightly: CompiledPolicy) -> None:
        assert decide(nightly, situation=self.at("2026-07-01T22:30")).rule == "night"  # 00:30 in Berlin
        assert decide(nightly, situation=self.at("2026-07-01T05:30")).rule == "rest"
        assert decide(nightly, situation=self.at("2026-07-04T12:00")).rule == "night"  # a Saturday

    def test_what_is_left_of_the_budget_can_decide(self, nightly: CompiledPolicy) -> None:
        noon = "2026-07-01T12:00"
        assert decide(nightly, situation=self.at(noon, budget_left=0.05)).rule == "poor"
        assert decide(nightly, situation=self.at(noon, budget_left=0.5)).rule == "rest"

    def test_a_local_only_rule_may_not_read_them(self) -> None:
        with pytest.raises(Exception, match="may read features and tags only, not 'hour'"):
            policy("""{name: n, when: "hour < 6", use: [local-small], local_only: true}""")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{name: a, use: [claude], canary: {use: [cloude], share: 0.1}}", "names 'cloude'"),
        ("{name: a, use: [claude], shadow: {use: [nobody], usd_per_day: 1}}", "names 'nobody'"),
        ("{name: a, use: [claude], max_wait: 1s}", "bounds the wait for a local model and uses none"),
    ],
)
def test_what_cannot_be_meant_is_warned_of(rule: str, told: str) -> None:
    assert any(told in warning for warning in policy(rule, models=TWO_LOCAL).warnings)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{name: a, use: [claude], params: {messages: []}}", "'messages' is not a parameter that a rule may set"),
        ("{name: a, use: [claude], max_wait: soon}", "rules[0].max_wait"),
        ("{name: a, use: [claude], strategy: quickest}", "rules[0].strategy"),
        ("{name: a, use: [{modle: claude}]}", "did you mean 'model'?"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(rule: str, told: str) -> None:
    with pytest.raises(Exception, match=r"test\.yaml:3") as error:
        policy(rule)
    assert told in str(error.value)


class TestKnowledge:
    MODELS = (
        ModelConfig(name="old", provider="openai", knowledge_cutoff=date(2023, 10, 1)),
        ModelConfig(name="new", provider="openai", knowledge_cutoff=date(2026, 1, 1)),
    )
    NOW = situation(now_ms=1_782_000_000_000)  # June 2026

    def ask(self, prompt: str, use: str = "[old, new]") -> Decision:
        return decide(
            policy(f"{{name: all, use: {use}}}", models=self.MODELS), features=features(prompt), situation=self.NOW
        )

    @pytest.mark.parametrize("prompt", ["Who won the 2024 cup?", "What is the weather like today?"])
    def test_who_cannot_know_is_passed_over(self, prompt: str) -> None:
        decision = self.ask(prompt)
        assert decision.targets == ("new",)
        assert reasons(decision) == {"old": "its knowledge ends 2023-10-01"}

    @pytest.mark.parametrize("prompt", ["Who won the 1998 cup?", "What is a prime?", "What happened in 2023?"])
    def test_what_both_know_is_asked_in_order(self, prompt: str) -> None:
        assert self.ask(prompt).targets == ("old", "new")

    def test_who_knows_little_is_better_than_nobody(self) -> None:
        assert self.ask("Who won the 2025 cup?", "[old]").targets == ("old",)
