"""What the cache serves of streams of requests, and how much of it is wrong, beside static thresholds.

``python -m tests.bench.cache.quality --embedder FOLDER STREAM.jsonl.gz:faq STREAM.jsonl.gz:question …``, a minute each.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.cache.decision import Mode
from gateway.cache.trial import Decider, Partition, Threshold, judge
from local_models.embed.model import load

BUDGETS = (0.005, 0.01, 0.02, 0.05)
THRESHOLDS = (0.8, 0.9, 0.95, 0.98)


class Served(msgspec.Struct, frozen=True):
    """Counts of one run. ``semantic`` does not hold the exact tier's hits."""

    requests: int
    semantic: int
    wrong: int

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the wrong share."""
        if not self.semantic:
            return 0.0, 1.0
        n, p, z = self.semantic, self.wrong / self.semantic, 1.96
        middle, over = p + z * z / (2 * n), 1 + z * z / n
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (middle - half) / over), (middle + half) / over


def run(rows: Sequence[dict[str, Any]], vectors: NDArray[np.float32], decider: Decider) -> Served:
    """Ask one request after the other; ``vectors``: shape (requests, dimension)."""
    partition = Partition(decider, (len(rows), vectors.shape[1]))
    semantic = wrong = 0
    for number, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
        hit = partition.ask(number, row["prompt"], str(row["class_id"]), vector)
        if hit is not None and rows[hit]["prompt"].strip().lower() != row["prompt"].strip().lower():
            semantic += 1
            wrong += rows[hit]["class_id"] != row["class_id"]
    return Served(len(rows), semantic, wrong)


def runs(rows: Sequence[dict[str, Any]], vectors: NDArray[np.float32], mode: Mode) -> Iterator[tuple[str, Served]]:
    """Each budget, then each threshold."""
    for budget in BUDGETS:
        yield f"budget {budget:.1%}", run(rows, vectors, judge(mode, budget))
    for least in THRESHOLDS:
        yield f"cosine {least}", run(rows, vectors, Threshold(least))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cache.quality", description=__doc__)
    parser.add_argument("--embedder", type=Path, required=True, help="folder of the embedding model")
    parser.add_argument("streams", nargs="+", metavar="STREAM:MODE")
    arguments = parser.parse_args()
    embedder = load(arguments.embedder)
    print("| stream | mode | decided by | served | wrong | 95 % |\n|---|---|---|---|---|---|")
    for named in arguments.streams:
        path, _, mode = named.rpartition(":")
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        texts = {text: place for place, text in enumerate(dict.fromkeys(row["prompt"] for row in rows))}
        vectors = embedder.embed(list(texts)).vectors[[texts[row["prompt"]] for row in rows]]
        for decided, served in runs(rows, vectors, mode):
            low, high = served.interval()
            share, wrong = served.semantic / served.requests, served.wrong / max(1, served.semantic)
            name = Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
            print(f"| {name} | {mode} | {decided} | {share:.1%} | {wrong:.2%} | {low:.2%} – {high:.2%} |", flush=True)


if __name__ == "__main__":
    main()
