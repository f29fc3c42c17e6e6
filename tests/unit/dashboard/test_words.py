from __future__ import annotations

import pytest

from gateway.dashboard import words
from gateway.types import NANO


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (None, "–"),
        (1_234_567 * NANO + 895_000_000, "$1,234,567.90"),
        (12 * NANO, "$12.00"),
        (7 * NANO, "$7.00"),
        (7_123_456_789, "$7.12"),
        (712_345_678, "$0.7123"),
        (-2_500_000, "−$0.0025"),
        (21_000, "$0.000021"),
        (1, "$0.000000001"),
        (9_223_372_036_854_775_807, "$9,223,372,036.85"),
    ],
)
def test_money_is_written_from_whole_nano_dollars(nano: int | None, text: str) -> None:
    assert words.money(nano) == text


def test_halves_are_rounded_to_even() -> None:
    assert [words.money(nano, 2) for nano in (10_005_000_000, 10_015_000_000)] == ["$10.00", "$10.02"]


def test_a_column_has_one_number_of_decimals_and_never_turns_something_into_nothing() -> None:
    amounts = [12_345_600_000_000, 4_000, 0, None, -3]
    shown = words.places(amounts)
    assert [words.money(nano, shown) for nano in amounts] == ["$12,345.60", "<$0.01", "$0.00", "–", "−<$0.01"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9_999, "9,999"), (12_345, "12.3 k"), (1_234_567, "1.23 M"), (5_000_000_000, "5 G"), (None, "–")],
)
def test_large_counts_are_short(value: int | None, text: str) -> None:
    assert words.compact(value) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.0, "0 %"), (0.2407, "24.1 %"), (1.0, "100 %"), (0.0001, "<0.1 %"), (None, "–"), (2.5, "250 %")],
)
def test_shares(part: float | None, text: str) -> None:
    assert words.share(part) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(None, "–"), (0.42, "0.4 ms"), (103.2, "103 ms"), (2_400.0, "2.4 s"), (600_000.0, "10 min")]
)
def test_durations(ms: float | None, text: str) -> None:
    assert words.duration(ms) == text


def test_instants_are_utc() -> None:
    assert (words.iso(1_767_268_800_000), words.utc(1_767_268_800_999)) == (
        "2026-01-01T12:00:00Z",
        "2026-01-01 12:00:00",
    )
