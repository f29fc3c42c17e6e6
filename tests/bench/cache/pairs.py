"""Pairs of questions looked at without any history, as ``gateway cache pairs`` does: per kind, what would be served.

``python -m tests.bench.cache.pairs --embedder FOLDER [FILE.jsonl.gz …]``: lines of a, b, label (1: one answer serves
both) and kind. Without a file: ``lookalikes.jsonl``, made by hand in kinds that no training set of ours has.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from gateway.cache.trial import Opinion, opinions
from local_models.embed.model import load

LOOKALIKES = Path(__file__).with_name("lookalikes.jsonl")


class Row(msgspec.Struct, frozen=True):
    a: str
    b: str
    label: int
    kind: str = ""


class Tally(msgspec.Struct):
    """Pairs that one answer serves and those of them that were accepted; pairs that it does not, likewise."""

    same: int = 0
    accepted: int = 0
    different: int = 0
    wrong: int = 0

    def count(self, row: Row, opinion: Opinion) -> None:
        if row.label:
            self.same, self.accepted = self.same + 1, self.accepted + opinion.accept
        else:
            self.different, self.wrong = self.different + 1, self.wrong + opinion.accept


def tallied(rows: Sequence[Row], found: Iterable[Opinion]) -> dict[str, Tally]:
    """By kind, and under "all"."""
    tallies: dict[str, Tally] = {}
    for row, opinion in zip(rows, found, strict=True):
        for kind in (row.kind, "all"):
            tallies.setdefault(kind, Tally()).count(row, opinion)
    return {kind: tallies[kind] for kind in sorted(tallies, key=lambda kind: (kind == "all", kind))}


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cache.pairs", description=__doc__)
    parser.add_argument("--embedder", type=Path, required=True, help="folder of the embedding model")
    parser.add_argument("--max-wrong-rate", type=float, default=0.01)
    parser.add_argument("files", nargs="*", type=Path, default=[LOOKALIKES])
    options = parser.parse_args()
    embedder = load(options.embedder)
    for path in options.files:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as lines:
            rows = [msgspec.json.decode(line, type=Row) for line in lines]
        a, b = (embedder.embed(list(texts)).vectors for texts in ([row.a for row in rows], [row.b for row in rows]))
        found = opinions([(row.a, row.b) for row in rows], (a * b).sum(axis=1).tolist(), options.max_wrong_rate)
        table = Table("kind", "same", "accepted", "different", "accepted", title=path.name)
        for kind, tally in tallied(rows, found).items():
            table.add_row(kind, *map(str, msgspec.structs.astuple(tally)))
        Console().print(table)


if __name__ == "__main__":
    main()
