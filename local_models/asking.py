"""Put a list of prompts to a model file and take its answers: greedy, many at once, one engine for all of them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from local_models import gguf
from local_models.bench import BenchError, Ended, engine, ready, request, tail
from local_models.chat.confidence import Confidence

AT_ONCE = 16


class Said(NamedTuple):
    """An answer, and how sure the model was of its opening."""

    text: str
    confidence: Confidence


class _Choice(msgspec.Struct):
    message: dict[str, Any]


class _Reply(msgspec.Struct):
    choices: list[_Choice]
    confidence_details: Confidence


def answers(
    model: Path, prompts: Sequence[str], tokens: int, progress: Callable[[int, int], None] | None = None
) -> list[Said]:
    """The answers, in the order of the prompts, each at most ``tokens`` long. ``progress``: done, of how many.

    Raises NotGGUF, BenchError.
    """
    gguf.check(model)
    with tempfile.TemporaryDirectory() as folder:
        socket, log = Path(folder) / "chat.sock", Path(folder) / "log"
        with engine(model, model.stem, socket, log) as child:
            try:
                return asyncio.run(_all(socket, model.stem, child, prompts, tokens, progress))
            except (OSError, asyncio.IncompleteReadError, Ended) as error:
                raise BenchError(f"the engine went away: {tail(log) or error}") from error


async def _all(
    socket: Path,
    name: str,
    child: Any,
    prompts: Sequence[str],
    tokens: int,
    progress: Callable[[int, int], None] | None,
) -> list[Said]:
    await ready(socket, child)
    places, done = asyncio.Semaphore(AT_ONCE), 0

    async def one(prompt: str) -> Said:
        nonlocal done
        async with places:
            answer = await _ask(socket, name, prompt, tokens)
        done += 1
        if progress is not None:
            progress(done, len(prompts))
        return answer

    return list(await asyncio.gather(*map(one, prompts)))


async def _ask(socket: Path, name: str, prompt: str, tokens: int) -> Said:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    async with request(socket, "POST", "/v1/chat/completions", msgspec.json.encode(body)) as (status, reader):
        reply = await reader.read()
    if status != 200:
        raise BenchError(f"the engine answered {status}: {reply[:2000].decode(errors='replace')}")
    said = msgspec.json.decode(reply, type=_Reply)
    sure = said.confidence_details
    return Said(str(said.choices[0].message["content"] or ""), sure.opening or sure)
