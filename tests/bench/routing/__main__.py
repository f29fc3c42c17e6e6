"""``python -m tests.bench.routing``: one decision among 50 rules, and a replay of 100,000 logged requests.

With ``cascade`` or ``transfer``: see the modules of that name.

A decision is timed beside the reading of its features, as CPU time. The replay runs the command itself, over SQLite.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import yaml
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.config import DEFAULT_MODELS
from gateway.features import extract
from gateway.ledger.store import SqlStore
from gateway.policy.compile import CompiledPolicy, compile_policy
from gateway.policy.model import read_policy
from gateway.policy.scorer import RuleScorer
from gateway.policy.situation import Situation
from gateway.pricing import PriceBook
from gateway.types import ChatRequest, LedgerEntry, Principal
from gateway.yamlfile import Document
from tests.bench.routing import cascade, transfer

RULES = 50
ROUNDS = 3_000
ROWS = 100_000
PROMPTS = (
    "What is the capital of France?",
    "Prove that there are infinitely many primes congruent to 3 modulo 4, step by step.",
    "Write a Python function that merges k sorted lists. " * 12,
    "Summarise the following minutes of our weekly meeting in three bullet points. " * 60,
)
WHO = Principal(key_id="key-1", team="research", tags=("a",))


def policy_text(rules: int) -> str:
    """Rules that read several features each, of which only the last matches."""
    listed = [
        {
            "name": f"rule-{number}",
            "when": f"'tag-{number}' in tags && difficulty < 0.{number + 10} && (code || maths || words > {number})",
            "use": ["local-small", "gpt-4o-mini"],
            "strategy": ("order", "cheapest", "fastest", "best")[number % 4],
        }
        for number in range(rules - 1)
    ]
    listed.append({"name": "rest", "use": ["gpt-4o-mini", "claude"], "strategy": "cheapest"})
    return yaml.safe_dump({"name": "default", "rules": listed})


def compiled(text: str) -> CompiledPolicy:
    document = Document(text, "bench.yaml")
    return compile_policy(read_policy(document), document, DEFAULT_MODELS, PriceBook.load(DEFAULT_MODELS))


def asked(prompt: str) -> ChatRequest:
    return ChatRequest(id="r", model="auto", messages=[{"role": "user", "content": prompt}], fields={})


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of CPU a call: median and 99th percentile."""
    spent = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        work()
        spent.append((time.thread_time() - began) * 1000)
    return statistics.median(spent), statistics.quantiles(spent, n=100)[98]


def decisions() -> None:
    policy, scorer = compiled(policy_text(RULES)), RuleScorer()
    world = Situation(now_ms=1_800_000_000_000, likely_nano=lambda name: len(name), identities={"request": "r"})
    print(
        f"{'prompt tokens':>14} {'features p50':>13} {'score + decide p50':>19} {'p99':>7}   ms of CPU, {RULES} rules"
    )
    for prompt in PROMPTS:
        request = asked(prompt)
        features = extract(request, WHO, default_max_tokens=1024)

        def decide() -> object:
            score = scorer.score(features)  # noqa: B023 - called in this round of the loop
            return policy.decide(features, score, unavailable=lambda _: None, situation=world)  # noqa: B023

        reading, _ = timed(lambda: extract(request, WHO, default_max_tokens=1024))  # noqa: B023
        median, late = timed(decide)
        print(f"{features.prompt_tokens:>14,} {reading:>13.3f} {median:>19.3f} {late:>7.3f}")


def replayed() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "new.yaml").write_text(policy_text(RULES))
        (folder / "gateway.yaml").write_text(
            yaml.safe_dump({"data_dir": str(folder), "policies": {"dir": str(folder)}})
        )
        asyncio.run(fill(folder / "ledger.sqlite3"))
        command = ["replay", "--config", str(folder / "gateway.yaml"), "--policy", str(folder / "new.yaml"), "--json"]
        began, worked = time.perf_counter(), time.process_time()
        result = CliRunner().invoke(app, command)
        took, cpu = time.perf_counter() - began, time.process_time() - worked
        assert result.exit_code == 0, result.output
        told = msgspec.json.decode(result.stdout)
        print(f"\nreplay of {told['requests']:,} logged requests: {took:.1f} s (at most 60), {cpu:.1f} s of CPU")


async def fill(file: Path) -> None:
    """Rows as the gateway writes them, of an hour's traffic."""
    store = SqlStore(f"sqlite+aiosqlite:///{file}")
    await store.migrate()
    policy, scorer, now = compiled(policy_text(RULES)), RuleScorer(), int(time.time() * 1000)
    logged = []
    for prompt in PROMPTS:
        features = extract(asked(prompt), WHO, default_max_tokens=1024)
        decision = policy.decide(features, scorer.score(features), unavailable=lambda _: None)
        logged.append({"features": features, "local_only": False, "decision": decision, "attempts": []})
    for start in range(0, ROWS, 5_000):
        await store.append([row(number, now, logged[number % len(logged)]) for number in range(start, start + 5_000)])
    await store.close()


def row(number: int, now_ms: int, detail: dict[str, object]) -> LedgerEntry:
    return LedgerEntry(
        request_id=f"req_{number:08}",
        ts_ms=now_ms - 3_600_000 + number * 30,
        key_id=f"key-{number % 40}",
        rule="rest",
        model="gpt-4o-mini",
        served="hosted",
        prompt_tokens=200,
        completion_tokens=120,
        cost_nano=102_000,
        duration_ms=800.0,
        detail=detail,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["cascade"]:
        cascade.main(sys.argv[2:])
    elif sys.argv[1:2] == ["transfer"]:
        transfer.main(sys.argv[2:])
    else:
        decisions()
        replayed()
