"""What the client sees: costs to the nano-dollar, everything else byte for byte."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing import Bill
from gateway.reply import usage_event, usd, with_costs, without_usage
from gateway.types import Usage, UsageSource

USAGE = Usage(prompt_tokens=7, completion_tokens=3)


def bill(cost: int = 14_250, baseline: int = 20_000, source: UsageSource = "reported") -> Bill:
    return Bill(usage=Usage(source=source), cost_nano=cost, baseline_nano=baseline, price=None, unpriced=False)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (14_250, "0.00001425"),
        (10**9, "1"),
        (1_500_000_000, "1.5"),
        (-1, "-0.000000001"),
        (-2 * 10**9, "-2"),
        (2**63 - 1, "9223372036.854775807"),
        (100 * 10**9, "100"),
    ],
)
def test_nano_dollars_as_dollars(nano: int, text: str) -> None:
    assert usd(nano) == text


@given(st.integers(-(2**70), 2**70))
def test_dollars_are_exact(nano: int) -> None:
    assert Decimal(usd(nano)) == Decimal(nano) / 10**9
    assert json.loads(usd(nano), parse_float=Decimal) == Decimal(nano) / 10**9


def test_everything_upstream_said_is_passed_on_as_it_was_written() -> None:
    parts = (
        b'"x":1.10000000000000000001',
        b'"big":123456789012345678901234567890',
        b'"deep":{ "b" : [1 , 2], "a":null}',
        b'"text":"\\u00e9 \\/"',
    )
    body = b'{"id":"a",' + b",".join(parts) + b',"usage":{"prompt_tokens":5,"odd":1e3,"more":{"q": 1.0}}}'
    costed = with_costs(body, bill(), USAGE)
    for part in (*parts, b'"odd":1e3', b'"more":{"q": 1.0}'):
        assert part in costed
    assert b'"usage":{"prompt_tokens":5,' in costed
    assert b'"cost_usd":0.00001425,"saved_usd":0.00000575}' in costed
    assert list(json.loads(costed)) == ["id", "x", "big", "deep", "text", "usage"]


@pytest.mark.parametrize("usage", [b"", b'"usage":null,', b'"usage":[],', b'"usage":5,', b'"usage":"none",'])
def test_a_body_without_usage_gets_what_is_known(usage: bytes) -> None:
    told = json.loads(with_costs(b"{%b" % usage + b'"id":"a"}', bill(), USAGE))
    assert told["usage"]["total_tokens"] == 10
    assert told["usage"]["cost_usd"] == 0.00001425
    assert "estimated" not in told["usage"]
    guessed = json.loads(with_costs(b"{%b" % usage + b'"id":"a"}', bill(source="estimated"), USAGE))
    assert guessed["usage"]["estimated"] is True


def test_what_cost_more_than_the_baseline_saved_less_than_nothing() -> None:
    told = json.loads(with_costs(b"{}", bill(cost=30, baseline=10), USAGE), parse_float=Decimal)
    assert told["usage"]["saved_usd"] == Decimal("-0.00000002")


@pytest.mark.parametrize(
    ("event", "seen"),
    [
        (b'{"id":"a","choices":[]}', b'{"id":"a","choices":[]}'),
        (b'{"id":"a","choices":[],"usage":null}', b'{"id":"a","choices":[]}'),
        (b'{"id": "a", "choices": [], "usage": null}', b'{"id": "a", "choices": []}'),
        (b'{"id":"a","usage":null,"x": 1.00}', b'{"id":"a","x": 1.00}'),
        (b'{"usage":null,"x":1.00}', b'{"x":1.00}'),
        (b'{"id":"a","usage":{"prompt_tokens":1},"x":1.00}', b'{"id":"a","x":1.00}'),
    ],
)
def test_usage_that_only_the_gateway_asked_for_is_taken_out(event: bytes, seen: bytes) -> None:
    assert without_usage(event) == seen


@given(st.text(max_size=40))
def test_an_answer_about_usage_is_left_alone(text: str) -> None:
    said: Any = {"choices": [{"delta": {"content": f'{text},"usage":null, "usage": null'}}]}
    event = json.dumps(said).encode()
    assert json.loads(without_usage(event)) == said


def test_a_closing_event_is_made_where_upstream_sent_none() -> None:
    last = b'{"id":"a","model":"big","choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}'
    told = json.loads(usage_event(last, bill(), USAGE))
    assert (told["id"], told["model"], told["choices"]) == ("a", "big", [])
    assert told["usage"]["prompt_tokens"] == 7
    assert told["usage"]["saved_usd"] == 0.00000575
    assert json.loads(usage_event(b"", bill(), USAGE))["choices"] == []


def test_the_cost_of_a_model_without_a_price_is_null_and_not_zero() -> None:
    unknown = Bill(usage=USAGE, cost_nano=0, baseline_nano=0, price=None, unpriced=True)
    body = with_costs(b'{"usage":{"prompt_tokens":7}}', unknown, USAGE)
    assert json.loads(body)["usage"] == {"prompt_tokens": 7, "cost_usd": None, "saved_usd": None}


def test_a_closing_event_keeps_upstreams_own_usage_where_it_is_what_was_booked() -> None:
    said = b'{"id":"a","choices":[{"index":0}],"usage":{"prompt_tokens":7,"completion_tokens":3,"odd":1}}'
    told = json.loads(usage_event(said, bill(), USAGE))
    assert (told["choices"], told["usage"]["odd"]) == ([], 1)
    # Some count each chunk for itself: the last then says less than was used.
    more = Usage(prompt_tokens=7, completion_tokens=30, cache_write_tokens=2, audio_input_tokens=4)
    told = json.loads(usage_event(said, bill(), more))["usage"]
    assert (told["completion_tokens"], told["total_tokens"]) == (30, 37)
    assert told["prompt_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 2, "audio_tokens": 4}
