"""The dial: raising it never sends a request to a lesser model, and neither cost nor predicted quality falls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import DEFAULT_MODELS, load
from gateway.errors import ConfigError
from gateway.policy.competence import Competence
from gateway.policy.compile import CompiledPolicy
from gateway.policy.dial import UNMEASURED, Dial, Dialled, slid, without
from gateway.policy.learned import Estimate, Mixture
from gateway.policy.loader import compile_documents, load_policies
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.policy.situation import likely_nano
from gateway.pricing import PriceBook
from gateway.protocols import Scorer
from gateway.types import ChatRequest, Features, Principal, RequestOptions, Score
from gateway.yamlfile import Document
from tests.support.easy_prompts import easy_prompts
from tests.support.hard_prompts import HARD_AND_SHORT
from tests.unit.policy.support import away, features, policy
from tests.unit.policy.test_profile import ASKED, profile

PROMPTS = (*(question.prompt for question in easy_prompts()[::2]), *HARD_AND_SHORT)
QUALITIES = range(11)
ABLE = ["local-small", "gpt-4o-mini", "claude"]
"""The default models, the least capable first."""
EXAMPLES = sorted((Path(__file__).parents[3] / "policies" / "examples").glob("*.yaml"))

difficulties = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
traffic = st.lists(difficulties, min_size=1, max_size=60)


def measured(found: Iterable[float]) -> Dial:
    kept = list(found)
    return Dial.measured(kept, [1.0 + place % 7 for place in range(len(kept))])


class Evidence:
    """A scorer with a vector for every prompt: the profile's own questions stand in for the embedder."""

    def __init__(self) -> None:
        self._of = ProfiledScorer(Competence(profile(right={"capitals", "opposites", "colours", "add-digits"}), ASKED))

    def wants_embedding(self, asked: Features) -> bool:
        return self._of.wants_embedding(asked)

    def score(self, asked: Features, embedding: object = None) -> Score:
        place = sum(asked.last_user_text.encode()) % len(ASKED.vectors)
        return self._of.score(asked, ASKED.vectors[place] if self.wants_embedding(asked) else None)


SCORERS: dict[str, Callable[[], Scorer]] = {
    "rules": lambda: Dialled(RuleScorer()),
    "profile": lambda: Dialled(Evidence()),
    "measured": lambda: Dialled(
        Evidence(), measured(RuleScorer().score(features(prompt)).difficulty for prompt in PROMPTS)
    ),
}


def policies() -> dict[str, CompiledPolicy]:
    prices = PriceBook.load(DEFAULT_MODELS)
    shipped = {"default": load_policies(load(env={}), DEFAULT_MODELS, prices=prices).policies["default"]}
    return shipped | compile_documents(map(Document.read, EXAMPLES), DEFAULT_MODELS, prices)


POLICIES = policies()


@functools.cache
def read() -> list[tuple[Features, Estimate]]:
    return [(features(prompt), Mixture.shipped().estimate(prompt)) for prompt in PROMPTS]


def at(asked: Features, quality: int) -> Features:
    return msgspec.structs.replace(asked, quality=quality)


@pytest.mark.parametrize(
    ("name", "scorer"), [*((name, "rules") for name in POLICIES), ("default", "profile"), ("cost-saver", "measured")]
)
def test_more_quality_is_never_a_lesser_model_nor_a_lesser_cost(name: str, scorer: str) -> None:
    compiled, dialled = POLICIES[name], SCORERS[scorer]()
    assert len(PROMPTS) >= 300
    costs, quality, first = np.zeros(len(QUALITIES)), np.zeros(len(QUALITIES)), np.zeros((len(PROMPTS), 11), int)
    for row, (asked, likely) in enumerate(read()):
        for step in QUALITIES:
            turned = at(asked, step)
            target = compiled.decide(turned, dialled.score(turned), unavailable=away()).targets[0]
            first[row, step] = ABLE.index(target)
            costs[step] += likely_nano(compiled.prices, compiled.models[target], asked.prompt_tokens, 200, 0) or 0
            quality[step] += likely.small if target == "local-small" else likely.large
    assert (np.diff(first, axis=1) >= 0).all()
    assert (np.diff(costs) >= 0).all()
    assert (np.diff(quality) >= 0).all()
    assert costs[0] < costs[-1]
    if name == "default":
        assert not first[:, 0].any(), "the cheapest end"
        assert first[:, -1].all(), "the best end"


