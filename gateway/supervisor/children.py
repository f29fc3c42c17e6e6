"""One child process of the supervisor: started, watched until it is ready, restarted with back-off, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.supervisor.death_pact import DeathPact, pact

State = Literal["waiting", "fetching", "starting", "ready", "restarting", "unavailable", "failed", "stopped"]
Say = Callable[[State, str], None]

FIRST_DELAY, LONGEST_DELAY, STEADY_SECONDS = 0.5, 10.0, 30.0
UNAVAILABLE_DELAY = 60.0
PROBE_SECONDS = 0.1
LOG_BYTES = 5_000_000
ESSENTIAL_TRIES = 3


class Unavailable(Exception):
    """What a part needs is not there (a model without a network); it is tried again later."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run. ``share``: descriptors the child inherits; ``give``: inherited too, and closed on this side."""

    command: tuple[str, ...]
    share: tuple[int, ...] = ()
    give: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the gateway.

    ``launch`` may take long (a download) and tells how far it is; ``ready`` asks the running process.
    ``death_signal`` is what it gets when the supervisor dies without a word. An ``essential`` part that dies
    ESSENTIAL_TRIES times before it was ever ready is a failed start.
    """

    name: str
    launch: Callable[[Say], Awaitable[Launch]]
    ready: Callable[[], Awaitable[bool]]
    env: Mapping[str, str] = field(default_factory=dict)
    death_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 5.0
    essential: bool = False
    exited: Callable[[int], None] = lambda pid: None


class Child:
    """Keeps a part's process alive until it is told to stop."""

    def __init__(self, part: Part, logs: Path, say: Callable[[str, State, str], None]) -> None:
        self.part = part
        self.log = logs / f"{part.name}.log"
        self.state: State = "waiting"
        self.ever_ready = False
        self.exits = 0
        self._log_start = 0
        self._say_all = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def settled(self) -> bool:
        """Whether its start is over, one way or the other."""
        return self.ever_ready or self.state == "unavailable" or self.exits >= ESSENTIAL_TRIES

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_alive(), name=self.part.name)

    def signal(self, number: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask the process to finish; kill it when its time is up. Returns once it is gone."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        if self._task:
            done, _ = await asyncio.wait({self._task}, timeout=self.part.stop_seconds)
            if not done:
                self.signal(signal.SIGKILL)
            await self._task
        self._say("stopped", "")

    def tail(self, lines: int = 15) -> str:
        """The end of what its last process logged."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def bound_log(self) -> None:
        """Move a long log aside (one old one is kept). The child goes on appending to the same file."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)

    async def _keep_alive(self) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                code = await self._run_once()
            except (Unavailable, OSError) as reason:
                self._say("unavailable", str(reason))
                await self._pause(UNAVAILABLE_DELAY)
                continue
            self.exits += 1
            if self._stopping.is_set():
                return
            if self.part.essential and not self.ever_ready and self.exits >= ESSENTIAL_TRIES:
                self._say("failed", f"{how(code)}, {self.exits} times in a row")
                return
            delay = FIRST_DELAY if time.monotonic() - began > STEADY_SECONDS else delay
            self._say("restarting", f"{how(code)}; again in {delay:g} s")
            await self._pause(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def _run_once(self) -> int:
        launch = await self._or_stop(self.part.launch(self._say))
        if launch is None:
            return 0
        self._say("starting", "")
        with contextlib.ExitStack() as stack:
            process = await self._spawn(launch, stack)
            self._process = process
            if self._stopping.is_set():
                self.signal(signal.SIGTERM)
            probe = asyncio.create_task(self._until_ready(time.monotonic()))
            try:
                return await process.wait()
            finally:
                probe.cancel()
                self.part.exited(process.pid)

    async def _spawn(self, launch: Launch, stack: contextlib.ExitStack) -> asyncio.subprocess.Process:
        self.bound_log()
        agreement: DeathPact = pact(self.part.death_signal)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            try:
                if shutil.which(launch.command[0]) is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), launch.command[0])
                process = await asyncio.create_subprocess_exec(
                    *agreement.bound(launch.command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.part.env},
                    pass_fds=(*launch.share, *launch.give),
                    start_new_session=True,
                )
            finally:
                for descriptor in launch.give:
                    os.close(descriptor)
        stack.enter_context(agreement.watching(process.pid))
        return process

    async def _until_ready(self, began: float) -> None:
        await until(self.part.ready)
        self.ever_ready = True
        self._say("ready", f"in {time.monotonic() - began:.1f} s")

    async def _or_stop(self, launching: Awaitable[Launch]) -> Launch | None:
        """The launch, or None when the supervisor stops first."""
        task = asyncio.ensure_future(launching)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _say(self, state: State, detail: str) -> None:
        self.state = state
        self._say_all(self.part.name, state, detail)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it holds."""
    while True:
        if await condition():
            return
        await asyncio.sleep(PROBE_SECONDS)


def how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
