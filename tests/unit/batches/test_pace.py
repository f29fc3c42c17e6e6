"""How many lines run at once."""

from __future__ import annotations

import asyncio

from gateway.batches.pace import MOST, QUIET_LOOKS, Pace


async def run(pace: Pace, lines: int, most: list[int]) -> None:
    async def one() -> None:
        async with pace.slot():
            most.append(pace.running)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(one() for _ in range(lines)))


async def test_no_more_than_are_allowed_and_all_get_their_turn() -> None:
    pace, seen = Pace(lambda: 0), list[int]()
    await run(pace, 100, seen)
    assert (len(seen), max(seen), pace.running) == (100, MOST, 0)


async def test_it_gives_way_to_live_traffic_and_comes_back() -> None:
    live = [1]
    pace = Pace(lambda: live[0])
    for _ in range(10):
        pace.heed(0.05, 0.1)
    assert pace.allowed == 1
    seen = list[int]()
    pace.heed(0.05, 0.1)
    await asyncio.wait_for(run(pace, 5, seen), 30)  # one at a time at the least
    live[0] = 0
    for _ in range(QUIET_LOOKS + MOST):
        pace.heed(0.05, 1.0)  # slow, but nobody waits
    assert pace.allowed == MOST


async def test_a_loop_that_is_mostly_taken_is_left_to_live_traffic_though_it_is_on_time() -> None:
    live = [1]
    pace = Pace(lambda: live[0])
    pace.heed(0.0, 0.9)
    assert pace.allowed == MOST // 2
    live[0] = 0
    pace.heed(0.0, 0.9)  # between two of its requests
    assert pace.allowed == MOST // 4
    pace.heed(0.0, 0.2)
    assert pace.allowed == MOST // 4 + 1


async def test_a_line_that_is_given_up_while_it_waits_gives_its_turn_on() -> None:
    pace = Pace(lambda: 1)
    for _ in range(10):
        pace.heed(1.0, 1.0)

    async def hold(until: asyncio.Event) -> None:
        async with pace.slot():
            await until.wait()

    done = asyncio.Event()
    first = asyncio.create_task(hold(done))
    others = [asyncio.create_task(hold(done)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others[0].cancel()
    done.set()
    await asyncio.wait_for(asyncio.gather(first, *others, return_exceptions=True), 30)
    assert pace.running == 0
    assert [task.cancelled() for task in others] == [True, False, False]
