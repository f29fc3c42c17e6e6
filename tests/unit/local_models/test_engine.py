"""The engine around a model whose every step the test lets go, so that what happens between two steps is certain."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from local_models.chat.engine import ContextOverflow, Delta, Engine, EngineFailed, Generation, Overloaded
from local_models.chat.model import DecodeError, Model, Sampler


class SteppedModel(Model):
    """Token n is the letter chr(n); each sample waits for the test. Records what was decoded."""

    def __init__(self) -> None:
        self.context_length = 512
        self.steps = threading.Semaphore(0)
        self.decoded: list[int] = []
        self.kept: list[int] = []
        self.waiting = threading.Event()
        self.broken = False
        self.closed = False

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        return [ord(letter) for letter in messages[0]["content"]]

    def decode(self, tokens: Sequence[int]) -> None:
        if self.broken:
            self.broken = False
            raise DecodeError("llama_decode answers -3")
        self.decoded += tokens

    def keep(self, count: int) -> bool:
        self.kept.append(count)
        return True

    def sampler(self, how: Sampler) -> Any:
        return None

    def free_sampler(self, chain: Any) -> None: ...

    def sample(self, chain: Any) -> int:
        self.waiting.set()
        self.steps.acquire()
        return ord("x")

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def ends(self, token: int) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def model() -> SteppedModel:
    return SteppedModel()


@pytest.fixture
async def engine(model: SteppedModel) -> AsyncIterator[Engine]:
    engine = Engine(model, max_queue=2)
    yield engine
    model.steps.release(10_000)
    await asyncio.to_thread(engine.close)
    assert model.closed


def request(text: str, max_tokens: int | None = 2, **more: Any) -> Generation:
    return Generation([ord(letter) for letter in text], max_tokens=max_tokens, **more)


async def read(stream: AsyncIterator[Delta]) -> list[Delta]:
    return [delta async for delta in stream]


async def test_the_last_delta_says_why_and_how_much(engine: Engine, model: SteppedModel) -> None:
    model.steps.release(2)
    deltas = await read(engine.submit(request("abc")))
    assert "".join(delta.text for delta in deltas) == "xx"
    assert [delta.finish for delta in deltas] == [None, "length"]
    timings = deltas[-1].timings
    assert timings is not None
    assert (timings.prompt_n, timings.cache_n, timings.predicted_n) == (3, 0, 2)


async def test_a_full_queue_refuses_at_once_and_says_when_to_return(engine: Engine, model: SteppedModel) -> None:
    streams = [engine.submit(request("a")) for _ in range(3)]
    with pytest.raises(Overloaded) as caught:
        engine.submit(request("b"))
    assert 1 <= caught.value.retry_after <= 60
    with pytest.raises(Overloaded):
        await engine.prompt([{"role": "user", "content": "b"}])
    model.steps.release(6)
    for stream in streams:
        assert len(await read(stream)) == 2
    model.steps.release(2)
    assert await read(engine.submit(request("c")))


async def test_a_waiting_request_whose_client_left_is_never_started(engine: Engine, model: SteppedModel) -> None:
    first, left, last = (engine.submit(request(text)) for text in "abc")
    await left.aclose()
    extra = engine.submit(request("d"))
    model.steps.release(6)
    for stream in (first, last, extra):
        await read(stream)
    assert await read(left) == []
    assert ord("b") not in model.decoded
    assert {ord("a"), ord("c"), ord("d")} <= set(model.decoded)


async def test_leaving_frees_the_engine_within_one_token(engine: Engine, model: SteppedModel) -> None:
    stream = engine.submit(request("a", max_tokens=None))
    model.steps.release(2)
    await anext(stream)
    model.waiting.clear()
    await stream.aclose()
    model.steps.release(1)
    next_stream = engine.submit(request("q", max_tokens=1))
    await asyncio.to_thread(model.waiting.wait)
    model.steps.release(1)
    assert len(await read(next_stream)) == 1
    assert model.decoded.count(ord("x")) <= 3


async def test_a_prompt_that_leaves_no_room_is_refused_with_both_counts(engine: Engine) -> None:
    with pytest.raises(ContextOverflow, match=r"512 tokens.*600 tokens"):
        engine.submit(request("a" * 600))


async def test_the_end_of_the_context_ends_the_answer(engine: Engine, model: SteppedModel) -> None:
    model.steps.release(10)
    deltas = await read(engine.submit(request("a" * 508, max_tokens=100)))
    assert (len(deltas), deltas[-1].finish) == (4, "length")


async def test_a_failed_step_fails_one_request_only(
    engine: Engine, model: SteppedModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.broken = True
    with pytest.raises(EngineFailed, match="llama_decode answers -3"):
        await read(engine.submit(request("a")))
    model.steps.release(2)
    assert len(await read(engine.submit(request("b")))) == 2
    assert "a request failed" in caplog.text


async def test_a_common_beginning_is_reused_unless_the_request_must_be_reproducible(
    engine: Engine, model: SteppedModel
) -> None:
    model.steps.release(8)
    await read(engine.submit(request("hello")))
    again = (await read(engine.submit(request("help"))))[-1].timings
    assert again is not None
    assert (again.cache_n, again.prompt_n) == (3, 1)
    await read(engine.submit(request("help", reproducible=True)))
    assert model.kept == [0, 3, 0]


async def test_a_stop_string_ends_the_answer_without_being_sent(engine: Engine, model: SteppedModel) -> None:
    model.steps.release(5)
    deltas = await read(engine.submit(request("a", max_tokens=5, stop=("xxx",))))
    assert ("".join(delta.text for delta in deltas), deltas[-1].finish) == ("", "stop")


async def test_closing_breaks_off_what_runs_and_what_waits(model: SteppedModel) -> None:
    engine = Engine(model, max_queue=2)
    streams = [engine.submit(request("a", max_tokens=None)) for _ in range(2)]
    await asyncio.to_thread(model.waiting.wait)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    for stream in streams:
        with pytest.raises(EngineFailed, match="shutting down"):
            await read(stream)
    model.steps.release(1)
    await closing
