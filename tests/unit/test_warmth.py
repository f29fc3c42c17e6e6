"""What is taken to be cached of a conversation, by what upstream said, and under which name it is found again."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.types import Price
from gateway.warmth import LEAST_TOKENS, Conversation, Warm, _conversation, cached_next, tokens
from tests.support.ledger import entry
from tests.support.visits import view, visit

AUTOMATIC = Price(input="2.5", output="10", cached_input="1.25", cache_write="2.5", source="test", date="")
WRITTEN = Price(input="3", output="15", cached_input="0.3", cache_write="3.75", source="test", date="")
SYSTEM = {"role": "system", "content": "You are brief."}


def said(number: int) -> list[dict[str, Any]]:
    """A conversation of so many turns, the last unanswered."""
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(number) for role in ("user", "assistant")]
    return [SYSTEM, *turns[:-1]]


@pytest.mark.parametrize(
    ("price", "before", "cached", "written", "expected"),
    [
        (AUTOMATIC, None, 0, 0, 8000),
        (AUTOMATIC, 7000, 7000, 0, 8000),
        (AUTOMATIC, 7000, 0, 0, 0),
        (AUTOMATIC, 0, 0, 0, 8000),
        (None, None, 0, 0, 8000),
        (WRITTEN, None, 0, 0, 0),
        (WRITTEN, None, 0, 7900, 7900),
        (WRITTEN, 7000, 7000, 900, 7900),
        (WRITTEN, 7000, 2000, 0, 2000),
    ],
)
def test_what_upstream_said_of_this_request_says_what_the_next_one_finds(
    price: Price | None, before: int | None, cached: int, written: int, expected: int
) -> None:
    row = entry("r1", prompt_tokens=8000, cached_tokens=cached, cache_write_tokens=written)
    assert cached_next(row, price, None if before is None else Warm(0, before)) == expected


def test_a_short_prompt_is_cached_only_where_upstream_says_so() -> None:
    short = entry("r1", prompt_tokens=LEAST_TOKENS - 1)
    assert cached_next(short, AUTOMATIC, None) == 0
    assert cached_next(entry("r1", prompt_tokens=200, cached_tokens=128), AUTOMATIC, None) == 128


def test_no_more_is_warm_than_is_sent() -> None:
    assert tokens({"a": Warm(0, 900), "b": Warm(0, 0), "c": Warm(0, 50)}, 400) == {"a": 400, "c": 50}


class TestName:
    @pytest.fixture
    def name(self, tmp_path: Any) -> Any:
        shown = view(tmp_path)

        def of(**body: Any) -> Conversation:
            return _conversation(visit(shown, **body))

        return of

    def test_a_turn_finds_what_the_one_before_has_left(self, name: Any) -> None:
        turns = [name(messages=said(number)) for number in range(1, 5)]
        assert turns[0].before is None
        assert [turn.before for turn in turns[1:]] == [turn.now for turn in turns[:-1]]

    def test_calls_of_tools_are_turns_as_well(self, name: Any) -> None:
        call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}
        first = name(messages=said(2))
        then = name(messages=[*said(2), call, {"role": "tool", "tool_call_id": "c", "content": "4"}])
        assert then.before == first.now

    def test_another_history_is_another_conversation(self, name: Any) -> None:
        changed = said(3)
        changed[1] = {"role": "user", "content": "something else"}
        assert name(messages=changed).before != name(messages=said(3)).before

    def test_another_key_is_another_conversation(self, name: Any) -> None:
        from gateway.types import Principal

        other = name(messages=said(2), who=Principal(key_id="k2", name="other"))
        assert other.before != name(messages=said(2)).before

    def test_a_session_is_one_whatever_is_said_under_the_same_system_prompt(self, name: Any) -> None:
        headers = {"x-gateway-session": "s1"}
        one, two = name(messages=said(1), headers=headers), name(messages=said(3), headers=headers)
        assert one == two
        assert one.before == one.now
        agent = name(messages=said(1)[1:], headers=headers)
        assert agent != one
        assert name(messages=said(1), headers={"x-gateway-session": "s2"}) != one
