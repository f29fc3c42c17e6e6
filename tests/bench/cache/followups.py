"""Follow-ups, whose answer depends on the turn before: how often another conversation's answer would be given.

``python -m tests.bench.cache.followups --embedder FOLDER contextual_followups.jsonl.gz``. Main queries are asked alone,
then each follow-up in its own conversation, and in that of ten other main queries; last come both in other words, where
the file has any. What is served across conversations, or a main query's answer to its follow-up, is wrong.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.cache.trial import Decider, Partitions, Threshold, judge, opinions
from local_models.embed.model import load

OTHERS = 10
BUDGETS = (0.01, 0.05)
THRESHOLDS = (0.8, 0.95)


class Asked(NamedTuple):
    """``answer``: equal for requests that one answer serves."""

    history: str
    prompt: str
    answer: str


class Row(NamedTuple):
    """``reworded``: main query and follow-up in other words, where there are any."""

    main: str
    follow_up: str
    reworded: tuple[str, str] | None = None


def read(file: Path) -> Iterator[Row]:
    """The file has rows of two kinds."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if "u0" in row:
                yield Row(row["u0"], row["u1"], (row["u0_duplicate"], row["u1_duplicate"]))
            else:
                yield Row(row["Main Query"], row["Follow-Up Query"])


def requests(rows: Sequence[Row], chance: random.Random) -> Iterator[Asked]:
    mains = list(dict.fromkeys(row.main for row in rows))
    for main in mains:
        yield Asked("", main, main)
    asked = [(row.main, row.follow_up) for row in rows]
    asked += [(chance.choice(mains), row.follow_up) for row in rows for _ in range(OTHERS)]
    for main, follow_up in dict.fromkeys(asked):
        yield Asked(main, follow_up, f"{main} / {follow_up}")
    for row in rows:
        if row.reworded:
            yield Asked("", row.reworded[0], row.main)
            yield Asked(row.main, row.reworded[1], f"{row.main} / {row.follow_up}")


def wrong(
    stream: Sequence[Asked], vectors: NDArray[np.float32], decider: Callable[[], Decider], *, walls: bool
) -> tuple[int, int]:
    """Served, and served wrongly. ``walls``: whether histories are kept apart, as the gateway does."""
    partitions = Partitions(decider, vectors.shape)
    served = bad = 0
    for number, (one, vector) in enumerate(zip(stream, vectors, strict=True)):
        history = one.history.encode() if walls else b""
        hit = partitions.ask(history, number, one.prompt, one.answer, vector)
        served, bad = served + (hit is not None), bad + (hit is not None and stream[hit].answer != one.answer)
    return served, bad


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cache.followups", description=__doc__)
    parser.add_argument("--embedder", type=Path, required=True, help="folder of the embedding model")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    rows = list(read(arguments.file))
    stream = list(requests(rows, random.Random(1)))
    texts = {text: place for place, text in enumerate(dict.fromkeys(one.prompt for one in stream))}
    known = load(arguments.embedder).embed(list(texts)).vectors
    vectors = known[[texts[one.prompt] for one in stream]]
    print(f"{len(rows)} follow-ups, {len(stream)} requests")
    print("| decided by | served | wrongly | of the requests |\n|---|---|---|---|")
    for budget in BUDGETS:
        _print(
            f"budget {budget:.0%}", len(stream), *wrong(stream, vectors, partial(judge, "question", budget), walls=True)
        )
    for least in THRESHOLDS:
        _print(f"cosine {least}", len(stream), *wrong(stream, vectors, partial(Threshold, least), walls=False))
    pairs = [(row.follow_up, row.main) for row in rows]
    similar = [float(known[texts[a]] @ known[texts[b]]) for a, b in pairs]
    accepted = sum(opinion.accept for opinion in opinions(pairs, similar, BUDGETS[0]))
    print(f"\nmain query and follow-up in one partition: {accepted} of {len(pairs)} accepted")


def _print(name: str, asked: int, served: int, bad: int) -> None:
    print(f"| {name} | {served} | {bad} | {bad / asked:.2%} |", flush=True)


if __name__ == "__main__":
    main()
