"""The work in its order: start everything, check the answers, warm up, the rounds, the books."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from tests.bench.proxy import peers
from tests.bench.proxy.checks import Check, answers_rightly, books_balance, hits_are_hits
from tests.bench.proxy.load import CONNECTIONS, OURS, Contender, Sample, drive
from tests.bench.proxy.ours import Gateway, gateway
from tests.bench.proxy.processes import Server, Skipped, free_port, running
from tests.bench.proxy.report import Result

_WARM_UP_S = 1
T = TypeVar("T")


class Bench:
    """One benchmark: `run` it once, within `folder`."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._contenders: list[Contender] = []
        self._servers: dict[str, Server] = {}
        self._checks: list[Check] = []
        self._facts: dict[str, float] = {}
        self._skipped: dict[str, str] = {}

    def run(self, rounds: int, seconds: int) -> Result:
        """Measure everyone at every number of connections in each of `rounds`, for `seconds` a time."""
        with ExitStack() as stack:
            ours = self._start(stack)
            for contender in self._contenders:
                with self._console.status(f"{contender.name}: checking answers, warming up"):
                    self._checks.append(answers_rightly(contender))
                    drive(contender, max(CONNECTIONS), _WARM_UP_S)
            measured = self._rounds(rounds, seconds)
            with self._console.status("weighing, and looking into the books"):
                self._weigh(ours)
        return Result(measured, self._facts, self._checks, self._skipped)

    def _start(self, stack: ExitStack) -> Gateway | None:
        upstream = stack.enter_context(started_upstream(self._folder))
        self._contenders.append(Contender(name="direct", url=upstream, model="bench", headers={}))
        ours = self._enter(stack, OURS, gateway(upstream, self._folder))
        self._checks.append(Check("gateway: takes part", ours is not None, self._skipped.pop(OURS, "yes")))
        if ours:
            self._contenders += ours.contenders()
            self._servers["gateway serve"] = ours.server
        for name, start in (("LiteLLM", peers.litellm), ("Portkey", peers.portkey)):
            if peer := self._enter(stack, name, start(upstream, self._folder)):
                self._contenders.append(peer[0])
                self._servers[name] = peer[1]
        return ours

    def _enter(self, stack: ExitStack, name: str, manager: AbstractContextManager[T]) -> T | None:
        try:
            with self._console.status(f"{name}: starting (a peer is installed first, which takes minutes once)"):
                return stack.enter_context(manager)
        except Skipped as why:
            self._skipped[name] = str(why)
            return None

    def _rounds(self, rounds: int, seconds: int) -> dict[str, dict[int, list[Sample]]]:
        measured: dict[str, dict[int, list[Sample]]] = {
            contender.name: {connections: [] for connections in CONNECTIONS} for contender in self._contenders
        }
        for number in range(rounds):
            first = number % len(self._contenders)
            for connections in CONNECTIONS:
                for contender in self._contenders[first:] + self._contenders[:first]:
                    what = f"round {number + 1} of {rounds}: {contender.name}, {connections} connections"
                    with self._console.status(what):
                        sample = drive(contender, connections, seconds)
                    measured[contender.name][connections].append(sample)
        return measured

    def _weigh(self, ours: Gateway | None) -> None:
        for name, server in self._servers.items():
            self._facts[f"{name}: s from start to first answer"] = server.start_s
            self._facts[f"{name}: MB resident after the load, with children"] = server.rss_mb()
        if ours:
            self._checks += [books_balance(ours), hits_are_hits(ours)]
            self._facts["gateway worker: MB resident after the load"] = ours.worker().memory_info().rss / 1e6
            self._facts["gateway worker: s from birth to first answer"] = ours.cold_start_s()
            self._facts["gateway: longest s until the ledger had caught up"] = ours.lag_s


@contextmanager
def started_upstream(folder: Path) -> Iterator[str]:
    """The scripted upstream that every contender has; its address."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.upstream", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/v1"
    with running(command, f"{url}/models", folder / "upstream.log", {}):
        yield url
