"""A child process: ready, restarted, stopped, and given up on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from gateway.supervisor import children
from gateway.supervisor.children import Child, Launch, Part, Say, State, Unavailable

PATIENCE = 20.0
SLEEPER = "import time, sys; print('up', flush=True); time.sleep(600)"

Event = tuple[State, str]


class Watched:
    """A child and what it has said so far."""

    def __init__(self, child_of: Callable[[Callable[[str, State, str], None]], Child]) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()
        self.child = child_of(self._said)

    def _said(self, name: str, state: State, detail: str) -> None:
        self.events.append((state, detail))
        self._more.set()

    async def until(self, state: State, times: int = 1) -> str:
        """Wait until it has said so; what it said with it."""
        async with asyncio.timeout(PATIENCE):
            while len(found := [detail for said, detail in self.events if said == state]) < times:
                self._more.clear()
                await self._more.wait()
        return found[times - 1]


Start = Callable[..., Watched]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts a part that runs a Python script; all of them are gone in the end."""
    monkeypatch.setattr(children, "FIRST_DELAY", 0.05)
    started: list[Watched] = []

    def starting(script: str, ready: Callable[[], Awaitable[bool]] | None = None, **options: object) -> Watched:
        async def launch(say: Say) -> Launch:
            return Launch((sys.executable, "-c", script))

        part = Part("part", options.pop("launch", launch), ready or _log_says(tmp_path, "up"), **options)  # type: ignore[arg-type]
        watched = Watched(lambda said: Child(part, tmp_path, said))
        started.append(watched)
        watched.child.start()
        return watched

    yield starting
    for watched in started:
        await watched.child.stop()


def _log_says(folder: Path, word: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return word in (folder / "part.log").read_text()

    return ready


async def test_ready_once_it_answers(start: Start) -> None:
    watched = start(SLEEPER)
    assert (await watched.until("ready")).startswith("in ")
    assert [state for state, _ in watched.events] == ["starting", "ready"]
    assert watched.child.settled


async def test_what_dies_comes_back_and_the_reason_is_said(start: Start) -> None:
    watched = start(SLEEPER)
    await watched.until("ready")
    first = watched.child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert "was killed by SIGKILL" in await watched.until("restarting")
    await watched.until("ready", times=2)
    assert watched.child.pid not in (None, first)


async def test_waits_longer_after_each_failure(start: Start) -> None:
    watched = start("raise SystemExit(3)")
    said = [await watched.until("restarting", times=n) for n in (1, 2, 3)]
    assert said == [f"exited with status 3; again in {delay:g} s" for delay in (0.05, 0.1, 0.2)]


async def test_waits_no_longer_than_the_longest(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LONGEST_DELAY", 0.06)
    watched = start("raise SystemExit(3)")
    assert (await watched.until("restarting", times=4)).endswith("again in 0.06 s")


async def test_a_long_life_forgives_earlier_failures(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STEADY_SECONDS", 0.0)
    watched = start("raise SystemExit(3)")
    assert (await watched.until("restarting", times=3)).endswith("again in 0.05 s")


async def test_an_essential_part_that_never_gets_ready_has_failed(start: Start) -> None:
    watched = start("print('no such option'); raise SystemExit(1)", _never, essential=True)
    assert await watched.until("failed") == "exited with status 1, 3 times in a row"
    assert watched.child.tail() == "no such option", "only the last process's lines"


async def test_what_it_needs_is_not_there_yet(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "UNAVAILABLE_DELAY", 0.05)
    tries = 0

    async def launch(say: Say) -> Launch:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("no network")
        return Launch((sys.executable, "-c", SLEEPER))

    watched = start("", launch=launch)
    assert await watched.until("unavailable") == "no network"
    await watched.until("ready")


async def test_a_command_that_does_not_exist_is_said(start: Start) -> None:
    async def launch(say: Say) -> Launch:
        return Launch(("/nonexistent/part",))

    assert "No such file" in await start("", launch=launch).until("unavailable")


async def test_stop_asks_first(start: Start, tmp_path: Path) -> None:
    watched = start(
        "import signal, sys, time\n"
        "def bye(*_): print('flushed', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye); print('up', flush=True); time.sleep(600)"
    )
    await watched.until("ready")
    await watched.child.stop()
    assert (tmp_path / "part.log").read_text().splitlines() == ["up", "flushed"]
    assert [state for state, _ in watched.events] == ["starting", "ready", "stopped"]


async def test_stop_kills_what_does_not_listen(start: Start) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    watched = start(deaf, stop_seconds=0.2)
    await watched.until("ready")
    pid = watched.child.pid
    await watched.child.stop()
    assert watched.child.pid is None
    assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_stop_does_not_wait_for_a_launch_in_progress(start: Start) -> None:
    async def launch(say: Say) -> Launch:
        say("fetching", "download 1 %")
        await asyncio.Event().wait()
        raise AssertionError

    watched = start("", launch=launch)
    await watched.until("fetching")
    async with asyncio.timeout(PATIENCE):
        await watched.child.stop()
    assert watched.child.pid is None


async def test_stop_does_not_wait_for_the_next_try(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST_DELAY", 300.0)
    watched = start("raise SystemExit(1)", _never)
    await watched.until("restarting")
    async with asyncio.timeout(PATIENCE):
        await watched.child.stop()


async def test_given_descriptors_are_the_childs_alone(start: Start, tmp_path: Path) -> None:
    handle = os.open(tmp_path / "lent", os.O_RDWR | os.O_CREAT)
    script = f"import os, time; os.write({handle}, b'mine'); print('up', flush=True); time.sleep(600)"

    async def launch(say: Say) -> Launch:
        return Launch((sys.executable, "-c", script), give=(handle,))

    await start("", launch=launch).until("ready")
    assert (tmp_path / "lent").read_bytes() == b"mine"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


async def test_the_part_hears_of_each_end(start: Start) -> None:
    ended: list[int] = []
    watched = start(SLEEPER, exited=ended.append)
    await watched.until("ready")
    pid = watched.child.pid
    await watched.child.stop()
    assert ended == [pid]


async def test_it_is_in_a_session_of_its_own(start: Start) -> None:
    watched = start(SLEEPER)
    await watched.until("ready")
    assert watched.child.pid is not None
    assert os.getsid(watched.child.pid) == watched.child.pid


async def test_a_long_log_is_moved_aside_while_it_is_written(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 3)
    watched = start("print('up', flush=True); input(); print('later', flush=True)")
    watched.child.bound_log()
    await watched.until("restarting")
    watched.child.bound_log()
    assert (tmp_path / "part.log").stat().st_size == 0
    assert "up" in (tmp_path / "part.log.1").read_text()


async def _never() -> bool:
    return False


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with status 0"), (-15, "was killed by SIGTERM"), (-250, "was killed by signal 250")],
)
def test_how_it_ended(code: int, words: str) -> None:
    assert children.how(code) == words
