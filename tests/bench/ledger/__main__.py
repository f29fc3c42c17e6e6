"""Ten million rows (6 minutes, 10 GB, once a folder), and what is asked of them.

`questions`: the store's answers, verified. `pages`: the dashboard of a real gateway over HTTP.
`live`: what requests wait for while somebody looks. Exits 1 where a page takes more than 300 ms, a rollup does not say
what the rows say, or requests wait longer.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gateway.ledger import recount
from gateway.ledger.store import SqlStore
from tests.bench.ledger import live, pages
from tests.bench.ledger.fill import A_DAY, fill
from tests.bench.ledger.house import house
from tests.bench.ledger.questions import Timed, ask

PAGE_MS = 300
# Rounds in turn on one machine differ by this much with nobody looking.
UNCHANGED = 1.15


def filled(url: str, days: int, console: Console) -> None:
    """Fill the books unless they are."""
    with Progress(console=console) as progress:
        task = progress.add_task("writing", total=1.0)
        now_ms = int(time.time() * 1000)
        made = asyncio.run(
            fill(url, days, now_ms, lambda what, done: progress.update(task, description=what, completed=done))
        )
    console.print(f"{made.rows:,} rows; {made.written_us:.0f} µs of CPU for each that was written, rollups included")


async def questions(url: str, console: Console) -> bool:
    store = SqlStore.reader(url)
    [newest] = await store.recent(1)
    timed = await ask(store, newest.ts_ms + 1)
    show(timed, console)
    began = time.perf_counter()
    await store.close()
    with Progress(console=console) as progress:
        task = progress.add_task("verifying days")
        wrong = await recount.verify(url, lambda done, total: progress.update(task, completed=done, total=total))
    console.print(f"verify: {len(wrong)} differences, {time.perf_counter() - began:.0f} s")
    return not wrong and quick(timed)


def time_pages(folder: Path, url: str, tries: int, console: Console) -> bool:
    timed = []
    with house(folder) as served:
        for each in pages.time_pages(served, asyncio.run(_oldest(url)), tries):
            timed.append(each)
            if console.is_terminal or not quick([each]):
                console.print(f"{each.question}: {each.middle_ms:.0f} ms")
    show(timed, console)
    return quick(timed)


def time_live(folder: Path, rounds: int, seconds: int, console: Console) -> bool:
    with house(folder) as served:
        found = live.measure(served, rounds, seconds)
    table = Table("looking", "requests/s", "p50 ms", "p99 ms", "p99 by round", "errors", "pages shown")
    middle = {}
    for visitor, samples in found.rounds.items():
        p99 = [sample.p99_ms for sample in samples]
        middle[visitor] = statistics.median(p99)
        table.add_row(
            visitor,
            f"{statistics.mean(sample.per_second for sample in samples):.0f}",
            f"{statistics.median(sample.p50_ms for sample in samples):.2f}",
            f"{middle[visitor]:.2f}",
            " ".join(f"{each:.1f}" for each in p99),
            str(sum(sample.errors for sample in samples)),
            str(found.pages[visitor]),
        )
    console.print(table)
    console.print(f"as fast as it goes: {found.full_per_second:.0f} requests/s")
    console.print(f"p99 with open pages: {middle['open pages'] / middle['nobody']:.2f} times that without")
    return middle["open pages"] <= UNCHANGED * middle["nobody"]


async def _oldest(url: str) -> str:
    from gateway.ledger.answers import Period

    store = SqlStore.reader(url)
    [row] = await anext(store.scan(Period(0, 1 << 53), batch=1))
    await store.close()
    return row.request_id


def quick(timed: list[Timed]) -> bool:
    return all(each.middle_ms <= PAGE_MS for each in timed)


def show(timed: list[Timed], console: Console) -> None:
    table = Table("question", "first ms", "then ms", "worst ms", "CPU ms")
    for each in timed:
        mark = " [red]too slow[/]" if each.middle_ms > PAGE_MS else ""
        times = (f"{each.first_ms:.0f}", f"{each.middle_ms:.0f}{mark}", f"{each.worst_ms:.0f}", f"{each.cpu_ms:.0f}")
        table.add_row(each.question, *times)
    console.print(table)


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledger", description=__doc__)
    parser.add_argument("what", nargs="*", choices=("questions", "pages", "live"), default="questions")
    parser.add_argument("--days", type=int, default=90, help=f"of {A_DAY:,} rows each (default: 90, ten million rows)")
    parser.add_argument("--folder", type=Path, help="kept, and filled only where it is empty (default: one that goes)")
    parser.add_argument("--tries", type=int, default=20, help="of each of `pages`, after the first")
    parser.add_argument("--rounds", type=int, default=6, help="of `live`")
    parser.add_argument("--seconds", type=int, default=10, help="of a round of `live`")
    parser.add_argument("--url", help="an empty PostgreSQL, or one filled before; `questions` only")
    options = parser.parse_args()
    console, what = Console(), {options.what} if isinstance(options.what, str) else set(options.what)
    with tempfile.TemporaryDirectory(prefix="fb-") as temporary:
        folder = options.folder or Path(temporary)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        file = folder / "data" / "ledger.sqlite3"
        url = options.url or f"sqlite+aiosqlite:///{file}"
        if not file.exists() and (not options.url or asyncio.run(_empty(url))):
            filled(url, options.days, console)
        fine = True
        if "questions" in what:
            fine &= asyncio.run(questions(url, console))
        if "pages" in what:
            fine &= time_pages(folder, url, options.tries, console)
        if "live" in what:
            fine &= time_live(folder, options.rounds, options.seconds, console)
        return 0 if fine else 1


async def _empty(url: str) -> bool:
    store = SqlStore(url)
    await store.migrate()
    found = await store.recent(1)
    await store.close()
    return not found


if __name__ == "__main__":
    sys.exit(main())
