"""A probed local model over HTTP: it is sent what it was seen to know, and an embedding is asked for only then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import yaml

from gateway.policy.competence import Asked, Competence
from gateway.policy.probe import Question
from gateway.policy.profile import Profile
from gateway.policy.profiled import ProfiledScorer
from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream
from tests.support.upstream.openai_wire import embed

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEFAULT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "policies" / "default.yaml").read_text())
NO_CACHE = {"exact": False, "semantic": False}  # which would embed what it remembers, later
PLAIN: Any = {"name": "plain", "cache": NO_CACHE, "rules": [{"name": "all", "use": ["gpt-4o-mini"]}]}
KNOWN = [f"What is the capital of {country}?" for country in ("Italy", "Kenya", "Norway", "Egypt", "Peru", "Cuba")]
UNKNOWN = [f"How many legs does a {animal} have?" for animal in ("dog", "spider", "bird", "cat", "goat", "fly")]
HALF_KNOWN = [f"What is the currency of {land}?" for land in ("Japan", "India", "Iran", "Chad", "Laos", "Fiji", "Oman")]
HARD = "Prove step by step that there are infinitely many primes, then design an algorithm and analyze it."


def scorer() -> ProfiledScorer:
    """Of a model that has capitals right, legs wrong and five of seven currencies right."""
    asked = [Question(prompt=prompt, answers=("x",), skill="capitals", domain="facts") for prompt in KNOWN]
    asked += [Question(prompt=prompt, answers=("x",), skill="legs", domain="facts") for prompt in UNKNOWN]
    asked += [Question(prompt=prompt, answers=("x",), skill="currencies", domain="facts") for prompt in HALF_KNOWN]
    vectors = np.array([embed(question.prompt, 384) for question in asked], np.float32)
    profile = Profile(file="", digest="", questions="", right="1" * len(KNOWN) + "0" * len(UNKNOWN) + "1111100")
    return ProfiledScorer(Competence(profile, Asked.made(tuple(asked), vectors)))


@pytest.fixture(scope="module")
def embedder_server() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest.fixture
def embedder(embedder_server: Upstream) -> Upstream:
    embedder_server.reset()
    return embedder_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    tmp_path_factory: pytest.TempPathFactory,
    upstream_server: Upstream,
    near_server: Upstream,
    embedder_server: Upstream,
) -> AsyncIterator[Gateway]:
    models = [
        local("local-small", near_server.base_url),
        hosted("gpt-4o-mini", upstream_server.base_url),
        hosted("claude", upstream_server.base_url),
    ]
    policies = [{**DEFAULT, "cache": NO_CACHE}, PLAIN]
    section = {"url": embedder_server.base_url}
    async with gateway(tmp_path_factory.mktemp("gate"), models, policies, embedder=section) as running:
        running.runtime.view = msgspec.structs.replace(running.runtime.view, scorer=scorer())
        yield running


@pytest.fixture
def gate(served: Gateway, embedder: Upstream) -> Gateway:
    return served


async def test_what_it_was_seen_to_know_stays_here(gate: Gateway, embedder: Upstream) -> None:
    reply = await gate.chat(KNOWN[0])

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == ("easy", "local-small")
    assert len(embedder.requests) == 1


@pytest.mark.parametrize(("confidence", "model"), [(0.95, "local-small"), (0.85, "gpt-4o-mini")])
async def test_what_it_may_know_is_tried_and_kept_where_it_is_sure(
    gate: Gateway, near_server: Upstream, confidence: float, model: str
) -> None:
    near_server.default = Plan(extra={"confidence": confidence, "confidence_details": {"tokens": 30}})

    reply = await gate.chat(HALF_KNOWN[0])
    near_server.reset()

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == ("try-here", model)
    told = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}")).json()
    assert 0.35 < told["difficulty"] < 0.5
    assert told["confidence"] == confidence


@pytest.mark.parametrize(
    ("quality", "confidence", "model"),
    [
        (0, 0.05, "local-small"),
        (2, 0.3, "gpt-4o-mini"),
        (2, 0.4, "local-small"),
        (5, 0.85, "gpt-4o-mini"),
        (5, 0.95, "local-small"),
    ],
)
async def test_how_sure_it_must_be_of_what_it_knows_hangs_on_the_dial(
    gate: Gateway, near_server: Upstream, quality: int, confidence: float, model: str
) -> None:
    near_server.default = Plan(extra={"confidence": confidence, "confidence_details": {"tokens": 30}})

    reply = await gate.chat(KNOWN[0], headers={"x-gateway-quality": str(quality)})
    near_server.reset()

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == ("easy", model)


async def test_what_it_gets_wrong_goes_out_and_the_story_says_why(gate: Gateway, embedder: Upstream) -> None:
    reply = await gate.chat(UNKNOWN[1])

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == ("hard", "gpt-4o-mini")
    told = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}")).json()
    assert told["contributions"][0][0] == "may-be-wrong:legs"
    assert told["difficulty"] > 0.6


@pytest.mark.parametrize(
    ("prompt", "body"),
    [(HARD, {}), (KNOWN[0], {"model": "gpt-4o-mini"}), (KNOWN[0], {"model": "auto:plain"})],
    ids=["hard", "pinned", "a policy that does not ask"],
)
async def test_no_embedding_where_it_changes_nothing(
    gate: Gateway, embedder: Upstream, prompt: str, body: dict[str, Any]
) -> None:
    reply = await gate.chat(prompt, **body)

    assert reply.headers["x-gateway-model"] == "gpt-4o-mini"
    assert embedder.requests == []


async def test_no_byte_of_what_must_stay_here_is_embedded_elsewhere(gate: Gateway, embedder: Upstream) -> None:
    reply = await gate.chat(KNOWN[0], headers={"x-gateway-tags": "confidential"})

    assert reply.headers["x-gateway-route"] == "stays-here"
    assert embedder.requests == []


async def test_without_the_embedder_the_rules_decide(gate: Gateway, embedder: Upstream) -> None:
    embedder.default = Plan(status=503)

    reply = await gate.chat(UNKNOWN[0])

    assert (reply.status_code, reply.headers["x-gateway-route"]) == (200, "easy")
