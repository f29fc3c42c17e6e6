"""What came of each line, as it comes: appended, forced to disk, and put into the input's order at the end.

A journal is a file of one JSON object a line: ``{"line": 3, "ok": true, "said": <the line of the output file>, …}``.
One that ends in the middle of a line, since its writer was killed, holds what is whole of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from gateway.batches import disk
from gateway.batches.records import Tally
from gateway.types import NANO

_BUFFER = 1 << 20


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class Took(msgspec.Struct, frozen=True, array_like=True):
    """What an answer took, by its own usage; money in nano-dollars, None where it has no price."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    cost_nano: int | None = None
    saved_nano: int | None = None


class Result(msgspec.Struct, frozen=True):
    """A line's end; ``said`` is what the output file says of it (or the error file, if not ``ok``)."""

    line: int
    ok: bool
    said: msgspec.Raw
    took: Took | None = None


class _Known(msgspec.Struct, frozen=True):
    line: int
    ok: bool
    took: Took | None = None


_known, _result = msgspec.json.Decoder(_Known), msgspec.json.Decoder(Result)


def took(body: bytes) -> Took:
    """What a reply says it took; nothing where it does not say."""
    try:
        usage = msgspec.json.decode(body, type=_Body).usage or _Usage()
    except (msgspec.MsgspecError, RecursionError):
        usage = _Usage()
    of_prompt, of_answer = usage.prompt_tokens_details or _Details(), usage.completion_tokens_details or _Details()
    return Took(
        prompt=usage.prompt_tokens,
        cached=of_prompt.cached_tokens or 0,
        completion=usage.completion_tokens,
        reasoning=of_answer.reasoning_tokens or 0,
        cost_nano=None if usage.cost_usd is None else int(usage.cost_usd * NANO),
        saved_nano=None if usage.saved_usd is None else int(usage.saved_usd * NANO),
    )


def count(tally: Tally, ok: bool, took: Took | None) -> None:
    """Add a line's end."""
    tally.completed += ok
    tally.failed += not ok
    if took is not None:
        tally.prompt_tokens += took.prompt
        tally.cached_tokens += took.cached
        tally.completion_tokens += took.completion
        tally.reasoning_tokens += took.reasoning
        tally.cost_nano += took.cost_nano or 0
        tally.saved_nano += took.saved_nano or 0
        tally.unpriced += took.cost_nano is None


class Journal:
    """Open for appending; who writes at the same time shares a write and its fsync."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self._lock = asyncio.Lock()

    async def write(self, result: Result) -> None:
        """It is on disk when this returns. Raises OSError."""
        self._waiting.append(msgspec.json.encode(result) + b"\n")
        await self.flush()

    async def flush(self) -> None:
        """What was to be written is on disk when this returns. Raises OSError."""
        async with self._lock:
            if self._waiting:
                data, self._waiting = b"".join(self._waiting), []
                await asyncio.to_thread(disk.append, self._descriptor, data)

    async def close(self) -> None:
        try:
            await self.flush()
        finally:
            os.close(self._descriptor)


def resume(parts: Iterable[Path]) -> tuple[bytearray, Tally]:
    """Which lines have their end (a byte each, by number), and all of it counted, each line once."""
    done, tally = bytearray(), Tally()
    for _, _, _, known in _entries(parts):
        if not is_done(done, known.line):
            mark(done, known.line)
            count(tally, known.ok, known.took)
    return done, tally


def is_done(done: bytearray, line: int) -> bool:
    return line < len(done) and bool(done[line])


def mark(done: bytearray, line: int) -> None:
    done.extend(bytes(max(0, line + 1 - len(done))))
    done[line] = 1


def in_order(parts: list[Path], ok: bool) -> Iterator[bytes]:
    """What the journals say of the lines that went well, or that did not, in the order of the input, each once."""
    places: dict[int, tuple[int, int, int, bool]] = {}
    for part, start, length, known in _entries(parts):
        places.setdefault(known.line, (part, start, length, known.ok))
    files = [path.open("rb") for path in parts]
    try:
        for line in disk.gently(sorted(line for line, place in places.items() if place[3] is ok)):
            part, start, length, _ = places[line]
            files[part].seek(start)
            yield bytes(_result.decode(files[part].read(length)).said) + b"\n"
    finally:
        for file in files:
            file.close()


def _entries(parts: Iterable[Path]) -> Iterator[tuple[int, int, int, _Known]]:
    """Each whole entry: the index of its file, where it stands there, its length, and what it says."""
    for index, path in enumerate(parts):
        start = 0
        with path.open("rb", buffering=_BUFFER) as file:
            for data in disk.gently(file):
                if data.endswith(b"\n"):
                    try:
                        known = _known.decode(data)
                    except msgspec.MsgspecError:  # blanked by an erasure, or garbage of a full disk
                        known = None
                    if known is not None:
                        yield index, start, len(data), known
                start += len(data)


def answered(request_id: str, custom_id: str, status: int, body: bytes) -> msgspec.Raw:
    """A line of the output or error file, for a request that was answered, if with an error."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _said(f"batch_{request_id}", custom_id, response, None)


def unanswered(asked_id: str, number: int, custom_id: str, code: str, message: str) -> msgspec.Raw:
    """A line of the error file for a request that was never made."""
    return _said(f"batch_req_{asked_id}_{number}", custom_id, None, {"code": code, "message": message})


def _said(name: str, custom_id: str, response: Any, error: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode({"id": name, "custom_id": custom_id, "response": response, "error": error}))
