from __future__ import annotations

from typing import Any

import pytest

from gateway.dashboard.burn import BurnDown, burn_down
from gateway.ledger.answers import Line, Measures, Timeline
from gateway.types import DAY_MS, NANO

START = 1_793_491_200_000
"""2026-11-01T00:00:00Z"""
END = START + 30 * DAY_MS


class Books:
    """A dollar a day."""

    async def timeline(
        self, span: Any, by: Any, where: Any, *, step_ms: int | None = None, brief: bool = False
    ) -> Timeline:
        starts = tuple(range(span.since_ms, span.until_ms, DAY_MS))
        points = tuple(Measures(requests=1, cost_nano=NANO) for _ in starts)
        return Timeline(by=None, step_ms=DAY_MS, starts=starts, lines=(Line("", points),), rest=None)


def budget(limit: int, spent: int, **more: Any) -> dict[str, Any]:
    shown = {"name": "team red", "window": "this month", "limit_nano": limit * NANO, "spent_nano": spent * NANO}
    return shown | {"since_ms": START, "until_ms": END, "where": {"team": ("red",)}} | more


async def drawn(day: int, *budgets: dict[str, Any]) -> BurnDown | None:
    return await burn_down(Books(), budgets, START + day * DAY_MS)  # type: ignore[arg-type]


async def test_a_budget_that_lasts() -> None:
    found = await drawn(10, budget(50, 10))
    assert found is not None
    assert (found.left_nano, found.tone, found.remark) == (40 * NANO, "", "at this rate it lasts")
    assert found.past.startswith("0.0,0.0 33.3,4.0 ")
    assert found.past.endswith(" 333.3,40.0")
    assert found.ahead == "333.3,40.0 1000.0,120.0"


async def test_a_budget_that_runs_out_before_its_window_ends() -> None:
    found = await drawn(10, budget(20, 10))
    assert found is not None
    assert (found.tone, found.remark) == ("bad", "at this rate it runs out on 21 Nov 2026")
    assert found.ahead == "333.3,100.0 666.7,200.0"


async def test_an_exhausted_budget_leads_nowhere() -> None:
    found = await drawn(10, budget(10, 11))
    assert found is not None
    assert (found.tone, found.remark, found.ahead) == ("bad", "exhausted", "")


async def test_the_one_that_is_used_up_fastest_is_drawn() -> None:
    found = await drawn(15, budget(100, 20), budget(10, 9, name="team blue"), budget(40, 4))
    assert found is not None
    assert found.title == "team blue, this month"


@pytest.mark.parametrize("more", [{"since_ms": None}, {"until_ms": START + DAY_MS}, {"limit_nano": 0}])
async def test_what_has_no_window_is_not_drawn(more: dict[str, Any]) -> None:
    assert await drawn(10, budget(50, 10, **more)) is None


async def test_nothing_spent_yet_lasts() -> None:
    found = await drawn(0, budget(50, 0))
    assert found is not None
    assert found.remark == "at this rate it lasts"
