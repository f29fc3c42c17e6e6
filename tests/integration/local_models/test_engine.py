"""The batching engine over the real model: what is shared, what is never mixed up, and that nothing is left over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from local_models.chat.engine import Engine
from local_models.chat.sampling import Sampler
from local_models.chat.stream import ContextOverflow, EngineFailed, Generation, Overloaded
from local_models.chat.task import Task
from tests.support.engines import GREEDY, ask, engine, read
from tests.support.waiting import until

QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Repeat this list: apple, pear, plum, apple, pear, plum, apple, pear, plum.",
    "Write one sentence about the sea.",
    "Copy exactly: 17 23 42 17 23 42 17 23 42 17 23 42.",
    "Why is the sky blue?",
]
SYSTEM = "You answer questions about the shop. " + "Opening hours are nine to five on every day of the week. " * 8


@pytest.fixture
async def small() -> AsyncIterator[Engine]:
    async with engine() as made:
        yield made


def idle(made: Engine) -> bool:
    return sum(made.load().running.values()) == 0


def sequences_held(made: Engine) -> int:
    """How many sequences llama.cpp itself holds tokens for."""
    context = made._context
    return sum(context.held(sequence) > 0 for sequence in range(context.shape.sequences))


def lost_slots(made: Engine) -> int:
    """How often a running request gave its slot away."""
    return made._batching.preempted


async def test_an_answer_is_the_same_bits_alone_in_a_crowd_with_drafts_and_behind_a_reused_prefix() -> None:
    async with engine() as made:
        assert made.load().batch_invariant
        alone = [await read(ask(made, text, speculative=False)) for text in QUESTIONS]
    async with engine() as made:
        crowd = await asyncio.gather(*(read(ask(made, text)) for text in QUESTIONS * 3))
        again = [await read(ask(made, text)) for text in QUESTIONS]
    assert [text for text, _ in crowd] == [text for text, _ in alone] * 3
    assert [text for text, _ in again] == [text for text, _ in alone]
    logprobs = [last.confidence for _, last in alone]
    assert [last.confidence for _, last in crowd] == logprobs * 3
    assert all(last.timings and last.timings.cache_n > 0 for _, last in again)
    assert sum(last.timings.draft_n_accepted for _, last in crowd if last.timings) > 0


async def test_a_seed_gives_the_same_text_in_a_crowd(small: Engine) -> None:
    warm = [Sampler(temperature=1.0, top_p=0.9, top_k=40, seed=seed) for seed in range(4)]
    alone = [(await read(ask(small, QUESTIONS[3], sampler=sampler, speculative=False)))[0] for sampler in warm]
    crowd = await asyncio.gather(*(read(ask(small, QUESTIONS[3], sampler=sampler)) for sampler in warm * 2))
    assert [text for text, _ in crowd] == alone * 2
    assert len(set(alone)) > 1


@pytest.mark.parametrize("tokens", [4, 1])
async def test_a_shared_system_prompt_is_computed_once_also_by_a_crowd(small: Engine, tokens: int) -> None:
    def prompt(question: str) -> list[int]:
        return small.model.prompt([{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}])

    streams = [small.submit(Generation(prompt(text), GREEDY, tokens)) for text in QUESTIONS[:4]]
    timings = [last.timings for _, last in await asyncio.gather(*map(read, streams))]
    computed = sum(each.prompt_n for each in timings if each)
    assert computed < len(prompt(QUESTIONS[0])) + 4 * 40
    assert all(each and each.cache_n > 80 for each in timings[1:])


async def test_who_waits_for_anothers_prompt_goes_on_with_what_that_one_left(
    small: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = await read(ask(small, SYSTEM * 3, 4))
    small._batching._idle.clear()
    decode, loop, followers = small._context.decode, asyncio.get_running_loop(), []

    async def follow() -> None:
        followers.append(ask(small, SYSTEM * 3, 4))

    def leaves(pieces: Any) -> Any:
        monkeypatch.undo()
        rows = decode(pieces)
        asyncio.run_coroutine_threadsafe(follow(), loop).result(20)
        leader.cancelled = True
        return rows

    monkeypatch.setattr(small._context, "decode", leaves)
    leader = ask(small, SYSTEM * 3, 4)
    await until(lambda: followers)
    text, last = await read(followers[0])
    assert text == expected
    assert last.timings is not None
    assert last.timings.cache_n > 0
    assert last.timings.prompt_n > 20


def damage(folder: Path) -> None:
    """Files keep their length; their last bytes are others."""
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-100] + b"\0" * 100)


async def test_a_conversation_goes_on_after_a_restart_without_being_computed_again(tmp_path: Path) -> None:
    turns: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTIONS[0]}]
    async with engine(keep=tmp_path) as made:
        first, _ = await read(made.submit(Generation(made.model.prompt(turns), GREEDY, 24)))
        turns += [{"role": "assistant", "content": first}, {"role": "user", "content": QUESTIONS[1]}]
        expected, _ = await read(made.submit(Generation(made.model.prompt(turns), GREEDY, 24)))
    async with engine(keep=tmp_path) as made:
        prompt = made.model.prompt(turns)
        text, last = await read(made.submit(Generation(prompt, GREEDY, 24)))
        assert text == expected
        assert last.timings is not None
        assert last.timings.cache_n == len(prompt) - 1
    await asyncio.to_thread(damage, tmp_path)
    async with engine(keep=tmp_path) as made:
        text, last = await read(made.submit(Generation(prompt, GREEDY, 24)))
        assert text == expected
        assert last.timings is not None
        assert last.timings.cache_n == 0


async def test_busy_seconds_of_the_requests_add_up_to_the_engines(small: Engine) -> None:
    before = small.load().busy_seconds
    ended = await asyncio.gather(*(read(ask(small, text)) for text in QUESTIONS))
    shared = sum(last.timings.busy_seconds for _, last in ended if last.timings)
    assert shared == pytest.approx(small.load().busy_seconds - before, rel=1e-6)


async def test_leaving_frees_the_slot_with_the_next_step(small: Engine) -> None:
    streams = [ask(small, QUESTIONS[5], max_tokens=1500, ignore_eos=True) for _ in range(4)]
    for stream in streams:
        await anext(stream)
    steps = small._batching.busy_seconds
    waiting = ask(small, QUESTIONS[0], max_tokens=1)
    assert small.load().waiting["interactive"] == 1
    streams[0].cancel()
    text, _ = await read(waiting)
    assert text
    for stream in streams[1:]:
        stream.cancel()
    await until(lambda: idle(small))
    assert small._batching.busy_seconds > steps


async def test_a_full_queue_refuses_at_once_and_says_when_to_return() -> None:
    async with engine(slots=1, max_queue=2) as made:
        streams = [ask(made, "a", 2) for _ in range(3)]
        with pytest.raises(Overloaded) as caught:
            ask(made, "b")
        assert 1 <= caught.value.retry_after <= 60
        batch = ask(made, "c", 1, lane="batch")
        for stream in [*streams, batch]:
            await read(stream)
        await read(ask(made, "d", 1))


async def test_who_waits_longer_than_it_may_is_refused_not_served_late() -> None:
    async with engine(slots=1) as made:
        endless = ask(made, QUESTIONS[5], max_tokens=1500, ignore_eos=True)
        await anext(endless)
        with pytest.raises(Overloaded, match=r"waited too long|would wait"):
            await read(ask(made, "b", patience=0.5))
        endless.cancel()


async def test_an_interactive_request_does_not_wait_for_batch_jobs_which_end_as_if_alone(small: Engine) -> None:
    alone = [(await read(ask(small, text, 16, ignore_eos=True, speculative=False)))[0] for text in QUESTIONS]
    small._batching._idle.clear()
    jobs = [ask(small, text, 16, lane="batch", ignore_eos=True) for text in QUESTIONS * 4]
    await anext(jobs[0])
    for turn in range(6):
        await read(ask(small, f"{turn}: {QUESTIONS[0]}", 4))
        assert small.load().waiting["batch"] > 0
    ended = await asyncio.gather(*map(read, jobs[1:]))
    assert [text for text, _ in ended] == (alone * 4)[1:]
    assert lost_slots(small) > 0


async def test_no_first_token_waits_until_the_cache_has_been_tidied(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine(slots=2) as made:
        batching, drawn = made._batching, []
        tidy = batching._gather

        def watched() -> None:
            drawn.append([task.drawn for task in batching.tasks])
            tidy()

        monkeypatch.setattr(batching, "_gather", watched)
        running = ask(made, QUESTIONS[5], 60, ignore_eos=True, speculative=False)
        await anext(running)
        streams = [ask(made, SYSTEM * 3, 1), ask(made, QUESTIONS[3], 8, ignore_eos=True), running]
        await asyncio.gather(*map(read, streams))
    assert drawn
    assert all(map(all, drawn))


async def test_a_cache_too_small_for_all_of_them_makes_some_wait_and_all_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_models.chat.build._CELLS_A_SLOT", 1)
    async with engine(context=256, slots=6) as made:
        assert made.load().kv_cells == 256
        ended = await asyncio.gather(*(read(ask(made, text, 60, ignore_eos=True, lane="batch")) for text in QUESTIONS))
        assert [last.timings.predicted_n for _, last in ended if last.timings] == [60] * len(QUESTIONS)
        await until(lambda: idle(made))


async def test_no_sequence_is_leaked_by_ends_departures_and_failures(small: Engine) -> None:
    for turn in range(2):
        streams = [ask(small, f"{text} {turn}", 6) for text in QUESTIONS]
        for stream in streams[:3]:
            stream.cancel()
        await asyncio.gather(*map(read, streams[3:]))
    await until(lambda: idle(small))
    batching = small._batching
    assert sequences_held(small) == batching.cells == 0
    assert len(batching._free) == small._context.shape.sequences
    assert 0 < batching._idle.cells <= small.options.idle_cells


async def test_a_failed_step_fails_who_was_in_it_and_the_next_is_served(
    small: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(pieces: object) -> object:
        monkeypatch.undo()
        raise RuntimeError("llama_decode answers -3")

    monkeypatch.setattr(small._context, "decode", broken)
    with pytest.raises(EngineFailed, match="answers -3"):
        await read(ask(small, QUESTIONS[0]))
    assert "a step failed" in caplog.text
    assert "Paris" in (await read(ask(small, QUESTIONS[0])))[0]
    assert sequences_held(small) == 0


async def test_the_time_after_a_failure_is_nobodys(small: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, calls = small._context.decode, iter(range(3))

    def breaks(pieces: Any) -> Any:
        if next(calls) == 2:
            monkeypatch.undo()
            raise RuntimeError("llama_decode answers -3")
        return decode(pieces)

    monkeypatch.setattr(small._context, "decode", breaks)
    with pytest.raises(EngineFailed):
        await read(ask(small, QUESTIONS[5], ignore_eos=True))
    await asyncio.sleep(0.3)
    before, asked = small.load().busy_seconds, time.perf_counter()
    await read(ask(small, QUESTIONS[0], 1))
    assert small.load().busy_seconds - before <= time.perf_counter() - asked


async def test_a_slot_that_cannot_be_given_away_fails_who_has_one_and_nobody_waits_for_ever(
    small: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(sequence: int, start: int = 0) -> Any:
        monkeypatch.undo()
        raise MemoryError("no memory to keep it in")

    jobs = [ask(small, text, 400, lane="batch", ignore_eos=True) for text in QUESTIONS[:4]]
    for job in jobs:
        await anext(job)
    monkeypatch.setattr(small._context, "save", full)
    assert "Paris" in (await read(ask(small, QUESTIONS[0])))[0]
    for job in jobs:
        with pytest.raises(EngineFailed, match="no memory"):
            await read(job)
    assert "cannot be given slots" in caplog.text
    await until(lambda: idle(small))
    assert sequences_held(small) == 0


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(temperature=1.0, top_p=0.9)])
async def test_logits_that_are_no_numbers_end_the_answer_not_the_process(
    small: Engine, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = small._context.decode

    def overflows(pieces: Any) -> Any:
        rows = decode(pieces)
        rows[:, 7] = float("nan")
        return rows

    monkeypatch.setattr(small._context, "decode", overflows)
    with pytest.raises(EngineFailed, match="not numbers"):
        await read(ask(small, QUESTIONS[0], sampler=sampler))
    monkeypatch.undo()
    assert "Paris" in (await read(ask(small, QUESTIONS[0])))[0]


async def test_who_lost_its_slot_and_leaves_while_it_waits_leaves_nothing_behind() -> None:
    async with engine(slots=1) as made:
        job = ask(made, QUESTIONS[5], 400, lane="batch", ignore_eos=True, sampler=Sampler(temperature=1.0))
        await anext(job)
        (task,) = made._batching.tasks
        endless = ask(made, QUESTIONS[3], 400, ignore_eos=True)
        await anext(endless)
        assert made.load().waiting == {"interactive": 0, "batch": 1}
        drawer = task._drawer
        assert drawer is not None
        assert drawer._chain is not None
        job.cancel()
        assert made.load().waiting == {"interactive": 0, "batch": 0}
        assert drawer._chain is None
        endless.cancel()


async def test_an_answer_that_cannot_go_on_breaks_off_alone(
    small: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beside = ask(small, QUESTIONS[5], 40, ignore_eos=True)
    broken = ask(small, QUESTIONS[0], 40, logprobs=2)

    def fails(*args: Any) -> Any:
        monkeypatch.undo()
        raise RuntimeError("no token continues it")

    monkeypatch.setattr(Task, "_logprob", fails)
    with pytest.raises(EngineFailed, match="no token continues it"):
        await read(broken)
    assert "an answer broke off" in caplog.text
    _, last = await read(beside)
    assert last.timings is not None
    assert last.timings.predicted_n == 40
    await until(lambda: idle(small))
    assert sequences_held(small) == 0


async def test_closing_breaks_off_what_runs_and_what_waits() -> None:
    async with engine(slots=1) as made:
        streams = [ask(made, QUESTIONS[5], 1500, ignore_eos=True) for _ in range(2)]
        await anext(streams[0])
    for stream in streams:
        with pytest.raises(EngineFailed, match="shutting down"):
            await read(stream)


async def test_a_prompt_that_leaves_no_room_is_refused_with_both_counts(small: Engine) -> None:
    with pytest.raises(ContextOverflow, match=r"2048 tokens.*3000 tokens"):
        small.submit(Generation([5] * 3000))


async def test_the_end_of_the_context_ends_the_answer() -> None:
    async with engine(context=256) as made:
        _, last = await read(made.submit(Generation([5] * 250, GREEDY, ignore_eos=True)))
    assert last.timings is not None
    assert (last.finish, last.timings.predicted_n) == ("length", 6)


async def test_biases_penalties_and_forbidden_ends_change_what_is_drawn(small: Engine) -> None:
    plain, last = await read(ask(small, QUESTIONS[0]))
    assert last.finish == "stop"
    paris = small.model.tokenize(" Paris")[0]
    banned, _ = await read(ask(small, QUESTIONS[0], sampler=Sampler(temperature=0, logit_bias=((paris, -100.0),))))
    assert "Paris" in plain
    assert "Paris" not in banned
    _, longer = await read(ask(small, QUESTIONS[0], ignore_eos=True))
    assert longer.finish == "length"
    loop = Sampler(temperature=0, presence_penalty=2.0, frequency_penalty=2.0)
    once, _ = await read(ask(small, QUESTIONS[2], 40, sampler=loop))
    assert once != (await read(ask(small, QUESTIONS[2], 40)))[0]


async def test_logprobs_are_those_of_the_model_and_confidence_sums_them_up(small: Engine) -> None:
    stream = ask(small, QUESTIONS[0], logprobs=3)
    deltas = [delta async for delta in stream]
    drawn = [each for delta in deltas for each in delta.logprobs]
    assert all(each.top[0][1] == pytest.approx(each.logprob) for each in drawn)
    assert all(len(each.top) == 3 and each.logprob <= 0 for each in drawn)
    final = deltas[-1].confidence
    assert final is not None
    assert final.min_logprob <= min(each.logprob for each in drawn) + 1e-6
    assert 0 < final.score <= 1
    assert final.uncertain_share == pytest.approx(
        sum(each.logprob < -0.693147 for each in drawn) / final.tokens, abs=1 / final.tokens + 1e-9
    )


async def test_metrics_say_what_happened(small: Engine) -> None:
    await asyncio.gather(*(read(ask(small, text, 8)) for text in QUESTIONS[:3]))
    text = small.metrics.render(small.load()).decode()
    for line in (
        'engine_requests_total{lane="interactive",outcome="finished"} 3.0',
        'gen_ai_server_time_to_first_token_seconds_count{lane="interactive"} 3.0',
        'engine_slots{state="free"} 4.0',
    ):
        assert line in text
    assert json.dumps(small.load().running) == '{"interactive": 0, "batch": 0}'
