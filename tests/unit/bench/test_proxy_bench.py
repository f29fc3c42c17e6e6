"""The benchmark's own sums, and its wrk script against the upstream."""

import asyncio
import io
import shutil

import msgspec
import pytest
from rich.console import Console

from tests.bench.proxy.checks import Check, answers_rightly
from tests.bench.proxy.load import EXACT, OURS, Contender, Sample, drive
from tests.bench.proxy.report import Result, as_json, show
from tests.support.upstream import Plan, Upstream


def sample(requests: int, p50_ms: float) -> Sample:
    return Sample(requests, 1.0, p50_ms, p50_ms * 2, 0, requests)


# Portkey was slower in the round in which everyone was: paired, it is twice as slow in each.
ROUNDS = {
    OURS: {1: [sample(400, 2.0), sample(200, 4.0)], 8: [sample(2000, 4.0), sample(1000, 8.0)]},
    EXACT: {1: [sample(900, 1.0), sample(450, 2.0)], 8: [sample(3000, 1.0), sample(1500, 2.0)]},
    "Portkey": {1: [sample(200, 4.0), sample(100, 8.0)], 8: [sample(1000, 8.0), sample(500, 16.0)]},
}
RESULT = Result(ROUNDS, {"MB": 1.5}, [Check("right", False, "3 of 4")], {"LiteLLM": "no network"})


def test_ratios_are_paired_within_a_round() -> None:
    ratios = {ratio["what"]: ratio for ratio in msgspec.json.decode(as_json(RESULT))["ratios"]}

    rate = ratios["gateway / Portkey, requests/s at 8"]
    assert (rate["median"], rate["goal"], rate["met"]) == (2.0, 1.5, True)
    p50 = ratios["gateway / Portkey, p50 at 1"]
    assert (p50["median"], p50["goal"], p50["met"]) == (0.5, 1.0, True)
    exact = ratios["gateway, exact hit / gateway, requests/s at 8"]
    assert (exact["median"], exact["goal"], exact["met"]) == (1.5, 2.0, False)
    assert ratios["gateway / Portkey, requests/s at 1"]["met"] is None
    assert not any("LiteLLM" in what for what in ratios)  # did not take part


def test_the_page_tells_medians_failures_and_who_is_missing() -> None:
    page = io.StringIO()
    show(RESULT, Console(file=page, width=120))

    assert "1,500" in page.getvalue()
    assert "missed" in page.getvalue()
    assert "FAILS right (3 of 4)" in page.getvalue()
    assert "skipped LiteLLM: no network" in page.getvalue()


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
@pytest.mark.parametrize("same_prompt", [True, False])
async def test_wrk_asks_what_it_is_told(same_prompt: bool) -> None:
    async with Upstream() as up:
        contender = Contender(
            name="direct", url=up.base_url, model="m", headers={"x-one": "1"}, same_prompt=same_prompt
        )
        seen = await asyncio.to_thread(drive, contender, 2, 1)
        prompts = {received.json["messages"][0]["content"] for received in up.requests}

        assert seen.errors == 0
        assert seen.requests <= len(up.requests) <= seen.sent <= seen.requests + 2
        assert len(prompts) == (1 if same_prompt else len(up.requests))
        assert (up.requests[0].model, up.requests[0].header("x-one")) == ("m", "1")


@pytest.mark.parametrize(
    ("plan", "holds"), [(Plan(), True), (Plan(text="something else"), False), (Plan(status=500), False)]
)
async def test_a_wrong_answer_is_noticed(plan: Plan, holds: bool) -> None:
    async with Upstream() as up:
        contender = Contender(name="direct", url=up.base_url, model="m", headers={})
        up.enqueue(*[Plan()] * 50, plan)
        check = await asyncio.to_thread(answers_rightly, contender)
        assert check.holds is holds