@given(difficulties, difficulties, traffic)
@example(0.0, 1.0, [0.0])
@example(0.55, 0.55, [0.55])
def test_a_difficulty_rises_with_the_dial_and_prompts_keep_their_order(
    one: float, other: float, seen: list[float]
) -> None:
    easier, harder = sorted((one, other))
    for dial in (UNMEASURED, measured(seen)):
        turned = [
            [slid(Score(difficulty=each), dial, step).difficulty for step in QUALITIES] for each in (easier, harder)
        ]
        assert all(row == sorted(row) for row in turned)
        assert all(low <= high for low, high in zip(*turned, strict=True))
        assert all((row[0], row[10]) == (0.0, 1.0) for row in turned)
        assert turned[0][5] == easier


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.6])
def test_measured_steps_cost_the_same_each_whatever_the_threshold(threshold: float) -> None:
    draw = np.random.default_rng(3)
    seen, costs = draw.beta(2, 6, 20_000), draw.gamma(2.0, 10.0, 20_000)
    dial = Dial.measured(seen.tolist(), costs.tolist())

    small = [costs[[dial.slide(one, step) < threshold for one in seen]].sum() / costs.sum() for step in QUALITIES]

    at_5 = costs[seen < threshold].sum() / costs.sum()
    assert small[5] == at_5
    assert np.diff(small[5:]) == pytest.approx(-at_5 / 5, abs=0.03)
    assert np.diff(small[:6]) == pytest.approx(-(1 - at_5) / 5, abs=0.03)


@given(st.integers(1, 9), difficulties, traffic)
def test_a_threshold_stands_for_the_difficulty_that_lies_at_it(
    quality: int, threshold: float, seen: list[float]
) -> None:
    for dial in (UNMEASURED, measured(seen)):
        neutral = dial.stands_for(threshold, quality)
        assert dial.slide(neutral, quality) == pytest.approx(threshold, abs=1e-6)


def test_what_the_dial_added_is_told_and_can_be_taken_away() -> None:
    asked = features("What is the capital of France?")
    plain, turned = Dialled(RuleScorer()).score(asked), Dialled(RuleScorer()).score(at(asked, 8))

    assert plain == RuleScorer().score(asked)
    assert turned.difficulty > plain.difficulty
    assert dict(turned.contributions)["quality"] == pytest.approx(turned.difficulty - plain.difficulty)
    assert without(turned.difficulty, turned.contributions, "quality") == pytest.approx(plain.difficulty)


def test_no_embedding_is_computed_where_the_dial_has_decided() -> None:
    dialled = Dialled(Evidence())
    easy = features("What is the capital of France?")

    assert [dialled.wants_embedding(at(easy, step)) for step in (0, 1, 5, 9, 10)] == [False, True, True, True, False]


def test_the_policy_speaks_for_who_says_nothing() -> None:
    thrifty = policy(
        '{name: easy, when: "difficulty < 0.35", use: [local-small]}\n{name: hard, use: [claude]}',
        top="name: test\ncost_quality: 0",
    )
    proof = [{"role": "user", "content": "Prove that the square root of 2 is irrational."}]

    def goes(options: RequestOptions) -> str:
        asked = thrifty.features(_request(proof, options), Principal(key_id="k"))
        return thrifty.decide(asked, Dialled(RuleScorer()).score(asked), unavailable=away()).targets[0]

    assert goes(RequestOptions()) == "local-small"
    assert goes(RequestOptions(quality=5)) == "claude"


def _request(messages: list[dict[str, str]], options: RequestOptions) -> ChatRequest:
    return ChatRequest(id="r", model="auto", messages=messages, fields={}, options=options)


@pytest.mark.parametrize("position", ["-1", "11", "2.5", "high"])
def test_a_position_that_is_none_is_refused_with_its_line(position: str) -> None:
    with pytest.raises(ConfigError) as refused:
        policy("{name: all, use: [claude]}", top=f"name: test\ncost_quality: {position}")
    assert refused.value.line == 2
