"""Measure the semantic cache's lookups, their growth, memory and restart. Exits 1 where a goal is missed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.cache.chart import svg
from tests.bench.cache.speed import Point, Restart, Speed
from tests.bench.cache.vectors import HELD_OUT, embedded, more, texts

SIZES = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
WARM, LARGEST = 100_000, 1_000_000


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cache", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of *.jsonl.gz with prompt, or a and b, a line")
    parser.add_argument("--entries", type=int, default=LARGEST, help="the largest size")
    parser.add_argument("--folder", type=Path, help="keep the embeddings there for the next run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the growth")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farthing-bench-") as folder:
        kept = options.folder or Path(folder)
        questions = texts(options.data)
        vectors = embedded(questions, kept / "embeddings.npy")
        sizes = [size for size in SIZES if size <= options.entries] or [options.entries]
        entries = more(vectors[HELD_OUT:], sizes[-1])
        speed = Speed(Path(folder), questions[:HELD_OUT], vectors[:HELD_OUT], entries)
        points, restart = asyncio.run(speed.run(sizes))
    if options.json:
        options.json.write_bytes(msgspec.json.encode({"points": points, "restart": restart}))
    if options.chart:
        options.chart.write_text(svg(points))
    _show(points, restart, console := Console())
    missed = goals_missed(points, restart)
    for goal in missed:
        console.print(f"missed: {goal}")
    return 1 if missed else 0


def _show(points: list[Point], restart: Restart, console: Console) -> None:
    times = ("embed ms", "lookup ms", "ratio", "search ms", "p99", "lookup CPU", "search CPU")
    table = Table("entries", *times, "recall@5", "bytes an entry")
    for one in points:
        figures = (one.embed_ms, one.recall_ms, one.ratio, one.search_ms, one.p99_ms, one.own_cpu_ms, one.search_cpu_ms)
        last = (f"{one.recall_at_5:.3f}", f"{one.bytes_an_entry:.0f}")
        table.add_row(f"{one.entries:,}", *(f"{figure:.2f}" for figure in figures), *last)
    console.print(table)
    console.print(
        f"restart with {restart.entries:,} entries: {restart.reading_s:.1f} s to read the snapshot "
        f"({restart.snapshot_mb:.0f} MB), {restart.comparing_s:.1f} s to compare it with Redis "
        f"({restart.redis_bytes_an_entry:.0f} bytes an entry there), {restart.cpu_s:.1f} s of this process's CPU; "
        f"written in {restart.writing_s:.1f} s"
    )


def goals_missed(points: list[Point], restart: Restart) -> list[str]:
    """What the figures fall short of."""
    missed = [f"recall@5 at {one.entries:,}: {one.recall_at_5:.3f} < 0.98" for one in points if one.recall_at_5 < 0.98]
    at = {one.entries: one for one in points}
    if (warm := at.get(WARM)) is not None:
        if warm.ratio > 1.5:
            missed.append(f"lookup at {WARM:,}: {warm.ratio:.2f} times the embedding call > 1.5")
        if warm.recall_ms - warm.embed_ms > 2:
            missed.append(f"lookup at {WARM:,} without the embedding: {warm.recall_ms - warm.embed_ms:.2f} ms > 2")
        if (largest := at.get(LARGEST)) is not None and largest.recall_ms > 2 * warm.recall_ms:
            missed.append(f"lookup at {LARGEST:,}: more than twice that at {WARM:,}")
    if restart.reading_s + restart.comparing_s > 30:
        missed.append(f"restart: {restart.reading_s + restart.comparing_s:.0f} s > 30")
    return missed


if __name__ == "__main__":
    sys.exit(main())
