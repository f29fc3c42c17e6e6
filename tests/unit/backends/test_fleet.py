"""From one target to the next: who is asked, who is skipped, what is told when nobody could answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gateway.backends import resilient, translate
from gateway.backends.breaker import FAILURES_TO_OPEN
from gateway.backends.fleet import Answer, Fleet, most_telling
from gateway.backends.wire import request_body
from gateway.config import GatewayConfig, ModelConfig, Settings, socket_path
from gateway.errors import (
    BudgetExhausted,
    NotFound,
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Attempt
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until
from tests.unit.backends.support import chat, http, saying


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilient, "BACKOFF_S", 0.01)
    monkeypatch.setattr(resilient, "PROBE_S", 0.05)


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


def settings(tmp_path: Path, *models: ModelConfig) -> Settings:
    config = GatewayConfig(models=models)
    return Settings(config=config, file="", data_dir=tmp_path, models_dir=tmp_path, policies_dir=tmp_path)


def hosted(up: Upstream, name: str, **fields: Any) -> ModelConfig:
    given = {"base_url": up.base_url, "max_retries": 0, "first_byte_timeout": 0.3, **fields}
    return ModelConfig(name=name, provider="openai_compatible", **given)


def gone(name: str) -> ModelConfig:
    return ModelConfig(name=name, provider="openai_compatible", base_url="http://127.0.0.1:9/v1", max_retries=0)


@pytest.fixture
async def fleet(up: Upstream, tmp_path: Path) -> AsyncIterator[Fleet]:
    local = ModelConfig(name="small", local="smollm2", url=up.base_url, max_retries=0)
    fleet = Fleet.build(settings(tmp_path, local, hosted(up, "a"), hosted(up, "b"), gone("gone")))
    yield fleet
    await fleet.close()


async def text_of(answer: Answer) -> str:
    async with aclosing(answer.rest) as rest:
        return answer.first.text + "".join([chunk.text async for chunk in rest])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_target_that_answers(up: Upstream, fleet: Fleet, stream: bool) -> None:
    up.plans = {"a": Plan(status=503), "b": Plan(text="from b")}
    attempts: list[Attempt] = []
    answer = await fleet.call(["gone", "a", "b", "small"], chat(stream=stream), on_attempt=attempts.append)
    assert answer.model == "b"
    assert await text_of(answer) == "from b"
    assert [(attempt.model, attempt.status) for attempt in attempts] == [("gone", None), ("a", 503), ("b", 200)]
    assert all(attempt.duration_ms > 0 and attempt.started_ms > 1e12 for attempt in attempts)


@pytest.mark.parametrize("fault", [Plan(hang=True), Plan(garbage_after=0, garbage=b"{"), Plan(status=401)])
async def test_any_failure_before_the_first_chunk_leads_on(up: Upstream, fleet: Fleet, fault: Plan) -> None:
    up.plans = {"a": fault}
    assert (await fleet.call(["a", "b"], chat())).model == "b"


async def test_not_after_the_first_chunk(up: Upstream, fleet: Fleet) -> None:
    up.plans = {"a": Plan(cut_after=1)}
    answer = await fleet.call(["a", "b"], chat(stream=True))
    with pytest.raises(UpstreamBroken):
        await text_of(answer)
    assert {received.model for received in up.requests} == {"a"}


async def test_a_refusal_is_the_clients(up: Upstream, fleet: Fleet) -> None:
    up.plans = {"a": Plan(status=400, error={"error": {"message": "no", "code": "context_length_exceeded"}})}
    with pytest.raises(UpstreamRefused) as caught:
        await fleet.call(["a", "b"], chat())
    assert caught.value.code == "context_length_exceeded"
    assert up.total == 1


@pytest.mark.parametrize("code", ["context_length_exceeded", "unsupported"])
async def test_what_only_the_local_model_cannot_do_leads_on(up: Upstream, fleet: Fleet, code: str) -> None:
    up.plans = {"smollm2": Plan(status=400, error={"error": {"message": "no", "code": code}})}
    assert (await fleet.call(["small", "a"], chat())).model == "a"
    with pytest.raises(UpstreamRefused):
        await fleet.call(["small"], chat())
    up.plans = {"smollm2": Plan(status=400, error={"error": {"message": "no", "code": "invalid_request"}})}
    with pytest.raises(UpstreamRefused):
        await fleet.call(["small", "a"], chat())


async def test_a_plain_answer_wipes_out_the_failures_before_it(up: Upstream, fleet: Fleet) -> None:
    """Failures count in a row, and nobody reads a plain answer beyond its one chunk."""
    for _ in range(FAILURES_TO_OPEN):
        up.enqueue(Plan(status=500), Plan())
        with pytest.raises(UpstreamUnavailable):
            await fleet.call(["a"], chat())
        assert (await fleet.call(["a"], chat())).first.final
    assert fleet.unavailable("a") is None


async def test_a_target_that_is_cooling_down_costs_no_time_and_no_attempt(up: Upstream, fleet: Fleet) -> None:
    assert fleet.unavailable("gone") is None
    await fleet.call(["gone", "a"], chat())
    assert "cooling down" in (fleet.unavailable("gone") or "")
    attempts: list[Attempt] = []
    await fleet.call(["gone", "a"], chat(), on_attempt=attempts.append)
    assert [attempt.model for attempt in attempts] == ["a"]


async def test_the_deadline_bounds_all_targets_together(up: Upstream, tmp_path: Path) -> None:
    up.default = Plan(hang=True)
    patient = [hosted(up, name, first_byte_timeout=60) for name in ("b", "c")]
    fleet = Fleet.build(settings(tmp_path, hosted(up, "a"), *patient))
    started = time.perf_counter()
    with pytest.raises(UpstreamTimeout):
        await fleet.call(["a", "b", "c"], chat(), deadline_s=1.5)
    assert time.perf_counter() - started < 30
    assert [received.model for received in up.requests] == ["a", "b"]
    await fleet.close()


async def test_the_next_target_is_reserved_for_when_the_one_before_may_be_billed(up: Upstream, fleet: Fleet) -> None:
    up.plans = {"a": Plan(hang=True), "b": Plan(status=500)}
    reserved = []

    async def reserve(name: str) -> None:
        reserved.append(name)

    assert (await fleet.call(["a", "b", "small"], chat(), before_retry=reserve)).model == "small"
    assert reserved == ["b"]

    async def refuse(_: str) -> None:
        raise BudgetExhausted("nothing left")

    with pytest.raises(BudgetExhausted):
        await fleet.call(["a", "b"], chat(), before_retry=refuse)


async def test_when_all_are_rate_limited_it_says_when_to_come_back(up: Upstream, fleet: Fleet) -> None:
    up.plans = {
        "a": Plan(status=429, headers={"retry-after": "40"}),
        "b": Plan(status=429, headers={"retry-after": "20"}),
    }
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable) as caught:
            await fleet.call(["a", "b"], chat())
        assert caught.value.status == 429
        assert 19 < (caught.value.retry_after or 0) <= 20
    assert up.total == 2


AWAY = UpstreamUnavailable("refused", connect=True)
OOPS = UpstreamUnavailable("oops", upstream_status=500)
SLOW = UpstreamTimeout("slow")
NO = UpstreamRefused("too long", upstream_status=400)


@pytest.mark.parametrize(
    ("failures", "told"),
    [([AWAY, OOPS, AWAY], OOPS), ([SLOW, AWAY], SLOW), ([NO, AWAY], NO), ([NO, OOPS], OOPS), ([AWAY], AWAY)],
)
def test_tells_what_upstream_said_last(failures: list[UpstreamError], told: UpstreamError) -> None:
    assert most_telling(failures) is told


async def test_no_target_at_all(fleet: Fleet) -> None:
    with pytest.raises(NotFound):
        await fleet.call([], chat())
    with pytest.raises(UpstreamUnavailable, match="not configured"):
        await fleet.call(["nobody"], chat())


async def test_says_why_a_target_cannot_be_asked(tmp_path: Path, up: Upstream) -> None:
    local = ModelConfig(name="small", local="smollm2")
    fleet = Fleet.build(
        settings(
            tmp_path,
            local,
            ModelConfig(name="gpt-4o-mini", provider="openai"),
            ModelConfig(name="claude", provider="litellm", upstream_model="anthropic/x"),
            ModelConfig(name="keyed", provider="openai", api_key="sk-1"),
            hosted(up, "open"),
        )
    )
    assert fleet.unavailable("nobody") == "not configured"
    assert fleet.unavailable("gpt-4o-mini") == "no api_key is set"
    assert fleet.unavailable("claude") == "no api_key is set"
    assert fleet.unavailable("small") == "the local model is not running"
    assert fleet.unavailable("keyed") is None
    assert fleet.unavailable("open") is None
    attempts: list[Attempt] = []
    with pytest.raises(UpstreamUnavailable):
        await fleet.call(["small", "claude"], chat(), on_attempt=attempts.append)
    assert attempts == []
    path = socket_path(tmp_path, "chat-smollm2")
    path.parent.mkdir(parents=True)
    try:
        reply = http(b'{"choices":[{"message":{"content":"local"},"finish_reason":"stop"}]}')
        async with saying(reply, uds=str(path)):
            assert fleet.unavailable("small") is None
            assert await text_of(await fleet.call(["small"], chat())) == "local"
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()
    await fleet.close()


async def test_a_reload_keeps_what_is_known_of_unchanged_models(tmp_path: Path, up: Upstream) -> None:
    up.default = Plan(status=401)
    before = Fleet.build(settings(tmp_path, hosted(up, "a"), hosted(up, "b", api_key="old"), gone("gone")))
    for name in ("a", "b", "gone"):
        with pytest.raises(UpstreamUnavailable):
            await before.call([name], chat())
    after = Fleet.build(settings(tmp_path, hosted(up, "a"), hosted(up, "b", api_key="new"), gone("gone")), before)
    await before.close()
    assert after.unavailable("a") == before.unavailable("a") is not None
    assert after.unavailable("b") is None
    assert "cooling down" in (after.unavailable("gone") or "")
    await after.close()


async def test_closing_lets_replies_end_and_cuts_off_those_that_do_not(tmp_path: Path, up: Upstream) -> None:
    fleet = Fleet.build(settings(tmp_path, hosted(up, "a", first_byte_timeout=30)))
    up.enqueue(Plan(chunk_delay_s=0.05), Plan(chunk_delay_s=30))
    answer = await fleet.call(["a"], chat(stream=True))
    closing = asyncio.create_task(fleet.close(drain_s=5))
    assert await text_of(answer) == "You said: hello"
    await asyncio.wait_for(closing, 1)

    fleet = Fleet.build(settings(tmp_path, hosted(up, "a", first_byte_timeout=30)))
    answer = await fleet.call(["a"], chat(stream=True))
    await fleet.close(drain_s=0.05)
    await up.wait_for(1, "disconnected")
    with pytest.raises(UpstreamBroken):
        await text_of(answer)


async def test_an_unreachable_target_comes_back_by_itself(tmp_path: Path) -> None:
    async with Upstream() as up:
        port = up.port
        fleet = Fleet.build(settings(tmp_path, hosted(up, "a")))
    with pytest.raises(UpstreamUnavailable) as caught:
        await fleet.call(["a"], chat())
    assert caught.value.code != translate.DEADLINE
    async with Upstream(port=port) as up:
        await until(lambda: fleet.unavailable("a") is None)
        assert {received.path for received in up.requests} == {"/v1/models"}
        await fleet.call(["a"], chat())
    await fleet.close()


@pytest.mark.parametrize(
    ("url", "asked"), [("http://api.mistral.ai/v1", False), ("http://mistral.ai.example/v1", True), (None, True)]
)
def test_mistral_is_not_asked_for_what_it_refuses(tmp_path: Path, url: str | None, asked: bool) -> None:
    model = ModelConfig(name="m", provider="openai_compatible" if url else "openai", base_url=url, api_key="k")
    built = Fleet.build(settings(tmp_path, model))
    body = request_body(chat(stream=True), "m", built._targets["m"].backend._backend._strip)  # type: ignore[attr-defined]
    assert (b"include_usage" in body) == asked


@pytest.mark.parametrize(("url", "told"), [(None, False), ("http://10.0.0.7:8000/v1", True)])
def test_openai_is_not_told_what_only_other_providers_take(tmp_path: Path, url: str | None, told: bool) -> None:
    model = ModelConfig(name="m", provider="openai_compatible" if url else "openai", base_url=url, api_key="k")
    built = Fleet.build(settings(tmp_path, model))
    strip = built._targets["m"].backend._backend._strip  # type: ignore[attr-defined]
    assert (b"top_k" in request_body(chat(top_k=40), "m", strip)) == told
