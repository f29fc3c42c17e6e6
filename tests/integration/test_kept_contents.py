"""Prompts and answers in the ledger: none unless the policy says so, then redacted, once, for a time; and out again."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.erase import Eraser
from gateway.ledger.store import SqlStore
from gateway.ledger.stream import Drain
from gateway.types import Content, LedgerEntry
from tests.support.gateway import EVERYTHING_BIG, Gateway, gateway, hosted, local, said
from tests.support.gateway import events as events_of
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER, SECRET, ADDRESS = "planted-user-4711", "sk-plantedplantedplanted0815", "planted.alice@example.com"
ASKED = f"My key {SECRET} is refused; tell {ADDRESS} what to do in Lisbon"
MARKED = "My key [SECRET] is refused; tell [EMAIL] what to do in Lisbon"
NO_CACHE = {"exact": False, "semantic": False}
BIG: dict[str, Any] = {"rules": [{"name": "all", "use": ["big"]}], "cache": NO_CACHE}
POLICIES: tuple[dict[str, Any], ...] = (
    EVERYTHING_BIG | {"cache": NO_CACHE},
    BIG | {"name": "kept", "contents": {"keep": "redacted", "retention": "7d"}},
    {"name": "told", "extends": "kept", "contents": {"export": True}},
    {"name": "cached", "extends": "told", "cache": {"exact": True}},
    {"name": "stays", "extends": "kept", "rules": [{"name": "here", "use": ["near"], "local_only": True}]},
    {"name": "shadowed", "extends": "told", "rules": [
        {"name": "all", "use": ["big"], "shadow": {"use": ["near"], "usd_per_day": 1}}
    ]},
)  # fmt: skip
CALL = {"id": "call_1", "type": "function", "function": {"name": "send", "arguments": f'{{"to": "{ADDRESS}"}}'}}
SENT = {"id": "call_1", "type": "function", "function": {"name": "send", "arguments": '{"to": "[EMAIL]"}'}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, near_server: Upstream
) -> AsyncIterator[Gateway]:
    models = [hosted("big", upstream_server.base_url), local("near", near_server.base_url)]
    async with gateway(tmp_path_factory.mktemp("gate"), models, POLICIES) as running:
        (running.folder / "data").mkdir(exist_ok=True)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def store(gate: Gateway) -> AsyncIterator[SqlStore]:
    file = gate.folder / "data" / "ledger.sqlite3"
    made = SqlStore(f"sqlite+aiosqlite:///{file}")
    await made.migrate()
    yield made
    await made.close()
    for path in file.parent.glob("ledger.sqlite3*"):
        path.unlink()


async def moved(gate: Gateway, store: SqlStore, count: int) -> list[tuple[LedgerEntry, Content | None]]:
    """All rows once they are in SQL, oldest first, each with what is kept of it."""
    await gate.rows(count)
    await Drain(gate.runtime.redis, store).catch_up()
    rows = sorted(await store.recent(), key=lambda row: row.ts_ms)
    assert len(rows) == count
    return [(row, await store.content(row.request_id)) for row in rows]


def conversation(content: Content | None) -> list[Any]:
    assert content is not None
    assert content.form == "redacted"
    return [*json.loads(content.prompt), json.loads(content.answer)]


def on_disk(folder: Path) -> bytes:
    found = b""
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # Redis and SQLite make and remove some meanwhile
            found += path.read_bytes() if path.is_file() else b""
    return found


async def exported(gate: Gateway, form: str) -> str:
    config = gate.folder / "gateway.yaml"
    out = gate.folder / f"out.{form}"
    words = ["export", "--config", str(config), "--format", form, "--out", str(out)]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == 0, result.output
    text = out.read_text()
    out.unlink()
    return text


async def test_nothing_is_kept_unless_the_policy_says_so(gate: Gateway, store: SqlStore) -> None:
    asked = ASKED.replace("Lisbon", "Nowhere")
    assert (await gate.chat(asked, user=USER)).status_code == 200
    async with gate.open(asked) as reply:
        await reply.aread()
    for row, content in await moved(gate, store, 2):
        assert (row.status, row.consented, content) == ("ok", False, None)
    assert b"Nowhere" not in on_disk(gate.folder)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_and_its_answer_are_kept_redacted(
    gate: Gateway, upstream: Upstream, store: SqlStore, stream: bool
) -> None:
    upstream.enqueue(Plan(text=f"Write to {ADDRESS} in Porto", tool_calls=(CALL,)))
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SECRET}"}}
    messages = [
        {"role": "system", "content": "Be brief.", "name": USER},
        {"role": "user", "content": [{"type": "text", "text": ASKED}, picture]},
    ]
    reply = await gate.chat(model="auto:kept", messages=messages, user=USER, stream=stream)
    assert ADDRESS in (said(events_of(reply.text)) if stream else reply.text)

    [(row, content)] = await moved(gate, store, 1)
    assert conversation(content) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": MARKED}, {"type": "text", "text": "[IMAGE]"}]},
        {"role": "assistant", "content": "Write to [EMAIL] in Porto", "tool_calls": [SENT]},
    ]
    assert content is not None
    assert content.expires_ms == row.ts_ms + 7 * 86_400_000
    assert (row.consented, content.end_user) == (False, USER)
    disk = on_disk(gate.folder)
    assert b"Lisbon" in disk
    assert not any(planted.encode() in disk for planted in (SECRET, ADDRESS))


async def test_of_a_stream_that_was_left_what_was_seen_is_kept(
    gate: Gateway, upstream: Upstream, store: SqlStore
) -> None:
    upstream.default = Plan(text="one two three four five six", chunks=2, chunk_delay_s=60)
    async with gate.open("count", model="auto:told") as reply:
        async for line in reply.aiter_lines():
            if "two" in line:
                break
    [(row, content)] = await moved(gate, store, 1)
    assert row.status == "cancelled"
    answer = conversation(content)[-1]["content"]
    assert answer.startswith("one two")
    assert "six" not in answer
    assert await exported(gate, "sft") == ""


async def test_a_stored_answer_is_kept_for_each_that_was_given_it(gate: Gateway, store: SqlStore) -> None:
    for stream in (False, False, True):
        await gate.chat("What is a tram?", model="auto:cached", stream=stream)
        await gate.runtime.books.drain()
    rows = await moved(gate, store, 3)
    assert [row.cache for row, _ in rows] == ["miss", "exact", "exact"]
    assert len({json.dumps(conversation(content)) for _, content in rows}) == 1


async def test_failures_wishes_and_what_is_too_long_leave_nothing(
    gate: Gateway, upstream: Upstream, store: SqlStore
) -> None:
    upstream.enqueue(Plan(status=400), Plan(text="a b c d", cut_after=2), Plan(text="whole"))
    assert (await gate.chat(ASKED, model="auto:told")).status_code == 400
    with contextlib.suppress(Exception):
        await gate.chat(ASKED, model="auto:told", stream=True)
    await gate.chat(ASKED, model="auto:told", headers={"x-gateway-cache": "no-store"})
    await gate.chat("Lisbon " * 30_000, model="auto:told")
    upstream.enqueue(Plan(extra={"padding": "x" * 1_100_000}))
    await gate.chat("Lisbon", model="auto:told")
    rows = await moved(gate, store, 5)
    assert [content for _, content in rows] == [None] * 5
    assert [row.consented for row, _ in rows] == [False, False, False, True, True]


async def test_an_odd_body_costs_no_row(gate: Gateway, upstream: Upstream, store: SqlStore) -> None:
    for delta in ({"tool_calls": [{"index": 0, "function": {"name": 5}}]}, {"tool_calls": [7]}):
        upstream.enqueue(Plan(text="hm", extra={"choices": [{"delta": delta}]}))
        await gate.chat("odd", model="auto:kept", stream=True)
    odd = [{"role": "assistant", "tool_calls": [{"id": 1}, "x"]}, {"role": "user", "content": [{"type": ["y"]}]}]
    await gate.chat(model="auto:kept", messages=odd)
    assert len(await moved(gate, store, 3)) == 3


async def test_local_only_is_kept_as_its_policy_says_and_shadows_never(
    gate: Gateway, upstream: Upstream, near: Upstream, store: SqlStore
) -> None:
    await gate.chat(ASKED, model="auto:stays")
    await gate.chat(ASKED, model="auto:shadowed")
    await near.wait_for(2)
    rows = {(row.rule, row.key_id): (row, content) for row, content in await moved(gate, store, 3)}
    row, content = rows["here", "anonymous"]
    assert (row.consented, conversation(content)[0]["content"]) == (False, MARKED)
    assert rows["all", "anonymous"][1] is not None
    row, content = rows["all", "shadow"]
    assert (row.consented, content) == (False, None)
    assert len(upstream.requests) == 1


async def test_redis_away_delays_what_is_kept_and_loses_none(gate: Gateway, store: SqlStore) -> None:
    redis = gate.runtime.redis
    async with gate.open(ASKED, model="auto:kept") as reply:
        gate.redis.kill()
        await reply.aread()
    await gate.runtime.books.drain()
    assert gate.runtime.books.spool.waiting == 1
    assert SECRET.encode() not in on_disk(gate.folder)
    gate.redis.start()
    [(_, content)] = await moved(gate, store, 1)
    assert conversation(content)[0]["content"] == MARKED
    assert await redis.ping()


async def test_what_may_leave_is_exported_until_its_time_is_over(
    gate: Gateway, upstream: Upstream, store: SqlStore
) -> None:
    upstream.enqueue(Plan(text="Take the tram"), Plan(text="never to leave"))
    await gate.chat(ASKED, model="auto:told", user=USER)
    await gate.chat(ASKED, model="auto:kept")
    (row, _), _ = await moved(gate, store, 2)
    messages = [{"role": "user", "content": MARKED}, {"role": "assistant", "content": "Take the tram"}]

    assert [json.loads(line) for line in (await exported(gate, "sft")).splitlines()] == [{"messages": messages}]
    [line] = map(json.loads, (await exported(gate, "jsonl")).splitlines())
    assert (line["request_id"], line["messages"], "end_user" in line) == (row.request_id, messages, False)
    [cells] = csv.DictReader((await exported(gate, "csv")).splitlines())
    assert (cells["request_id"], cells["model"]) == (row.request_id, "big")

    await store.forget(0, int(time.time() * 1000) + 6 * 86_400_000)
    assert await exported(gate, "sft") != ""
    await store.forget(0, int(time.time() * 1000) + 8 * 86_400_000)
    assert await exported(gate, "sft") == ""
    assert "messages" not in json.loads(await exported(gate, "jsonl"))


async def test_erasing_somebody_takes_what_was_kept(gate: Gateway, store: SqlStore) -> None:
    await gate.chat(ASKED, model="auto:told", user=USER)
    await gate.chat("What of Porto?", model="auto:told", user="another")
    await gate.rows(2)
    report = await Eraser(gate.runtime.redis, store, gate.folder / "data").erase("user", USER)
    assert (report.rows, report.contents, report.left) == (1, 1, ())
    disk = await asyncio.to_thread(on_disk, gate.folder)
    assert not any(planted.encode() in disk for planted in (USER, SECRET, "Lisbon"))
    assert b"What of Porto?" in disk


@pytest.mark.parametrize("contents", [{"keep": "hidden"}, {"keep": "redacted", "retention": "soon"}, {"store": True}])
async def test_a_wrong_section_is_told_with_its_line(tmp_path: Path, contents: dict[str, Any]) -> None:
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(BIG | {"name": "wrong", "contents": contents}))
    result = await asyncio.to_thread(CliRunner().invoke, app, ["check", str(tmp_path / "wrong.yaml")])
    assert result.exit_code == 1
    assert "wrong.yaml:" in result.output.replace("\n", "")
    assert "contents" in result.output
