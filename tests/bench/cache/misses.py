"""Cheap misses: what being spared an embedding loses, and what unique prompts cost the whole gateway.

``python -m tests.bench.cache.misses --stream FILE --folder FOLDER`` asks, of every hit that a full lookup finds on a
stream, whether it would have been ruled out before; and, where wrk is installed, drives a real gateway with unique
prompts, the semantic tier off and on in turns.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import msgspec

from gateway.cache.prefilter import Marker, Marks
from gateway.cache.trial import Partition, judge
from tests.bench.cache.vectors import embedded
from tests.bench.proxy.bench import started_upstream
from tests.bench.proxy.load import OURS, SEMANTIC, drive
from tests.bench.proxy.ours import gateway
from tests.support.models import embed_model

BUDGET, CONNECTIONS = 0.05, 8
MOST_LOST, LEAST_RATE = 0.02, 0.5


class Loss(msgspec.Struct, frozen=True):
    """``hits``: semantic ones of a full lookup; ``lost``: of these, ruled out; ``misses`` and ``spared`` likewise."""

    hits: int
    lost: int
    misses: int
    spared: int


class _Request(msgspec.Struct):
    prompt: str
    class_id: int | str


def loss(stream: Path, kept: Path) -> Loss:
    """Every request of ``stream`` looked up in full, in question mode, beside what the marks say of it."""
    with gzip.open(stream, "rb") as lines:
        requests = [msgspec.json.decode(line, type=_Request) for line in lines]
    vectors = embedded([request.prompt for request in requests], kept)
    partition, marker, marks = Partition(judge("question", BUDGET), vectors.shape), Marker.at(embed_model()), Marks()
    hits = lost = misses = spared = 0
    seen: set[str] = set()
    for number, (request, vector) in enumerate(zip(requests, vectors, strict=True)):
        may = marks.may_hit(marker.of(request.prompt))
        served = partition.ask(number, request.prompt, str(request.class_id), vector)
        if served is None:
            misses, spared = misses + 1, spared + (not may)
            marks.add(str(number), marker.of(request.prompt))
            seen.add(request.prompt)
        elif request.prompt not in seen:
            hits, lost = hits + 1, lost + (not may)
    return Loss(hits, lost, misses, spared)


def rates(rounds: int, seconds: int) -> list[tuple[float, float]]:
    """Requests a second of unique prompts, the semantic tier off and on, in each of ``rounds``."""

    def one(name: str) -> float:
        return drive(sides[name], CONNECTIONS, seconds).per_second

    with tempfile.TemporaryDirectory(prefix="farthing-bench-") as place:
        folder = Path(place)
        with started_upstream(folder) as url, gateway(url, folder) as ours:
            sides = {each.name: each for each in ours.contenders()}
            one(OURS), one(SEMANTIC)  # warm-up; the partition has entries from here on
            return [(one(OURS), one(SEMANTIC)) for _ in range(rounds)]


def main() -> int:
    """Parse the command line, run, print. Exits 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cache.misses", description=__doc__)
    parser.add_argument("--stream", type=Path, action="append", default=[], help="*.jsonl.gz: prompt, class_id a line")
    parser.add_argument("--folder", type=Path, required=True, help="keeps embeddings for the next run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    good = True
    for stream in options.stream:
        found = loss(stream, options.folder / f"{stream.name}.npy")
        good &= found.lost <= MOST_LOST * found.hits
        print(
            f"{stream.name}: {found.lost} of {found.hits} semantic hits lost, {found.spared} of {found.misses} misses",
            end=" ",
        )
        print("spared their embedding")
    if shutil.which("wrk") and options.rounds:
        measured = rates(options.rounds, options.seconds)
        share = median(on / off for off, on in measured)
        good &= share >= LEAST_RATE
        print(
            f"unique prompts, semantic tier on: {share:.2f} of the rate with it off",
            [(round(a), round(b)) for a, b in measured],
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
