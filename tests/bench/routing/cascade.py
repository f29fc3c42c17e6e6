"""``python -m tests.bench.routing cascade``: quality and cost of sharing easy prompts with a large model, four ways."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.bench.routing import record
from tests.bench.routing.chart import svg
from tests.bench.routing.curve import ALL, CHEAP, DEAR, WAYS, Point, Price, Way, all_large, at_cost, curve, point
from tests.bench.routing.fitting import fitted, probed
from tests.bench.routing.live import Served, live
from tests.bench.routing.record import Recorded, Row, Setting
from tests.support.easy_prompts import easy_prompts

PRICES = (DEAR, CHEAP)
LIVE_AT = {
    "rules": Setting(0.35, 0.0),
    "scorer": Setting(0.55, 0.0),
    "cascade": Setting(ALL, 0.6),
    "scorer + cascade": Setting(0.58, 0.65),
}
"""The bounds at which each way also goes through the gateway, and of how many prompts one does."""
LIVE_EVERY = 4


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.routing cascade", description=__doc__)
    parser.add_argument("--record", action="store_true", help="ask the small model again, and keep what it said")
    parser.add_argument("--fit", action="store_true", help="find on the probe again which bounds go together")
    parser.add_argument(
        "--live", action="store_true", help="put a quarter of the prompts through a gateway, once for each way"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help=f"draw the curves beside {DEAR.name}'s price")
    options = parser.parse_args(arguments)
    if options.record or options.fit:
        rows, probe = record.taken() if options.record else record.read().rows, probed()
        record.write(Recorded(rows=rows, settings={price.name: fitted(probe, price) for price in PRICES}))
    recorded = record.read()
    for price in PRICES:
        show(curves(recorded, price), all_large(recorded.rows, price), price, len(recorded.rows))
    if options.chart:
        title = f"{len(recorded.rows)} easy prompts between a small model and one at the price of {DEAR.name}"
        options.chart.write_text(svg(curves(recorded, DEAR), title))
    if options.live:
        asyncio.run(checked(recorded))


def curves(recorded: Recorded, price: Price) -> dict[str, list[Point]]:
    """By the name of the way."""
    return {way.name: curve(way, recorded.rows, price, recorded.settings[price.name]) for way in WAYS}


def show(found: dict[str, list[Point]], dearest: Point, price: Price, prompts: int) -> None:
    print(f"\n{prompts} prompts; all to the large model at the price of {price.name}: ", end="")
    print(f"{dearest.quality:.1%}, {1000 * dearest.usd:.2f} USD a million\n")
    print(f"{'at this cost':>14} " + " ".join(f"{name:>18}" for name in found))
    for percent in (30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 100, 110, 120):
        usd = dearest.usd * percent / 100
        print(f"{percent:>13}%  " + " ".join(f"{at_cost(points, usd):>17.1%} " for points in found.values()))
    print("\nWhere the small model's answers are 90 % right at least, the most it answers:")
    for name, points in found.items():
        good = [one for one in points if one.local and one.local_right >= 0.9 * one.local]
        best = max(good, key=lambda one: one.local, default=None)
        told = f"{best.local_right} of {best.local} at {tuple(best.setting)}, {best.tried} tried" if best else "none"
        print(f"{name:>18}: {told}")


async def checked(recorded: Recorded) -> None:
    """Print what a gateway did beside what was worked out for it."""
    rows, questions = recorded.rows[::LIVE_EVERY], easy_prompts()[::LIVE_EVERY]
    ways = [(way, LIVE_AT[way.name]) for way in WAYS]
    async with live(ways) as gateway:
        for way, setting in ways:
            told(way, setting, rows, await gateway.ask(way, rows, questions))


def told(way: Way, setting: Setting, rows: Sequence[Row], found: Sequence[Served]) -> None:
    expected = point(way, rows, setting, DEAR)
    local, right = sum(one.local for one in found), sum(one.right for one in found)
    same = sum(
        one.local == (way.tried(row, setting) and way.kept(row, setting)) for row, one in zip(rows, found, strict=True)
    )
    busy = sum(one.busy_s for one in found)
    print(
        f"{way.name:>18} at {tuple(setting)}: local {local} (worked out {expected.local}), {same} of {len(rows)} as "
        f"worked out, right {right / len(found):.1%} ({expected.quality:.1%}), {busy:.1f} s of the small model in the "
        "answers given"
    )
