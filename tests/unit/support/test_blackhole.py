"""The relay that swallows: no connection, no byte, no end, and all of it again after."""

import asyncio

import aiohttp
import pytest

from tests.support.blackhole import Relay
from tests.support.upstream import Plan, Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


async def ask(session: aiohttp.ClientSession, relay: Relay) -> int:
    async with session.post(relay.url + "/v1/chat/completions", json=ASK) as reply:
        await reply.read()
        return reply.status


async def test_swallows_new_connections_until_restored() -> None:
    async with Upstream() as up, Relay(up.port) as relay, aiohttp.ClientSession() as session:
        await relay.swallow()
        connecting = asyncio.create_task(asyncio.open_connection("127.0.0.1", relay.port))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(connecting), 0.2)
        await relay.restore()
        _, writer = await asyncio.wait_for(connecting, 10)  # the kernel sends the SYN again after a second
        writer.close()
        assert await ask(session, relay) == 200


async def test_swallows_what_open_connections_say_and_their_end() -> None:
    async with Upstream() as up, Relay(up.port) as relay, aiohttp.ClientSession() as session:
        up.enqueue(Plan(), Plan(first_delay_s=0.05), Plan(cut_after=0))
        assert await ask(session, relay) == 200
        asked = asyncio.create_task(ask(session, relay))
        await up.wait_for(2)
        await relay.swallow()
        await up.wait_for(2, "completed")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked), 0.1)
        await relay.restore()
        assert await asyncio.wait_for(asked, 10) == 200


async def test_passes_a_disconnect_on_both_ways() -> None:
    async with Upstream() as up, Relay(up.port) as relay, aiohttp.ClientSession() as session:
        up.enqueue(Plan(hang=True), Plan(drop_connect=True))
        asked = asyncio.create_task(ask(session, relay))
        await up.wait_for(1)
        asked.cancel()
        await up.wait_for(1, "disconnected")
        with pytest.raises(aiohttp.ClientError):
            await ask(session, relay)
