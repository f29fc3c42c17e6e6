"""Counting with a tokenizer: off the loop, bounded, and without the network."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from gateway import tokenizer, tokens
from gateway.tokenizer import Tokenizer, counted, o200k
from gateway.tokens import WHOLE, count_tokens, estimate_tokens
from tests.support.waiting import until


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


@pytest.fixture
def afresh() -> Iterator[None]:
    """As in a process that has counted nothing yet."""
    o200k.cache_clear()
    yield
    o200k.cache_clear()


@pytest.mark.usefixtures("afresh")
def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert counted([b"Paris"]) == [1]


@pytest.mark.usefixtures("afresh")
def test_without_its_file_there_is_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert counted([b"Paris is the capital."]) is None


@pytest.mark.parametrize("command", [("true",), ("/nonexistent",), (sys.executable, "-c", "print('no')")])
async def test_without_a_count_it_is_estimated(monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.setattr(tokens, "_tokenizer", lambda: Tokenizer(command))
    assert await count_tokens(["Paris is the capital."]) == [estimate_tokens("Paris is the capital.")]


def test_a_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "PATIENCE_S", 0.2)
    assert Tokenizer((sys.executable, "-c", "import time; time.sleep(600)")).count(["Paris"]) is None


def test_it_is_started_again_once_it_has_ended() -> None:
    one = Tokenizer()
    assert one.count(["Paris"]) == [1]
    process = one._process
    assert process is not None
    process.kill()
    process.wait()
    assert one.count(["Paris", ""]) == [1, 0]
    one.close()


async def test_one_that_has_ended_by_itself_is_no_zombie() -> None:
    one = Tokenizer()
    assert one.count(["Paris"]) == [1]
    assert one._process is not None
    ended = psutil.Process(one._process.pid)
    ended.terminate()
    await until(lambda: not ended.is_running(), within_s=30)
    one.close()


async def test_it_is_read_into_a_process_that_ends_with_whoever_counts() -> None:
    """In a worker's own it would stop the event loop for a second."""
    code = "import sys, time; from gateway.tokenizer import Tokenizer; one = Tokenizer(); one.count(['Paris'])"
    code += "; print(one._process.pid, 'tiktoken' in sys.modules, flush=True); time.sleep(600)"
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert worker.stdout is not None
    pid, read = (await asyncio.wait_for(worker.stdout.readline(), 60)).split()
    worker.kill()
    await worker.wait()
    assert read == b"False"
    await until(lambda: _ended(int(pid)))


def _ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # in a container nobody may be there to reap it
    except psutil.NoSuchProcess:
        return True


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
