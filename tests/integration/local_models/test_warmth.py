"""A lazy model in a real process: loaded once by however many ask, unloaded when nobody does, and busy in numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.models import CHAT, chat_model, served
from tests.support.waiting import until

BODY: Any = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    arguments = ("--model", str(chat_model()), "--name", CHAT, "--ctx", "512", "--lazy", "--idle-unload", "0.5")
    with served("chat", *arguments) as address:
        yield address


async def test_it_is_loaded_by_the_first_requests_together_and_unloaded_when_idle(address: str) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        cold = (await http.get("/v1/load")).json()
        assert (cold["state"], cold["load_seconds"]) == ("unloaded", 0.0)
        for _ in range(2):
            replies = await asyncio.gather(*(http.post("/v1/chat/completions", json=BODY) for _ in range(4)))
            assert [reply.status_code for reply in replies] == [200] * 4

            async def unloaded() -> bool:
                return bool((await http.get("/v1/load")).json()["state"] == "unloaded")

            await until(unloaded)
        again = (await http.get("/v1/load")).json()
        assert again["load_seconds"] > 0


async def test_how_busy_it_is_shows_while_it_answers(address: str) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        body = {**BODY, "max_tokens": 450, "ignore_eos": True, "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as stream:
            await anext(stream.aiter_lines())
            metrics, loaded = await asyncio.gather(http.get("/metrics"), http.get("/v1/load"))
        load, text = loaded.json(), metrics.text
        assert load["state"] == "ready"
        assert load["running"] == {"interactive": 1, "batch": 0}
        assert load["tokens_per_second"] > 0
        assert load["predicted_wait_seconds"] < 60
        assert load["rss_bytes"] > 1 << 20
        assert 'engine_slots{state="busy"} 1.0' in text
        assert "engine_load_seconds" in text
