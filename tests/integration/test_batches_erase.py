"""``gateway erase`` and batches: a key takes all it made along, an end user the lines that name them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from gateway.erase import Eraser
from gateway.ledger.store import SqlStore
from tests.support.batches import begun, client, line, over, told
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

USER = "planted-user-4711"


@pytest.fixture
async def running(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Gateway]:
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as started:
        yield started


@pytest.fixture
async def eraser(running: Gateway) -> AsyncIterator[Eraser]:
    data = running.folder / "data"
    data.mkdir(exist_ok=True)
    store = SqlStore(f"sqlite+aiosqlite:///{data / 'ledger.sqlite3'}")
    await store.migrate()
    yield Eraser(running.runtime.redis, store, data)
    await store.close()


def holding(folder: Path, name: str) -> list[str]:
    found = (path for root in ("files", "batches") for path in (folder / "data" / root).rglob("*") if path.is_file())
    return [str(path) for path in found if name.encode() in path.read_bytes()]


async def test_an_end_users_lines_are_blank_and_the_others_stay(running: Gateway, eraser: Eraser) -> None:
    async with client(running.base_url, await running.key()) as ours:
        theirs = [line(2, user=USER), line(3, metadata={"user_id": USER}), line(4, user=USER, messages=[])]
        ended = await over(ours, (await begun(ours, [line(1), *theirs, line(5)])).id)
        assert await asyncio.to_thread(holding, running.folder, USER)
        size = (await ours.files.retrieve(ended.input_file_id)).bytes

        report = await eraser.erase("user", USER)

        assert (report.contents, report.left) == (3 + 3, ())
        assert await asyncio.to_thread(holding, running.folder, USER) == []
        content = (await ours.files.content(ended.input_file_id)).content
        assert len(content) == size
        assert [json.loads(each)["custom_id"] for each in content.splitlines() if each.strip()] == ["q-1", "q-5"]
        answers = (await ours.files.content(str(ended.output_file_id))).text.splitlines()
        assert [json.loads(each)["custom_id"] for each in answers if each.strip()] == ["q-1", "q-5"]
        assert (await ours.files.content(str(ended.error_file_id))).text.strip() == ""


async def test_a_key_takes_all_it_made_along_in_the_middle_of_a_batch(
    running: Gateway, eraser: Eraser, upstream: Upstream
) -> None:
    upstream.default = Plan(text="fine", first_delay_s=0.05)
    key, mate = await running.key(team="red"), await running.key(team="red")
    async with client(running.base_url, key) as leaver, client(running.base_url, mate) as stays:
        kept = await over(stays, (await begun(stays, [line(1)])).id)
        done = await over(leaver, (await begun(leaver, [line(1)])).id)
        batch = await begun(leaver, [line(number) for number in range(2_000)])
        await until(lambda: upstream.total >= 20)

        await eraser.erase("key", running.key_id(key))

        await until(lambda: not list(running.folder.glob("data/batches/pending/*")))
        for gone in (batch, done):
            with pytest.raises(openai.NotFoundError):
                await stays.batches.retrieve(gone.id)
            with pytest.raises(openai.NotFoundError):
                await stays.files.retrieve(gone.input_file_id)
        assert len(await told(stays, kept.output_file_id)) == 1
    running_lines = running.runtime.metrics.registry.get_sample_value
    await until(lambda: running_lines("gateway_batches") == 0)
    assert await asyncio.to_thread(holding, running.folder, running.key_id(key)) == []
