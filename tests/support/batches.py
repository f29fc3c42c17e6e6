"""Files of requests, and waiting for what comes of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch

from tests.support.waiting import until

CHAT: Any = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


def line(number: int, **body: Any) -> dict[str, Any]:
    """A request of a batch, for the model ``auto``."""
    question = [{"role": "user", "content": f"What comes after {number}?"}]
    return {
        "custom_id": f"q-{number}",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "auto", "messages": question, **body},
    }


def jsonl(lines: list[Any]) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines)


@asynccontextmanager
async def client(base_url: str, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30.0) as made:
        yield made


async def begun(client: AsyncOpenAI, lines: list[Any], **more: Any) -> Batch:
    """A batch of these lines."""
    file = await client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **more)


async def over(client: AsyncOpenAI, batch_id: str, within_s: float = 60.0) -> Batch:
    """The batch, once it has ended."""
    found: list[Batch] = []

    async def ended() -> bool:
        found[:] = [await client.batches.retrieve(batch_id)]
        return found[0].status in OVER

    await until(ended, within_s=within_s)
    return found[0]


async def told(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file."""
    if file_id is None:
        return []
    content = await client.files.content(file_id)
    return [json.loads(each) for each in content.text.splitlines()]
