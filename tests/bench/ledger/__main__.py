"""Fill a ledger with ten million rows (about 20 minutes, 12 GB) and time what the dashboard asks of it.

Exits 1 where a page takes too long or the rollups do not say what the rows say.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gateway.ledger import months
from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from tests.bench.ledger.fill import A_DAY, fill
from tests.bench.ledger.questions import Timed, ask

PAGE_MS = 300
# 2026-06-01T00:00:00Z: a fixed end, so that a folder that is kept can be asked again.
UNTIL_MS = 1_780_272_000_000


async def bench(url: str, days: int, console: Console) -> bool:
    store = SqlStore(url)
    await store.migrate()
    if not await store.recent(1):
        with Progress(console=console) as progress:
            task = progress.add_task("writing", total=1.0)
            cost = await fill(
                store, days, UNTIL_MS, lambda what, done: progress.update(task, description=what, completed=done)
            )
        console.print(f"{days * A_DAY:,} rows; {cost:.0f} µs of CPU for each that was written, rollups included")
    reader = SqlStore.reader(url)
    timed = await ask(reader, UNTIL_MS)
    show(timed, console)
    began = time.perf_counter()
    wrong = await reader.verify()
    console.print(f"verify: {len(wrong)} differences, {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    [first] = await reader.scan(Period(0, UNTIL_MS), batch=1).__anext__()
    for name in await store.forget(months.bounds(months.month_of(first.ts_ms))[1], 0):
        console.print(f"dropping {name}: {time.perf_counter() - began:.1f} s")
    await reader.close()
    await store.close()
    return not wrong and all(each.middle_ms <= PAGE_MS for each in timed)


def show(timed: list[Timed], console: Console) -> None:
    table = Table("question", "first ms", "then ms", "CPU ms")
    for each in timed:
        mark = " [red]too slow[/]" if each.middle_ms > PAGE_MS else ""
        table.add_row(each.question, f"{each.first_ms:.0f}", f"{each.middle_ms:.0f}{mark}", f"{each.cpu_ms:.0f}")
    console.print(table)


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledger", description=__doc__)
    parser.add_argument("--days", type=int, default=90, help=f"of {A_DAY:,} rows each (default: 90, ten million rows)")
    parser.add_argument("--url", help="an empty database, or one filled before (default: SQLite in a folder that goes)")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="farthing-bench-") as folder:
        url = options.url or f"sqlite+aiosqlite:///{Path(folder) / 'ledger.sqlite3'}"
        return 0 if asyncio.run(bench(url, options.days, console)) else 1


if __name__ == "__main__":
    sys.exit(main())
