"""Medians, ratios within a round, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.proxy.checks import Check
from tests.bench.proxy.load import CONNECTIONS, EXACT, OURS, SEMANTIC, Sample

Rounds = Mapping[str, Mapping[int, Sequence[Sample]]]
OURS_ALL = (OURS, SEMANTIC, EXACT)
PEERS = ("direct", "LiteLLM", "Portkey")
KINDS = ("requests/s", "p50")


@dataclass(frozen=True, slots=True)
class Ratio:
    """One contender's figure as a multiple of another's. `kind`: "requests/s" or "p50"."""

    name: str
    than: str
    connections: int
    kind: str

    def __str__(self) -> str:
        return f"{self.name} / {self.than}, {self.kind} at {self.connections}"

    def median(self, rounds: Rounds) -> float | None:
        """Over the ratios within each round; None where one of the two did not take part."""
        if self.name not in rounds or self.than not in rounds:
            return None
        both = zip(rounds[self.name][self.connections], rounds[self.than][self.connections], strict=True)
        if self.kind == "requests/s":
            return median(a.per_second / b.per_second for a, b in both)
        return median(a.p50_ms / b.p50_ms for a, b in both)


# What was promised: of requests/s at least so much, of p50 at most.
GOALS = {
    Ratio(OURS, "LiteLLM", 8, "requests/s"): 20.0,
    Ratio(OURS, "Portkey", 8, "requests/s"): 1.5,
    Ratio(OURS, "LiteLLM", 1, "p50"): 1.0,
    Ratio(OURS, "Portkey", 1, "p50"): 1.0,
    Ratio(EXACT, OURS, 8, "requests/s"): 2.0,
}


def ratios(rounds: Rounds) -> dict[Ratio, float]:
    """Each of ours over each peer, and over each other where something was promised."""
    pairs = product(OURS_ALL, PEERS, CONNECTIONS, KINDS)
    every = dict.fromkeys([*GOALS, *(Ratio(*pair) for pair in pairs)])
    return {ratio: value for ratio in every if (value := ratio.median(rounds)) is not None}


def met(ratio: Ratio, value: float) -> bool | None:
    """Whether what was promised is kept; None where nothing was."""
    if ratio not in GOALS:
        return None
    return value >= GOALS[ratio] if ratio.kind == "requests/s" else value <= GOALS[ratio]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything a run found out. `facts` are figures by name: start, memory, lag."""

    rounds: Rounds
    facts: Mapping[str, float]
    checks: Sequence[Check]
    skipped: Mapping[str, str]


def show(result: Result, console: Console) -> None:
    """Print it."""
    tables = _speeds(result.rounds), _ratios(result.rounds), _goals(result.rounds), _facts(result)
    console.print(*(table for table in tables if table.row_count))
    for check in result.checks:
        console.print(f"[{'green]holds' if check.holds else 'red]FAILS'}[/] {check.what} ({check.seen})")
    for name, why in result.skipped.items():
        console.print(f"[yellow]skipped[/] {name}: {why}", highlight=False)


def as_json(result: Result) -> bytes:
    """The same for machines, with the samples of every round."""
    whole: dict[str, Any] = {
        "medians": {
            name: {str(connections): _medians(samples) for connections, samples in by.items()}
            for name, by in result.rounds.items()
        },
        "ratios": [
            {"what": str(ratio), "median": value, "goal": GOALS.get(ratio), "met": met(ratio, value)}
            for ratio, value in ratios(result.rounds).items()
        ],
        "facts": result.facts,
        "checks": result.checks,
        "skipped": result.skipped,
        "samples": {
            name: {str(connections): samples for connections, samples in by.items()}
            for name, by in result.rounds.items()
        },
    }
    return msgspec.json.format(msgspec.json.encode(whole))


def _medians(samples: Sequence[Sample]) -> dict[str, float]:
    return {
        "requests_per_s": median(sample.per_second for sample in samples),
        "p50_ms": median(sample.p50_ms for sample in samples),
        "p99_ms": median(sample.p99_ms for sample in samples),
        "errors": sum(sample.errors for sample in samples),
    }


def _speeds(rounds: Rounds) -> Table:
    table = Table(title="Plain chat completions, medians over rounds")
    table.add_column("contender")
    for heading in ("connections", "requests/s", "p50 ms", "p99 ms", "errors"):
        table.add_column(heading, justify="right")
    for connections in sorted({count for by in rounds.values() for count in by}):
        for name, by in rounds.items():
            speed = _medians(by[connections])
            figures = f"{speed['requests_per_s']:,.0f}", f"{speed['p50_ms']:.2f}", f"{speed['p99_ms']:.2f}"
            table.add_row(name, str(connections), *figures, str(speed["errors"]))
        table.add_section()
    return table


def _ratios(rounds: Rounds) -> Table:
    table = Table("contender", "over", "connections", *KINDS, title="Medians of the ratios within a round")
    known = ratios(rounds)
    for name, peer, connections in product(OURS_ALL, PEERS, CONNECTIONS):
        if name in rounds and peer in rounds:
            values = [known[Ratio(name, peer, connections, kind)] for kind in KINDS]
            table.add_row(name, peer, str(connections), *(f"{value:.2f}" for value in values))
    return table


def _goals(rounds: Rounds) -> Table:
    table = Table("promised", "", "median", "", title="Promises")
    for ratio, value in ratios(rounds).items():
        if ratio in GOALS:
            sign = "≥" if ratio.kind == "requests/s" else "≤"
            verdict = "[green]met" if met(ratio, value) else "[red]missed"
            table.add_row(str(ratio), f"{sign} {GOALS[ratio]:g}", f"{value:.2f}", verdict)
    return table


def _facts(result: Result) -> Table:
    table = Table("also", "", title="Start and memory")
    for name, value in result.facts.items():
        table.add_row(name, f"{value:,.2f}")
    return table
