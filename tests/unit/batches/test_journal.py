"""Journals: what was acknowledged is there after a crash, once, in the order of the input."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.batches import disk, journal
from gateway.batches.journal import Journal, Result, Took
from gateway.batches.records import Tally


def result(number: int, *, ok: bool = True, said: str = "") -> Result:
    return Result(number, ok, msgspec.Raw(json.dumps({"n": number, "said": said}).encode()), Took(2, 1, 3, 0, 5, 7))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.lists(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=12), min_size=1, max_size=4),
    torn=st.integers(0, 60),
)
def test_each_line_counts_once_however_many_wrote_it_and_wherever_they_died(
    tmp_path: Path, held: list[list[tuple[int, bool]]], torn: int
) -> None:
    parts = [tmp_path / f"{index}.results" for index in range(len(held))]
    first: dict[int, bool] = {}
    for path, entries in zip(parts, held, strict=True):
        data = [msgspec.json.encode(result(number, ok=ok)) + b"\n" for number, ok in entries]
        path.write_bytes(b"".join(data) + msgspec.json.encode(result(99))[:torn])
        for number, ok in entries:
            first.setdefault(number, ok)

    done, tally = journal.resume(parts)

    assert {number for number in range(120) if journal.is_done(done, number)} == set(first)
    assert (tally.completed, tally.failed) == (sum(first.values()), len(first) - sum(first.values()))
    assert (tally.prompt_tokens, tally.cost_nano, tally.saved_nano) == tuple(len(first) * each for each in (2, 5, 7))
    for ok in (True, False):
        told = [json.loads(data)["n"] for data in journal.in_order(parts, ok)]
        assert told == sorted(number for number, was in first.items() if was is ok)


async def test_who_writes_at_once_shares_an_fsync(tmp_path: Path) -> None:
    path = tmp_path / "000001.results"
    opened = Journal(disk.create(path))
    await asyncio.gather(*(opened.write(result(number, said="é\u2028" * number)) for number in range(1, 200)))
    assert path.read_bytes().count(b"\n") == 199  # before it is closed
    await opened.close()
    assert [json.loads(data)["n"] for data in journal.in_order([path], ok=True)] == list(range(1, 200))


def test_what_a_reply_says_it_took() -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
        "cost_usd": 0.000123456,
        "saved_usd": -0.1,
    }
    assert journal.took(json.dumps({"usage": usage}).encode()) == Took(20, 8, 4, 3, 123_456, -100_000_000)
    unpriced = journal.took(json.dumps({"usage": usage | {"cost_usd": None}}).encode())
    tally = Tally()
    journal.count(tally, True, unpriced)
    assert tally.shown()["cost_usd"] is None
    assert journal.took(b"[]") == journal.took(b"nonsense") == Took()
