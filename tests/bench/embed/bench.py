"""What is timed: one query at a time and 64 at once, through the process's own socket and by plain `encode`.

Rounds alternate between the two, so that a machine whose speed changes changes both. Plain `encode` is called as a user
would: defaults, one text a call.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import httpx
import numpy as np
import psutil

from local_models.embed.model import load
from tests.support.models import embed_model, process, wait_ready

CONCURRENT = 64
SINGLE_CALLS = 20
GOALS = {"one query": 2.5, "64 queries at once": 5.0}


@dataclass
class Result:
    """`ratios`: how many times as fast as plain encode; `facts`: figures by name, their units in it."""

    ratios: dict[str, float]
    facts: dict[str, float] = field(default_factory=dict)


def run(rounds: int, threads: int, prompts: list[str]) -> Result:
    """Measure. With `prompts`, the least cosine between both routes' vectors of them as well."""
    began = time.perf_counter()
    plain = _plain()
    facts = {"plain: seconds to load": time.perf_counter() - began}
    more = ("--threads", str(threads)) if threads else ()
    with _process(more) as (address, child, seconds):
        facts["process: seconds until it answers"] = seconds
        facts |= asyncio.run(_rounds(plain, address, rounds))
        facts["process: MB"] = child.memory_info().rss / 1e6
    ratios = {name: facts[f"{name}: ms a query, plain"] / facts[f"{name}: ms a query, process"] for name in GOALS}
    if prompts:
        facts["least cosine"] = _least_cosine(plain, prompts)
    return Result(ratios, facts)


def _plain() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(embed_model()), device="cpu")


@contextmanager
def _process(more: tuple[str, ...]) -> Iterator[tuple[str, psutil.Process, float]]:
    with tempfile.TemporaryDirectory() as folder:
        socket = str(Path(folder) / "embed.sock")
        began = time.perf_counter()
        with process("embed", "--model", str(embed_model()), "--uds", socket, *more) as child:
            with httpx.Client(base_url="http://embed", transport=httpx.HTTPTransport(uds=socket)) as http:
                wait_ready(http, child)
            yield socket, psutil.Process(child.pid), time.perf_counter() - began


async def _rounds(plain: Any, socket: str, rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    connector = aiohttp.UnixConnector(socket, limit=CONCURRENT)
    async with aiohttp.ClientSession(connector=connector) as http:
        await _ask(http, "warm-up")
        plain.encode("warm-up")
        for number in range(rounds):
            texts = [f"How do I change setting {place} of device {number}?" for place in range(CONCURRENT)]
            few = texts[:SINGLE_CALLS]
            measured = {
                "one query: ms a query, plain": _encode(plain, few),
                "one query: ms a query, process": await _in_turn(http, few),
                "64 queries at once: ms a query, plain": _encode(plain, texts),
                "64 queries at once: ms a query, process": await _at_once(http, texts),
            }
            for name, milliseconds in measured.items():
                times.setdefault(name, []).append(milliseconds)
    return {name: median(values) for name, values in times.items()}


def _encode(plain: Any, texts: list[str]) -> float:
    began = time.perf_counter()
    for text in texts:
        plain.encode(text)
    return _each(began, texts)


async def _in_turn(http: aiohttp.ClientSession, texts: list[str]) -> float:
    began = time.perf_counter()
    for text in texts:
        await _ask(http, text)
    return _each(began, texts)


async def _at_once(http: aiohttp.ClientSession, texts: list[str]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(_ask(http, text) for text in texts))
    return _each(began, texts)


def _each(began: float, texts: list[str]) -> float:
    return 1000 * (time.perf_counter() - began) / len(texts)


async def _ask(http: aiohttp.ClientSession, text: str) -> None:
    body = {"input": text, "encoding_format": "base64"}
    async with http.post("http://embed/v1/embeddings", json=body) as reply:
        assert reply.status == 200, await reply.text()
        await reply.read()


def _least_cosine(plain: Any, prompts: list[str]) -> float:
    ours = load(embed_model()).embed(prompts).vectors
    theirs = plain.encode(prompts, normalize_embeddings=True, show_progress_bar=True)
    return float(np.min(np.sum(ours * theirs, axis=1)))
