"""Where a threshold belongs: chosen on one half of what is known, judged on the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.config import DEFAULT_MODELS
from gateway.policy.compile import CompiledPolicy
from gateway.policy.evidence import Known, of_ledger, of_profile
from gateway.policy.feedback import labels, latest
from gateway.policy.loader import compile_documents
from gateway.policy.probe import questions
from gateway.policy.proposal import diff
from gateway.policy.thresholds import Case, Fitted, Threshold, Unfit, Vote, decided_by, falling, fit, thresholds
from gateway.pricing import PriceBook
from gateway.types import LedgerEntry
from gateway.yamlfile import Document
from tests.support.votes import voted
from tests.unit.policy.support import features, policy
from tests.unit.policy.test_profile import profile

EASY = Threshold("easy", 0, 0.35, 0.35)
RULES = """
    {name: easy, when: "difficulty < 0.35 && prompt_tokens < 1500", use: [local-small, gpt-4o-mini]}
    {name: hard, use: [claude]}
"""


def world(count: int = 4_000, seed: int = 0, hosted: float = 1.0) -> tuple[list[Case], list[Vote]]:
    """Requests of every difficulty d; a local answer is good with the chance 1 − d², a third of them are voted on."""
    draw = np.random.default_rng(seed)
    hard = draw.random(count).round(2)
    cases = [Case(f"{seed}-{n}", float(d), 10, 100) for n, d in enumerate(hard)]
    votes = [
        Vote(f"{seed}-{n}", float(d), True, float(draw.random() > d * d), 1.0) for n, d in enumerate(hard) if n % 3 == 0
    ]
    votes += [
        Vote(f"{seed}-{n}", float(d), False, float(draw.random() < hosted), 1.0)
        for n, d in enumerate(hard)
        if n % 3 == 1
    ]
    return cases, votes


def lost(threshold: float) -> float:
    """By answering locally below it, of perfect answers: the integral of d² to there."""
    return threshold**3 / 3


@pytest.mark.parametrize("target", [0.99, 0.95, 0.9])
def test_a_quality_is_reached_on_requests_that_set_nothing(target: float) -> None:
    found = fit(EASY, *world(6_000), target, "quality")

    assert found.now == pytest.approx((3 * (1 - target)) ** (1 / 3), abs=0.07)
    assert found.held.quality.low <= 1 - lost(found.now) <= found.held.quality.high
    assert found.held.quality.mean == pytest.approx(target, abs=0.02)
    assert found.held.cost.mean == pytest.approx(1 - 0.9 * found.held.local, abs=0.001)
    assert found.before.local < found.held.local or target == 0.99


def test_a_cost_is_reached_with_as_little_kept_small_as_will_do() -> None:
    found = fit(EASY, *world(), 0.4, "cost")

    assert found.now == pytest.approx(0.67, abs=0.02)
    assert found.held.cost.low <= 0.4 <= found.held.cost.high + 0.02


def test_intervals_hold_what_they_promise() -> None:
    """95 % of them, over worlds drawn anew: at least 6 of 8."""
    held = [fit(EASY, *world(1_000, seed), 0.95, "quality") for seed in range(8)]

    within = [one.held.quality.low <= 1 - lost(one.now) <= one.held.quality.high for one in held]
    assert sum(within) >= 6
    assert all(0.005 < one.held.quality.high - one.held.quality.low < 0.15 for one in held)


def test_quality_is_measured_against_what_hosted_answers_get() -> None:
    strict, lenient = (fit(EASY, *world(5_000, hosted=hosted), 0.95, "quality").now for hosted in (1.0, 0.7))

    assert lenient > strict + 0.05


def test_no_threshold_goes_where_nobody_has_voted() -> None:
    cases, votes = world()
    known = [vote for vote in votes if vote.difficulty < 0.3]

    assert fit(EASY, cases, known, 0.5, "quality").now <= 0.31
    with pytest.raises(Unfit, match=r"rated up to a difficulty of 0\.3"):
        fit(EASY, cases, known, 0.4, "cost")


@pytest.mark.parametrize("count", [0, 99])
def test_too_few_votes_set_nothing(count: int) -> None:
    cases, votes = world()

    with pytest.raises(Unfit, match=f"{count} votes on local answers"):
        fit(EASY, cases, [vote for vote in votes if vote.local][:count], 0.95, "quality")


def test_one_loud_tenant_does_not_set_the_threshold() -> None:
    compiled = policy(RULES)
    draw = np.random.default_rng(5)
    rows = [
        voted(f"{key}{n}", key=key, difficulty=round(float(draw.random()) * 0.6, 3), vote=1.0)
        for key in ("a", "b", "c", "d")
        for n in range(120)
    ]
    hostile = [
        voted(f"h{n}", key="h", difficulty=round(float(draw.random()) * 0.6, 3), vote=-1.0) for n in range(2_000)
    ]

    def now(some: list[LedgerEntry]) -> Fitted:
        found, _ = latest(some)
        votes = labels(found, frozenset({"local-small"}))
        known = of_ledger(compiled, thresholds(compiled), found, votes, lambda name, _: 1 if name[:5] == "local" else 9)
        return fit(EASY, known["easy"].cases, known["easy"].votes, 0.75, "quality")

    assert now(rows).now > 0.5
    assert now(rows + hostile).now > 0.5, "four of five are content"


def test_which_thresholds_there_are() -> None:
    compiled = policy("""
        {name: stays, when: "'x' in tags", use: [local-small], local_only: true}
        {name: german, when: "language == 'de' && difficulty <= 0.2", use: [local-small, claude]}
        {name: easy, when: "difficulty < .35", use: [{model: local-small, weight: 2}, {model: claude}]}
        {name: between, when: "difficulty < 0.2 || difficulty < 0.1", use: [local-small]}
        {name: middle, when: "difficulty < 0.7", use: [gpt-4o-mini]}
        {name: hard, when: "difficulty > 0.9", use: [claude]}
        {name: rest, use: [claude]}
    """)

    assert [(one.rule, one.place, one.value) for one in thresholds(compiled)] == [("german", 1, 0.2), ("easy", 2, 0.35)]


def test_a_request_hangs_on_the_rule_that_would_take_it_if_it_were_easy() -> None:
    compiled = policy("""
        {name: german, when: "language == 'de' && difficulty < 0.2", use: [local-small]}
        {name: easy, when: "difficulty < 0.35 && prompt_tokens < 1500", use: [local-small]}
        {name: middle, when: "difficulty < 0.6", use: [gpt-4o-mini]}
        {name: rest, use: [claude]}
    """)
    among = thresholds(compiled)

    def by(prompt: str, difficulty: float) -> tuple[str, str, str] | None:
        found = decided_by(compiled, among, voted("r"), features(prompt), difficulty)
        return found and (found[0].rule, *found[1:])

    assert by("What is the capital of France?", 0.1) == ("easy", "local-small", "gpt-4o-mini")
    assert by("What is the capital of France?", 0.9) == ("easy", "local-small", "claude")
    assert by("Was ist die Hauptstadt von Frankreich?", 0.4) == ("german", "local-small", "gpt-4o-mini")
    assert by("word " * 3_000, 0.1) is None


def test_without_votes_the_probe_speaks() -> None:
    compiled = policy(RULES)
    known = of_profile(
        compiled, thresholds(compiled), profile(right={"capitals", "opposites"}), questions(), {"easy": Known()}, 0
    )["easy"]

    found = fit(EASY, known.cases, known.votes, 0.95, "quality")

    assert len(known.cases) == len(known.votes) == len(questions())
    assert found.held.quality.mean > 0.85
    assert 0 < found.now < 1
    ignorant = of_profile(compiled, thresholds(compiled), profile(), questions(), {"easy": Known()}, 0)["easy"]
    assert fit(EASY, ignorant.cases, ignorant.votes, 0.999, "quality").held.local == 0, (
        "it knows nothing: nothing stays"
    )


def test_falling_is_the_best_fit_that_does_not_rise() -> None:
    fitted = falling(np.array([0.3, 0.1, 0.2, 0.4]), np.array([0.5, 0.6, 1.0, 0.1]), np.array([1.0, 1.0, 3.0, 1.0]))

    assert fitted(np.array([0.0, 0.1, 0.15, 0.2, 0.3, 0.35, 0.9])).tolist() == pytest.approx(
        [0.9, 0.9, 0.9, 0.9, 0.5, 0.1, 0.1]
    )


POLICY = """\
name: mine   # a comment that stays
cost_quality: 7
rules:
  - name: easy
    when: >-
      prompt_tokens < 350
      && difficulty < 0.35
    use: [local-small]
  - {name: rest, use: [claude]}
"""


def compiled_from(path: Path) -> CompiledPolicy:
    (found,) = compile_documents([Document.read(path)], DEFAULT_MODELS, PriceBook.load(DEFAULT_MODELS)).values()
    return found


def test_the_diff_changes_the_number_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(POLICY)
    compiled = compiled_from(tmp_path / "mine.yaml")
    (found,) = thresholds(compiled)

    change = diff(compiled, [fit(found, *world(), 0.95, "quality")])

    changed = [line for line in change.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed[0::2] == ["-cost_quality: 7", "-      && difficulty < 0.35"]
    assert changed[1] == "+cost_quality: 5"
    assert changed[3].startswith("+      && difficulty < 0.")
    assert change.startswith("--- a/mine.yaml\n+++ b/mine.yaml\n")
