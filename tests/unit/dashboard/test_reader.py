from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from gateway.dashboard import reader
from gateway.dashboard.reader import Question, Reader
from gateway.ledger.errors import LedgerAway

# Answers with its process id and how often it was asked; what to do first stands in the question's query.
MAKER = """
import os, struct, sys, time, msgspec
from gateway.dashboard.reader import Answer, Question
asked = 0
while head := sys.stdin.buffer.read(4):
    question = msgspec.msgpack.decode(sys.stdin.buffer.read(struct.unpack('>I', head)[0]), type=Question)
    asked += 1
    match question.query.get('do'):
        case 'die': os._exit(1)
        case 'hang': time.sleep(60)
        case 'half': sys.stdout.buffer.write(struct.pack('>I', 1000) + b'x'); sys.stdout.buffer.flush(); os._exit(1)
    body = f"{os.getpid()} {asked} {question.facts}".encode() + b'.' * int(question.query.get('size', 0))
    frame = msgspec.msgpack.encode(Answer(status=200, content_type='text/plain', body=body))
    sys.stdout.buffer.write(struct.pack('>I', len(frame)) + frame)
    sys.stdout.buffer.flush()
"""


def question(**query: str) -> Question:
    return Question(page="", form="html", ledger="", role="guest", query=query)


async def no_facts() -> dict[str, Any]:
    return {}


@pytest.fixture
async def asked() -> Any:
    made = Reader((sys.executable, "-c", MAKER))
    yield made
    await made.close()


async def said(made: Reader, **query: str) -> list[str]:
    return (await made.ask(question(**query), no_facts)).body.decode().split(" ", 2)


async def test_one_process_answers_one_after_the_other(asked: Reader) -> None:
    answers = await asyncio.gather(*(said(asked, n=str(n)) for n in range(10)))
    assert len({pid for pid, *_ in answers}) == 1
    assert sorted(int(number) for _, number, _ in answers) == list(range(1, 11))


async def test_the_same_page_is_made_once_for_all_who_look_at_it(
    asked: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = 0

    async def facts() -> dict[str, Any]:
        nonlocal gathered
        gathered += 1
        return {"n": gathered}

    monkeypatch.setattr(reader, "FRESH_S", 60.0)
    answers = await asyncio.gather(*(asked.ask(question(), facts) for _ in range(20)))
    assert {answer.body for answer in answers} == {answers[0].body}
    assert gathered == 1
    monkeypatch.setattr(reader, "FRESH_S", 0.0)
    assert b"'n': 2" in (await asked.ask(question(), facts)).body


async def test_large_pages_arrive_whole(asked: Reader) -> None:
    assert (await said(asked, size="5000000"))[2] == "{}" + "." * 5_000_000


async def test_a_process_that_has_ended_is_started_again(asked: Reader) -> None:
    first, *_ = await said(asked, n="1")
    for way in ("die", "half"):
        with pytest.raises(LedgerAway, match="does not answer"):
            await said(asked, do=way)
        again, number, _ = await said(asked, n=way)
        assert (again != first, number) == (True, "1")


async def test_a_page_that_takes_too_long_is_given_up_with_its_process(
    asked: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = await said(asked, n="1")
    monkeypatch.setattr(reader, "PATIENCE_S", 0.3)
    with pytest.raises(LedgerAway, match="TimeoutError"):
        await said(asked, do="hang")
    monkeypatch.undo()
    assert (await said(asked, n="2"))[0] != first


async def test_who_leaves_half_way_does_not_get_the_next_ones_page(asked: Reader) -> None:
    await said(asked, n="1")
    leaving = asyncio.create_task(said(asked, do="hang"))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await said(asked, n="2"))[2] == "{}"


async def test_the_queue_is_bounded(asked: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WAITING_MAX", 3)
    results = await asyncio.gather(*(said(asked, n=str(n)) for n in range(8)), return_exceptions=True)
    assert sum(isinstance(result, LedgerAway) for result in results) == 5
    assert (await said(asked, n="9"))[2] == "{}"


async def test_what_is_kept_is_bounded(asked: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FRESH_S", 60.0)
    for n in range(reader._KEPT_MAX + 20):
        await said(asked, n=str(n))
    assert len(asked._kept) == reader._KEPT_MAX


async def test_a_process_that_cannot_be_started_is_said() -> None:
    with pytest.raises(LedgerAway):
        await Reader(("/nowhere/python",)).ask(question(), no_facts)
