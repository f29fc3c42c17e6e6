"""What is planted in an invoice is found, named and priced; and whatever differs adds up."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reconcile.invoice import read_invoice
from gateway.reconcile.match import Booked, Difference, Place, Result, reconcile
from gateway.types import NANO, Usage

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(6)]
HEADER = "date,model,requests,input_tokens,output_tokens,cost_usd\n"


def row(day: date, model: str = "big", requests: int = 10, tokens: int = 1000, cost: str = "0.250000") -> str:
    return f"{day},{model},{requests},{tokens - 100},100,{cost}\n"


def booked(requests: int = 10, tokens: int = 1000, cost_nano: int = 250_000_000, **more: Any) -> Booked:
    return Booked(requests=requests, input_tokens=tokens - 100, output_tokens=100, cost_nano=cost_nano, **more)


BOOKS: dict[Place, Booked] = {(day, "big"): booked() for day in DAYS}


def found(text: str, books: dict[Place, Booked] = BOOKS, known: tuple[str, ...] = ("big",)) -> Result:
    result = reconcile(read_invoice(HEADER + text), books, known, lambda model, usage: None)
    assert sum(one.amount_nano for one in result.differences) == result.invoice_nano - result.books_nano
    return result


def only(result: Result) -> Difference:
    assert len(result.differences) == 1, result.differences
    return result.differences[0]


def test_an_invoice_that_agrees_has_no_differences() -> None:
    result = found("".join(row(day) for day in DAYS))
    assert (result.differences, result.wrong_nano, result.invoice_nano) == ((), 0, 6 * 250_000_000)


def test_a_day_the_invoice_lacks() -> None:
    one = only(found("".join(row(day) for day in DAYS if day != DAYS[2])))
    assert (one.kind, one.where, one.since, one.amount_nano) == ("missing_day", "invoice", DAYS[2], -250_000_000)


def test_a_day_the_books_lack() -> None:
    books = {place: each for place, each in BOOKS.items() if place[0] != DAYS[3]}
    one = only(found("".join(row(day) for day in DAYS), books))
    assert (one.kind, one.where, one.since, one.amount_nano) == ("missing_day", "books", DAYS[3], 250_000_000)


def test_a_line_that_stands_there_twice() -> None:
    one = only(found("".join(row(day) for day in DAYS) + row(DAYS[1])))
    assert (one.kind, one.since, one.amount_nano) == ("double_charge", DAYS[1], 250_000_000)


def test_lines_that_are_alike_and_right_are_no_double_charge() -> None:
    books = {(FIRST, "big"): booked(requests=20, tokens=2000, cost_nano=500_000_000)}
    books[FIRST, "big"] = Booked(requests=20, input_tokens=1800, output_tokens=200, cost_nano=500_000_000)
    assert found(row(FIRST) * 2, books).differences == ()


def test_a_day_that_was_summed_up_twice() -> None:
    doubled = f"{DAYS[4]},big,20,1800,200,0.5\n"
    one = only(found("".join(row(day) for day in DAYS if day != DAYS[4]) + doubled))
    assert (one.kind, one.since, one.amount_nano) == ("double_charge", DAYS[4], 250_000_000)


def test_a_price_that_changed_is_one_difference_from_its_first_day_on() -> None:
    one = only(found("".join(row(day, cost="0.30" if day >= DAYS[3] else "0.250000") for day in DAYS)))
    assert (one.kind, one.since, one.until, one.amount_nano) == ("price_change", DAYS[3], DAYS[5], 3 * 50_000_000)
    assert one.ratio is not None
    assert "1.2000 times" in one.text


def test_two_prices_one_after_the_other_are_two_differences() -> None:
    costs = ["0.250000", "0.30", "0.30", "0.40", "0.250000", "0.40"]
    result = found("".join(row(day, cost=cost) for day, cost in zip(DAYS, costs, strict=True)))
    assert [(one.since, one.until) for one in result.differences] == [
        (DAYS[1], DAYS[2]),
        (DAYS[3], DAYS[3]),
        (DAYS[5], DAYS[5]),
    ]


def test_a_line_twice_at_another_price_are_two_causes() -> None:
    result = found(row(FIRST, cost="0.30") * 2, {(FIRST, "big"): booked()})
    assert [(one.kind, one.amount_nano) for one in result.differences] == [
        ("double_charge", 300_000_000),
        ("price_change", 50_000_000),
    ]


def test_what_rounding_can_make_is_rounding_and_no_more() -> None:
    books = {(FIRST, "big"): booked(cost_nano=254_999_999), (DAYS[1], "big"): booked(cost_nano=259_000_000)}
    result = found(row(FIRST, cost="0.25") + row(DAYS[1], cost="0.25"), books)
    assert [one.kind for one in result.differences] == ["rounding", "price_change"]
    assert result.wrong_nano == 9_000_000


def test_a_model_that_is_not_this_gateways() -> None:
    one = only(found("".join(row(day) for day in DAYS) + row(DAYS[2], model="gpt-image")))
    assert (one.kind, one.model, one.amount_nano) == ("unknown_model", "gpt-image", 250_000_000)


def test_a_model_that_one_side_lacks_on_a_day() -> None:
    books = {**BOOKS, (DAYS[0], "small"): booked(cost_nano=7)}
    text = "".join(row(day) for day in DAYS) + row(DAYS[1], model="small")
    result = found(text, books, ("big", "small"))
    assert [(one.kind, one.where, one.amount_nano) for one in result.differences] == [
        ("missing_model", "invoice", -7),
        ("missing_model", "books", 250_000_000),
    ]


def test_other_tokens_are_said_and_so_are_estimated_rows() -> None:
    books = {(FIRST, "big"): booked(tokens=980, cost_nano=245_000_000, estimated=2)}
    one = only(found(row(FIRST), books))
    assert (one.kind, one.amount_nano) == ("usage", 5_000_000)
    assert one.text == "+20 tokens; 2 rows of the books are estimated"


def test_a_cost_without_tokens() -> None:
    text = "date,model,cost_usd\n2026-01-01,big,0.50\n2026-01-02,big,0.31\n"
    books = {(day, "big"): booked() for day in DAYS[:2]}
    result = reconcile(read_invoice(text), books, ("big",), lambda model, usage: None)
    assert [(one.kind, one.amount_nano) for one in result.differences] == [
        ("double_charge", 250_000_000),
        ("amount", 60_000_000),
    ]


def test_an_export_of_tokens_alone_is_priced_by_the_price_book() -> None:
    text = (
        "date,model,input_tokens,output_tokens\n2026-01-01,big,900,100\n2026-01-02,big,1000,100\n2026-01-03,big,10,0\n"
    )
    books = {(day, "big"): booked() for day in DAYS[:2]}

    def reprice(model: str, usage: Usage) -> int:
        return usage.prompt_tokens * 1000

    result = reconcile(read_invoice(text), books, ("big",), reprice)
    assert [(one.kind, one.amount_nano) for one in result.differences] == [("usage", 100_000), ("missing_day", 10_000)]
    assert result.invoice_nano - result.books_nano == 110_000


def test_a_model_without_a_price_is_named_even_where_its_tokens_cost_nothing_known() -> None:
    text = "date,model,input_tokens,output_tokens\n2026-01-01,other,900,100\n"
    one = only(reconcile(read_invoice(text), {}, ("big",), lambda model, usage: None))
    assert (one.kind, one.amount_nano, one.invoice_tokens) == ("unknown_model", 0, 1000)


places = st.tuples(st.sampled_from(DAYS), st.sampled_from(["big", "small", "other"]))
counts = st.integers(0, 5000)
amounts = st.integers(0, 3 * NANO)


@given(
    st.lists(st.tuples(places, counts, counts, amounts), max_size=12),
    st.dictionaries(places, st.tuples(counts, counts, amounts), max_size=12),
    st.booleans(),
)
@pytest.mark.timeout(300)
def test_whatever_differs_adds_up(
    lines: list[tuple[Place, int, int, int]], ours: dict[Place, tuple[int, int, int]], stated: bool
) -> None:
    text = HEADER + "".join(
        f"{day},{model},1,{into},{out},{f'{cost / NANO:.9f}' if stated else ''}\n"
        for (day, model), into, out, cost in lines
    )
    books = {
        place: Booked(requests=1, input_tokens=into, output_tokens=out, cost_nano=cost)
        for place, (into, out, cost) in ours.items()
    }

    def reprice(model: str, usage: Usage) -> int | None:
        return None if model == "other" else usage.prompt_tokens * 7 + usage.completion_tokens * 11

    result = reconcile(read_invoice(text), books, ("big", "small"), reprice)
    assert sum(one.amount_nano for one in result.differences) == result.invoice_nano - result.books_nano
    assert result.books_nano == sum(each.cost_nano for each in books.values())
    if stated:
        assert result.invoice_nano == sum(cost for *_, cost in lines)
