from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from local_models.chat.context import Share
from local_models.chat.prefix import LEAST, Idle, Kept, as_tokens, common, shares

SYSTEM = list(range(100, 150))


def tokens(*more: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return as_tokens([*SYSTEM, *more])


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_the_longest_common_prefix(first: list[int], second: list[int]) -> None:
    size = common(as_tokens(first), as_tokens(second))
    assert first[:size] == second[:size]
    assert size in (len(first), len(second)) or first[size] != second[size]


def kept(*more: int) -> Kept:
    return Kept(tokens(*more), np.empty(0, np.uint8))


def test_the_longest_match_wins_and_the_last_token_is_always_computed_again() -> None:
    idle = Idle(1000)
    first, second = kept(1, 2), kept(1, 3, 4, 5)
    idle.add(first)
    idle.add(second)
    found = idle.match(tokens(1, 3, 9, 9))
    assert found is not None
    assert (found.kept, found.length) == (second, 52)
    again = idle.match(tokens(1, 2))
    assert again is not None
    assert (again.kept, again.length) == (first, 51)
    assert idle.match(as_tokens(SYSTEM[: LEAST - 1] + [0] * 40)) is None


def test_of_two_that_begin_alike_the_shorter_is_taken_back() -> None:
    idle = Idle(1000)
    short, long = kept(1), kept(2, *range(200))
    idle.add(short)
    idle.add(long)
    found = idle.match(tokens(9))
    assert found is not None
    assert found.kept is short


def test_what_was_used_last_goes_last_and_the_budget_holds() -> None:
    idle = Idle(150)
    first, second, third = kept(1), kept(2), kept(3)
    idle.add(first)
    idle.add(second)
    idle.use(first)
    idle.add(third)
    assert idle.cells == 102
    assert idle.covers(first.tokens)
    assert not idle.covers(second.tokens)


def test_what_is_only_the_beginning_of_something_new_goes() -> None:
    idle = Idle(1000)
    for more in ((), (5,), (5, 6)):
        idle.add(kept(*more))
    assert len(idle) == 1
    assert idle.covers(tokens(5))
    assert not idle.covers(tokens(5, 7))


def test_more_than_the_budget_is_not_kept_at_all() -> None:
    idle = Idle(10)
    idle.add(kept())
    assert len(idle) == 0


def test_sequences_share_the_longest_beginning_with_one_before_them_and_keep_something_of_their_own() -> None:
    held = [(4, tokens(1, 2)), (2, tokens(1, 3)), (7, as_tokens([1, 2, 3])), (0, tokens(1, 3, 5)), (5, tokens(1, 2))]
    assert shares(held) == [Share(4), Share(2, 4, 51), Share(7), Share(0, 2, 52), Share(5)]
