"""``python -m tests.bench.routing cascade``: quality and cost of sharing easy prompts with a large model, four ways."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.bench.routing import record
from tests.bench.routing.chart import svg
from tests.bench.routing.curve import WAYS, Point, Way, at_cost, curve, point
from tests.bench.routing.live import Served, live
from tests.bench.routing.record import Recorded, Row
from tests.support.easy_prompts import easy_prompts

LIVE_AT = {"rules": 0.35, "scorer": 0.55, "cascade": 0.6, "scorer + cascade": 0.4}
"""The bound at which each way also goes through the gateway, and of how many prompts one does."""
LIVE_EVERY = 4


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.routing cascade", description=__doc__)
    parser.add_argument("--record", action="store_true", help="ask the small model again, and keep what it said")
    parser.add_argument(
        "--live", action="store_true", help="put a quarter of the prompts through a gateway, once for each way"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the curves")
    options = parser.parse_args(arguments)
    if options.record:
        record.write(record.taken())
    recorded = record.read()
    curves = {way.name: curve(way, recorded.rows) for way in WAYS}
    show(curves, len(recorded.rows))
    if options.chart:
        options.chart.write_text(svg(curves, f"{len(recorded.rows)} easy prompts between a small and a large model"))
    if options.live:
        asyncio.run(checked(recorded))


def show(curves: dict[str, list[Point]], prompts: int) -> None:
    dearest = curves["rules"][0]
    print(f"{prompts} prompts; all to the large model: {dearest.quality:.1%}, {1000 * dearest.usd:.2f} USD a million\n")
    print(f"{'at this cost':>14} " + " ".join(f"{name:>18}" for name in curves))
    for tenth in range(3, 13):
        usd = dearest.usd * tenth / 10
        print(f"{tenth / 10:>13.0%}  " + " ".join(f"{at_cost(points, usd):>17.1%} " for points in curves.values()))
    print("\nWhere the small model's answers are 90 % right at least, the most it answers:")
    for name, points in curves.items():
        good = [one for one in points if one.local and one.local_right >= 0.9 * one.local]
        best = max(good, key=lambda one: one.local, default=None)
        told = f"{best.local_right} of {best.local} at {best.bound}, {best.tried} tried" if best else "none"
        print(f"{name:>18}: {told}")


async def checked(recorded: Recorded) -> None:
    """Print what a gateway did beside what was worked out for it."""
    rows, questions = recorded.rows[::LIVE_EVERY], easy_prompts()[::LIVE_EVERY]
    ways = [(way, LIVE_AT[way.name]) for way in WAYS]
    async with live(ways) as gateway:
        for way, bound in ways:
            told(way, bound, rows, await gateway.ask(way, rows, questions))


def told(way: Way, bound: float, rows: Sequence[Row], found: Sequence[Served]) -> None:
    expected = point(way, rows, bound)
    local, right = sum(one.local for one in found), sum(one.right for one in found)
    same = sum(
        one.local == (way.tried(row, bound) and way.kept(row, bound)) for row, one in zip(rows, found, strict=True)
    )
    busy = sum(one.busy_s for one in found)
    print(
        f"{way.name:>18} at {bound}: local {local} (worked out {expected.local}), {same} of {len(rows)} as worked out, "
        f"right {right / len(found):.1%} ({expected.quality:.1%}), {busy:.1f} s of the small model in the answers given"
    )
