from __future__ import annotations

import pytest

from gateway.dashboard.tables import Column, Table
from gateway.ledger.reports import encode
from gateway.types import NANO

COLUMNS = (
    Column("name", "Model"),
    Column("at_ms", "Time", "time"),
    Column("cost_nano", "Spent", "money"),
    Column("latency_p95_ms", "p95", "duration"),
    Column("tags", "Tags", "tags"),
)
ROWS = (
    {"name": "a", "at_ms": 1_767_268_800_000, "cost_nano": 12 * NANO + 1, "latency_p95_ms": 103.2, "tags": ("x", "y")},
    {"name": "b", "at_ms": None, "cost_nano": None, "latency_p95_ms": None, "tags": ()},
)


def test_shown_is_rounded_and_says_so_exactly_on_hovering() -> None:
    (key, cells), (_, nothing) = Table("t", "T", COLUMNS, ROWS, link=lambda row: f"/{row['name']}").shown()
    assert (key, cells[0].href) == ("a", "/a")
    assert [cell.text for cell in cells] == ["a", "2026-01-01 12:00:00", "$12.00", "103 ms", "x y"]
    assert cells[2].hint == "$12.000000001"
    assert [cell.text for cell in nothing] == ["b", "–", "–", "–", ""]


def test_exports_round_nothing() -> None:
    table = Table("t", "T", COLUMNS, ROWS)
    assert table.csv().decode().splitlines() == [
        "name,at,cost_usd,latency_p95_ms,tags",
        "a,2026-01-01T12:00:00Z,12.000000001,103.2,x y",
        "b,,,,",
    ]
    assert b'"cost_usd":12.000000001' in encode(table.json())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    table = Table("t", "T", (Column("name", "N"), Column("tags", "T", "tags")), [{"name": text, "tags": (text,)}])
    assert table.csv().decode().splitlines()[1] in (f"'{text},'{text}", f'"\'{text}","\'{text}"')


def test_negative_amounts_stay_numbers() -> None:
    table = Table("t", "T", (Column("saved_nano", "Saved", "money"),), [{"saved_nano": -5}])
    assert table.csv().decode().splitlines() == ["saved_usd", "-0.000000005"]
