from __future__ import annotations

from local_models.chat.speculate import Acceptance, Lookup, length


def steep(rows: int) -> float:
    """About what a step costs on two cores: the first row most."""
    return 1.0 + 0.2 * (rows - 1)


def test_what_followed_the_same_three_tokens_is_the_draft() -> None:
    lookup = Lookup()
    lookup.extend([1, 2, 3, 4, 5, 6, 7, 1, 2, 3])
    assert lookup.draft(3) == [4, 5, 6]
    lookup.extend([9])
    assert lookup.draft(3) == []
    lookup.extend([1, 2, 3])
    assert lookup.draft(9) == [9, 1, 2, 3]


def test_drafts_get_longer_as_they_come_true_and_stop_when_they_do_not() -> None:
    good, bad = Acceptance(), Acceptance()
    for _ in range(5):
        good.record(7, 7)
        bad.record(0, 3)
    assert length(good.rate, 1, 15, steep) == 15
    assert length(Acceptance().rate, 1, 15, steep) > 0
    assert length(bad.rate, 1, 15, steep) == 0


def test_two_failures_switch_a_fresh_sequence_off_and_right_guesses_switch_it_on_again() -> None:
    rate = Acceptance()
    rate.record(0, 3)
    rate.record(0, 3)
    assert length(rate.rate, 1, 15, steep) == 0
    for _ in range(12):
        rate.would_have(True)
    assert length(rate.rate, 1, 15, steep) > 0


def test_a_draft_must_pay_for_everybody_in_the_step() -> None:
    assert length(0.6, 1, 15, steep) > 0
    assert length(0.6, 16, 15, steep) == 0
