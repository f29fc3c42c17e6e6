"""Counting with a tokenizer: off the loop, bounded, and without the network."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway import tokens
from gateway.tokens import WHOLE, count_tokens, estimate_tokens


@pytest.fixture
def afresh() -> Any:
    """As in a process that has counted nothing yet."""
    tokens._o200k.cache_clear()
    yield
    tokens._o200k.cache_clear()


async def test_counts_as_o200k_base_does() -> None:
    # A word and its space are a token each here, and the full stop; what looks special is text like any other.
    paris, nothing, special = await count_tokens(["Paris is the capital of France.", "", "<|endoftext|>"])
    assert (paris, nothing) == (7, 0)
    assert special > 1


async def test_what_is_no_unicode_counts_too() -> None:
    [count] = await count_tokens(["\ud800"])
    assert count >= 1


async def test_a_long_text_is_sampled() -> None:
    sentence = "The quick brown fox jumps over the lazy dog. "
    whole = sentence * (WHOLE // len(sentence))
    [short, long] = await count_tokens([whole, whole * 8])
    assert long == pytest.approx(8 * short, rel=0.05)


async def test_nothing_is_fetched(afresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert await count_tokens(["Paris"]) == [1]


async def test_without_the_file_it_is_estimated(afresh: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert await count_tokens(["Paris is the capital."]) == [estimate_tokens("Paris is the capital.")]


async def test_the_loop_goes_on_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def counting(texts: Any) -> list[int]:
        entered.set()
        assert go_on.wait(30)
        return [1]

    monkeypatch.setattr(tokens, "_counted", counting)
    counted = asyncio.create_task(count_tokens(["x"]))
    assert await asyncio.to_thread(entered.wait, 30)
    assert not counted.done()
    go_on.set()
    assert await counted == [1]
