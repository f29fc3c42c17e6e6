from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from local_models.chat.prefix import LEAST, Idle, as_tokens, common

SYSTEM = list(range(100, 150))


def tokens(*more: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return as_tokens([*SYSTEM, *more])


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_the_longest_common_prefix(first: list[int], second: list[int]) -> None:
    size = common(as_tokens(first), as_tokens(second))
    assert first[:size] == second[:size]
    assert size in (len(first), len(second)) or first[size] != second[size]


def test_the_longest_match_wins_and_the_last_token_is_always_computed_again() -> None:
    idle = Idle(1000)
    idle.add(1, tokens(1, 2))
    idle.add(2, tokens(1, 3, 4, 5))
    found = idle.match(tokens(1, 3, 9, 9))
    assert found is not None
    assert (found.sequence, found.length, found.whole) == (2, 52, False)
    again = idle.match(tokens(1, 2))
    assert again is not None
    assert (again.sequence, again.length, again.whole) == (1, 51, True)
    assert idle.match(as_tokens(SYSTEM[: LEAST - 1] + [0] * 40)) is None


def test_what_was_used_last_goes_last_and_the_budget_holds() -> None:
    idle = Idle(150)
    assert idle.add(1, tokens(1)) == []
    assert idle.add(2, tokens(2)) == []
    idle.use(1)
    assert idle.add(3, tokens(3)) == [2]
    assert idle.cells <= 150
    assert idle.oldest() == 1


def test_a_sequence_that_is_only_the_beginning_of_a_new_one_goes() -> None:
    idle = Idle(1000)
    idle.add(1, tokens())
    idle.add(2, tokens(5))
    assert idle.add(3, tokens(5, 6)) == [2]
    assert len(idle) == 1


def test_more_than_the_budget_is_not_kept_at_all() -> None:
    assert Idle(10).add(1, tokens()) == [1]
