"""What a request is known to have used and cost, and the row it ends as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.billing import bill
from gateway.entry import ledger_entry, route_name
from gateway.storing import cache_write
from gateway.tokenizer import o200k
from gateway.types import CacheEntry, CacheHit, ChatRequest, Chunk, Decision, Principal, Usage, Where
from gateway.view import View
from gateway.visit import Visit
from tests.support.gateway import EVERYTHING_BIG
from tests.support.visits import BIG, view, visit

REPORTED = Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=400)
COST = 3_000_000  # 600 × 2.50 + 400 × 1.25 + 100 × 10 micro-dollars


@pytest.fixture
def shown(tmp_path: Path) -> View:
    return view(tmp_path)


def called(shown: View, *chunks: Chunk, **about: Any) -> Visit:
    """A request that was sent to ``big`` and got these chunks."""
    one = visit(shown)
    one.model = "big"
    for name, value in about.items():
        setattr(one, name, value)
    for chunk in chunks:
        one.take(chunk)
    return one


def hit(usage: Usage = REPORTED) -> CacheHit:
    return CacheHit(
        entry=CacheEntry(id="e", body=b"{}", model="big", usage=usage, created_ms=1), tier="semantic", similarity=0.98
    )


def test_reported_usage_is_billed_exactly(shown: View) -> None:
    one = called(
        shown,
        Chunk(data=b"1", text="Pa", usage=Usage(prompt_tokens=1000, completion_tokens=1)),
        Chunk(data=b"2", text="ris", usage=REPORTED, finish_reason="stop"),
    )
    amount = bill(one, shown.prices)
    assert (amount.cost_nano, amount.baseline_nano, amount.saved_nano) == (COST, COST, 0)
    assert (amount.usage, amount.unpriced) == (REPORTED, False)
    assert amount.price is not None


def test_without_reported_usage_it_is_estimated_and_never_above_the_reservation(shown: View) -> None:
    one = called(shown, Chunk(data=b"", text="word " * 4000), reserved_nano=777)
    amount = bill(one, shown.prices)
    assert (amount.usage.source, amount.cost_nano) == ("estimated", 777)
    assert amount.usage.completion_tokens > 1000
    free = called(shown, Chunk(data=b"", text="word " * 4000))
    assert bill(free, shown.prices).cost_nano > 777


@pytest.mark.parametrize("model", ["", "big"])
def test_what_never_reached_a_model_costs_nothing(shown: View, model: str) -> None:
    one = called(shown, model=model)
    one.fail("error", 502, "connect: " + "x" * 999)
    amount = bill(one, shown.prices)
    assert (amount.cost_nano, amount.baseline_nano, amount.usage.source) == (0, 0, "none")
    assert len(one.error) == 500


def test_a_client_that_left_before_the_first_byte_is_charged_the_prompt(shown: View) -> None:
    one = called(shown, reserved_nano=10**9)
    one.fail("cancelled", 499, "the client left")
    amount = bill(one, shown.prices)
    assert amount.usage.source == "estimated"
    assert (amount.usage.prompt_tokens, amount.usage.completion_tokens) == (one.features.prompt_tokens, 0)
    assert amount.cost_nano > 0
    assert amount.saved_nano == 0


def test_a_bill_once_shown_stays_and_a_failure_after_it_is_billed_anew(shown: View) -> None:
    one = called(shown, Chunk(data=b"", text="a"))
    first = bill(one, shown.prices)
    assert bill(one, shown.prices) == first
    one.take(Chunk(data=b"", text="word " * 4000))
    one.fail("incomplete", 200, "broke off")
    assert bill(one, shown.prices).cost_nano > first.cost_nano


def test_a_hit_costs_nothing_and_saves_the_baseline(shown: View) -> None:
    one = called(shown, hit=hit(), cache="semantic", model="")
    amount = bill(one, shown.prices)
    assert (amount.cost_nano, amount.saved_nano, amount.usage.source, amount.price) == (0, COST, "none", None)
    assert one.final_usage() == Usage(source="none")


def test_an_unpriced_answer_says_so_and_claims_no_savings(tmp_path: Path) -> None:
    unpriced = {name: value for name, value in BIG.items() if name != "price"} | {"upstream_model": "nobody-knows-it"}
    policy = EVERYTHING_BIG | {"unpriced": "allow"}
    shown = view(tmp_path, [unpriced], [policy])
    amount = bill(called(shown, Chunk(data=b"", usage=REPORTED)), shown.prices)
    assert (amount.cost_nano, amount.saved_nano, amount.unpriced, amount.price) == (0, 0, True, None)


def test_without_a_baseline_nothing_is_claimed_as_saved(tmp_path: Path) -> None:
    shown = view(tmp_path, [BIG], [{"name": "default", "rules": [{"name": "all", "use": ["big"]}]}])
    assert bill(called(shown, Chunk(data=b"", usage=REPORTED)), shown.prices).saved_nano == 0
    assert bill(called(shown, hit=hit()), shown.prices).saved_nano == 0


def test_times_are_those_of_the_first_byte_and_of_the_text(shown: View) -> None:
    one = called(shown)
    assert (one.ttft_ms(), one.tokens_per_s(REPORTED)) == (None, None)
    assert one.overhead_ms() > 0
    one.take(Chunk(data=b"", text="a"))
    assert one.tokens_per_s(REPORTED) is None
    one.take(Chunk(data=b"", text="b"))
    ttft, rate = one.ttft_ms(), one.tokens_per_s(REPORTED)
    assert ttft is not None
    assert ttft > 0
    assert rate is not None
    assert rate > 99
    assert one.overhead_ms() == pytest.approx(ttft)
    one.upstream_s = 1e9
    assert one.overhead_ms() == 0


def test_the_row_holds_every_input_of_the_decision_but_not_the_text(shown: View) -> None:
    who = Principal(key_id="k1", team="red", organisation="acme")
    one = visit(shown, who, {"x-gateway-session": "s1", "x-gateway-tags": "t"}, user="u1", stream=True)
    one.model, one.decision, one.reserved_nano = "big", Decision(rule="all", targets=("big",), difficulty=0.4), 5
    one.take(Chunk(data=b"", text="a", usage=REPORTED, finish_reason="stop"))
    row = ledger_entry(one, bill(one, shown.prices), provider="openai_compatible", served="hosted")
    assert (row.request_id, row.key_id, row.team, row.organisation) == ("req_1", "k1", "red", "acme")
    assert (row.end_user, row.session, row.tags, row.stream) == ("u1", "s1", ("t",), True)
    assert (row.rule, row.model, row.requested_model, row.difficulty) == ("all", "big", "auto", 0.4)
    assert (row.prompt_tokens, row.cached_tokens, row.cost_nano, row.reserved_nano) == (1000, 400, COST, 5)
    assert row.policy == one.policy.label
    assert row.price_source
    assert row.detail["features"].last_user_text == ""
    assert "What is it" not in repr(row)


def test_a_hits_row_names_the_entry_and_the_model_that_had_answered(shown: View) -> None:
    one = called(shown, hit=hit(), cache="semantic", model="")
    row = ledger_entry(one, bill(one, shown.prices), provider="cache", served="cache")
    assert (row.rule, row.model, row.cache, row.similarity, row.cache_entry) == ("cache", "big", "semantic", 0.98, "e")
    assert (row.price_source, row.usage_source) == ("", "none")
    assert route_name(visit(shown)) == ""


class TestStoring:
    """What becomes of a finished answer in the cache."""

    BODY = b'{"id":"x","choices":[{"index":0,"message":{"content":"Paris"},"finish_reason":"stop"}]}'
    EVENTS = (
        b'{"id":"x","choices":[{"index":0,"delta":{"content":"Paris"},"finish_reason":null}]}',
        b'{"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    )

    def answered(self, shown: View, headers: dict[str, str] | None = None, **body: Any) -> Visit:
        from gateway.cache.keys import cache_context

        one = visit(shown, headers=headers, **body)
        one.context = cache_context(one.request, one.principal, scope="key", local_only=False, embedder="e")
        one.model, one.store = "big", True
        return one

    def stored(self, shown: View, one: Visit) -> Any:
        return cache_write(one, ledger_entry(one, bill(one, shown.prices), provider="", served="hosted"))

    def test_a_clean_answer_is_stored_for_as_long_as_was_asked(self, shown: View) -> None:
        one = self.answered(shown, {"x-gateway-cache-ttl": "90s"})
        one.take(Chunk(data=self.BODY, usage=REPORTED, final=True))
        write = self.stored(shown, one)
        assert one.context is not None
        assert (write.digest, write.normal, write.partition) == (
            one.context.exact,
            one.context.normal,
            one.context.partition,
        )
        assert write.ttl_ms == 90_000
        default = self.answered(shown)
        default.take(Chunk(data=self.BODY, usage=REPORTED, final=True))
        assert 0.9 * 24 * 3_600_000 <= self.stored(shown, default).ttl_ms <= 24 * 3_600_000

    def test_a_stream_is_stored_folded_without_its_usage_event(self, shown: View) -> None:
        one = self.answered(shown, stream=True)
        for data in self.EVENTS:
            one.take(Chunk(data=data, text="Paris", finish_reason="stop"))
        one.take(Chunk(data=b'{"choices":[]}', usage=REPORTED, usage_only=True))
        assert b"Paris" in self.stored(shown, one).value
        assert one.kept == list(self.EVENTS)

    @pytest.mark.parametrize(
        "chunk",
        [
            Chunk(data=BODY, usage=None, final=True),
            Chunk(data=BODY, usage=REPORTED),
            Chunk(data=BODY, usage=REPORTED, final=True, tool_calls=True),
            Chunk(data=BODY, usage=REPORTED, final=True, error="overloaded"),
            Chunk(data=BODY.replace(b'"stop"', b'"length"'), usage=REPORTED, final=True),
            Chunk(data=BODY.replace(b"Paris", b"P" * 1024 * 1024), usage=REPORTED, final=True),
            Chunk(data=BODY.replace(b"Paris", b"P" * (1024 * 1024 - 150)), usage=REPORTED, final=True),
        ],
        ids=["no usage", "unfinished", "tools", "error", "cut", "large", "large with its record"],
    )
    def test_anything_else_is_not(self, shown: View, chunk: Chunk) -> None:
        one = self.answered(shown)
        one.take(chunk)
        assert self.stored(shown, one) is None

    def test_what_failed_or_may_not_be_stored_is_not(self, shown: View) -> None:
        for change in ({"status": "incomplete"}, {"store": False}, {"context": None}):
            one = self.answered(shown)
            one.take(Chunk(data=self.BODY, usage=REPORTED, final=True))
            for name, value in change.items():
                setattr(one, name, value)
            assert self.stored(shown, one) is None

    def test_an_endless_stream_is_not_kept_in_memory(self, shown: View) -> None:
        one = self.answered(shown, stream=True)
        for _ in range(300):
            one.take(Chunk(data=b"x" * 10_000))
        assert (one.store, sum(map(len, one.kept)) <= 1024 * 1024) == (False, True)


async def test_what_upstream_does_not_report_is_counted_by_a_tokenizer(shown: View) -> None:
    one = called(shown, Chunk(data=b"", text="Paris is"), Chunk(data=b"", aside=" the capital of France."))
    await one.count()
    counted = one.final_usage()
    # o200k_base: "Paris is the capital of France." is 7 tokens; three a message and three a reply are not text.
    prompt = tiktoken_count(one.request.messages[0]["content"]) + 6
    assert (counted.prompt_tokens, counted.completion_tokens, counted.source) == (prompt, 7, "estimated")


async def test_counting_again_takes_what_came_since(shown: View) -> None:
    one = called(shown, Chunk(data=b"", text="Paris is"))
    await one.count()
    bill(one, shown.prices)
    one.take(Chunk(data=b"", text=" the capital of France."))
    one.fail("incomplete", 200, "broke off")
    await one.count()
    assert bill(one, shown.prices).usage.completion_tokens == 7


async def test_a_reported_count_is_left_alone(shown: View) -> None:
    one = called(shown, Chunk(data=b"", text="Paris", usage=REPORTED))
    await one.count()
    assert one.final_usage() is REPORTED


def test_an_estimate_is_priced_in_the_tier_the_request_names(shown: View) -> None:
    for asked, tier in (("flex", "flex"), ("auto", ""), ("default", ""), (None, ""), (5, "")):
        one = called(shown, Chunk(data=b"", text="a"))
        one.request = with_field(one.request, "service_tier", asked)
        assert one.final_usage().tier == tier


def test_parts_of_the_price_without_a_column_are_in_the_row(shown: View) -> None:
    usage = Usage(prompt_tokens=100, cache_write_tokens=40, cache_write_1h_tokens=30, tier="flex")
    one = called(shown, Chunk(data=b"", usage=usage))
    row = ledger_entry(one, bill(one, shown.prices), provider="openai", served="hosted")
    assert row.detail["usage"] == {"cache_write_1h_tokens": 30, "tier": "flex"}
    plain = called(shown, Chunk(data=b"", usage=REPORTED))
    row = ledger_entry(plain, bill(plain, shown.prices), provider="openai", served="hosted")
    assert "usage" not in row.detail


def test_a_model_billed_by_the_second_costs_the_time_of_its_call(tmp_path: Path) -> None:
    by_second = BIG | {"price": {"input": 0, "output": 0, "per_second": 0.001}}
    shown = view(tmp_path, [by_second], [EVERYTHING_BIG])
    one = called(shown, Chunk(data=b"", usage=REPORTED), upstream_s=2.0)
    amount = bill(one, shown.prices)
    assert amount.usage.busy_s is not None
    assert amount.usage.busy_s >= 2.0
    assert amount.cost_nano == round(amount.usage.busy_s * 10**6)  # a microsecond is a nano-dollar


@pytest.mark.parametrize(("served", "busy_us"), [("local", 1_250_001), ("hosted", 0)])
def test_a_row_says_how_long_a_local_model_computed(shown: View, served: Where, busy_us: int) -> None:
    one = called(shown, Chunk(data=b"", usage=Usage(prompt_tokens=1, completion_tokens=1, busy_s=1.2500012)))
    assert ledger_entry(one, bill(one, shown.prices), provider="local", served=served).busy_us == busy_us


def tiktoken_count(text: str) -> int:
    return len(o200k().encode(text))


def with_field(request: ChatRequest, name: str, value: Any) -> ChatRequest:
    raw = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.structs.replace(request, fields=request.fields | ({} if value is None else {name: raw}))
