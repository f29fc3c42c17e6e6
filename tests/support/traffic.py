"""A month and a half of plausible traffic, the same every time, for tests of what is shown of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from gateway.types import DAY_MS, HOUR_MS, LedgerEntry

TEAMS = {"search": ("key_search", "key_staging"), "support": ("key_help",), "research": ("key_lab", "key_eval")}
NAMES = {
    "key_search": "search-prod",
    "key_staging": "search-staging",
    "key_help": "helpdesk-bot",
    "key_lab": "notebooks",
    "key_eval": "eval-runner",
}
_TAGS = ("chat", "batch", "beta", "eu")
_BASELINE_IN, _BASELINE_OUT = 2_500, 10_000  # nano-dollars a token


def traffic(now_ms: int, *, days: int = 45, a_day: int = 60) -> list[LedgerEntry]:
    """Rows from ``days`` ago until now, oldest first; fewer at weekends and at night."""
    chance = random.Random(7)
    rows: list[LedgerEntry] = []
    for day in range(days, -1, -1):
        start = now_ms - now_ms % DAY_MS - day * DAY_MS
        many = int(a_day * (1.4 - day / days) * (0.4 if day % 7 < 2 else 1.0))
        rows += [row for row in _day(chance, start, many, len(rows)) if row.ts_ms < now_ms - 1000]
    return sorted(rows, key=lambda row: row.ts_ms)


def _day(chance: random.Random, start_ms: int, many: int, number: int) -> Iterator[LedgerEntry]:
    for n in range(many):
        hour = min(23, max(0, int(chance.gauss(13, 4))))
        ts_ms = start_ms + hour * HOUR_MS + chance.randrange(HOUR_MS)
        yield _request(chance, f"req_{number + n:05d}{chance.randrange(16**8):08x}", ts_ms)


def _request(chance: random.Random, request_id: str, ts_ms: int) -> LedgerEntry:
    team = chance.choices(list(TEAMS), (5, 3, 4))[0]
    prompt, answer = int(chance.lognormvariate(7.4, 0.9)), int(chance.lognormvariate(5.8, 0.7))
    dear = prompt * _BASELINE_IN + answer * _BASELINE_OUT
    kind = chance.choices(("cache", "local", "mini", "big", "none"), (24, 38, 24, 12, 2))[0]
    fields = _KINDS[kind](chance, answer, dear)
    ok = kind != "none"
    embedding = 1200 if kind in ("local", "mini", "big") else 0
    cost = fields.pop("cost") + embedding
    baseline = dear if ok else 0
    ttft = fields["ttft_ms"]
    return LedgerEntry(
        request_id=request_id,
        ts_ms=ts_ms,
        team=team,
        key_id=chance.choice(TEAMS[team]),
        policy="default@7dd7534b37c0",
        requested_model="auto",
        tags=tuple(chance.sample(_TAGS, chance.randrange(3))),
        end_user=f"user-{chance.randrange(20)}",
        stream=True,
        status="ok" if ok else "error",
        http_status=200 if ok else 502,
        error="" if ok else "upstream_timeout: no answer within 30 s",
        prompt_tokens=prompt,
        completion_tokens=answer if ok else 0,
        usage_source="estimated" if ok and chance.random() < 0.01 else "reported",
        cost_nano=cost,
        embedding_nano=embedding,
        baseline_nano=baseline,
        saved_nano=baseline - cost if ok else -cost,
        duration_ms=(ttft or 30_000.0) + (0.4 if kind == "cache" else answer * 9.0),
        tokens_per_s=110.0 if ok and kind != "cache" else None,
        overhead_ms=0.6,
        difficulty=chance.random(),
        **fields,
    )


def _cached(chance: random.Random, _answer: int, _dear: int) -> dict[str, Any]:
    tier = chance.choice(("exact", "exact", "semantic"))
    model = chance.choice(("gpt-4o-mini", "local-small"))
    similarity = 0.97 if tier == "semantic" else None
    shown = {"served": "cache", "cache": tier, "rule": "cache", "model": model, "similarity": similarity}
    return shown | {"cost": 0, "ttft_ms": chance.lognormvariate(-0.5, 0.5)}


def _local(chance: random.Random, answer: int, _dear: int) -> dict[str, Any]:
    shown = {"served": "local", "rule": "easy", "model": "local-small", "provider": "local"}
    return shown | {"cost": answer * 888, "ttft_ms": chance.lognormvariate(4.4, 0.5)}


def _mini(chance: random.Random, _answer: int, dear: int) -> dict[str, Any]:
    shown = {"served": "hosted", "rule": "hard", "model": "gpt-4o-mini", "provider": "openai"}
    return shown | {"cost": dear // 4, "ttft_ms": chance.lognormvariate(5.9, 0.4)}


def _big(chance: random.Random, _answer: int, dear: int) -> dict[str, Any]:
    shown = {"served": "hosted", "rule": "tools", "model": "claude", "provider": "litellm"}
    return shown | {"cost": dear * 3 // 2, "ttft_ms": chance.lognormvariate(6.2, 0.4)}


def _nobody(_chance: random.Random, _answer: int, _dear: int) -> dict[str, Any]:
    return {"served": "none", "cost": 0, "ttft_ms": None}


_KINDS = {"cache": _cached, "local": _local, "mini": _mini, "big": _big, "none": _nobody}
