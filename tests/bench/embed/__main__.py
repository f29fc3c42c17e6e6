"""`python -m tests.bench.embed [--rounds N] [--prompts FILE] [--json]`: about a minute on 2 cores."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.embed.bench import GOALS, Result, run


def main() -> int:
    """Print the ratios; exit status 1 where one misses its goal."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.embed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians over them are shown (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="compute threads of the embedder (default: its own)")
    parser.add_argument("--prompts", type=Path, help="JSON Lines, gzipped or not, with `prompt`: compare their vectors")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    result = run(args.rounds, args.threads, _prompts(args.prompts) if args.prompts else [])
    if args.json:
        print(json.dumps({"ratios": result.ratios, "goals": GOALS, "facts": result.facts}, indent=2))
    else:
        _show(result)
    return int(any(result.ratios[name] < goal for name, goal in GOALS.items()))


def _prompts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in lines]


def _show(result: Result) -> None:
    ratios = Table("", "times as fast", "goal", title="The embedding process beside plain SentenceTransformer.encode")
    for name, value in result.ratios.items():
        ratios.add_row(name, f"{value:.2f}", f"≥ {GOALS[name]:g}" if name in GOALS else "")
    facts = Table("", "", title="Medians over rounds")
    for name, value in result.facts.items():
        facts.add_row(name, f"{value:,.4g}")
    Console().print(ratios, facts)


if __name__ == "__main__":
    sys.exit(main())
