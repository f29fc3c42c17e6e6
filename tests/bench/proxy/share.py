"""What ledger and budgets take of the proxied rate: ``python -m tests.bench.proxy.share [--rounds N] [--seconds S]``.

Two workers of one gateway take turns: one as it is, one whose books are shut (`bookless`). The key has a budget, its
team and its organisation have one each; the cache is off, so that Redis has nothing else to do. The background process
writes the rows to SQLite all the while. Exits 1 where the rate loses more than 15 %.

On a machine that others use too the processor time of a request says more than its rate.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.proxy.load import Contender, Sample, drive
from tests.bench.proxy.processes import Server, free_port, running
from tests.support.redis_server import RedisServer

MOST = 0.15
CONNECTIONS = 8
_CONFIG = """\
server: {{host: 127.0.0.1, port: 1}}
policies: {{dir: policies, default: default}}
redis: {{url: "{redis}"}}
embedder: {{enabled: false}}
models:
  - {{name: bench, provider: openai_compatible, base_url: "{upstream}", api_key: "${{BENCH_UPSTREAM_KEY}}",
     price: {{input: 2.5, output: 10}}}}
"""
_POLICY = """\
name: default
baseline: bench
cache: {exact: false, semantic: false}
rules:
  - {name: everything, use: [bench]}
"""
_BUDGETS = (("organisation", "default"), ("team", "bench"))


class Seen(NamedTuple):
    """One run: its rate, and microseconds of processor time a request took, by process."""

    per_second: float
    worker_us: float
    redis_us: float
    background_us: float

    @property
    def all_us(self) -> float:
        return self.worker_us + self.redis_us + self.background_us


class House(NamedTuple):
    """Two workers on the same Redis, with a key that both know."""

    urls: Mapping[str, str]
    processes: Mapping[str, psutil.Process]
    key: str

    def run(self, name: str, seconds: int) -> Seen:
        """Drive one worker once."""
        headers = {"authorization": f"Bearer {self.key}"}
        watched = [self.processes[one] for one in (name, "redis", "background")]
        before = [_cpu_s(process) for process in watched]
        sample = drive(
            Contender(name=name, url=f"{self.urls[name]}/v1", model="auto", headers=headers), CONNECTIONS, seconds
        )
        _clean(sample)
        spent = [1e6 * (_cpu_s(process) - was) / sample.requests for process, was in zip(watched, before, strict=True)]
        return Seen(sample.per_second, *spent)


def _clean(sample: Sample) -> None:
    if sample.errors or not sample.requests:
        raise RuntimeError(f"{sample.errors} errors in {sample.requests} requests")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """Start everything in ``folder``."""
    with ExitStack() as stack:
        upstream = f"http://127.0.0.1:{free_port()}/v1"
        port = upstream.rpartition(":")[2].partition("/")[0]
        command = [sys.executable, "-m", "tests.support.upstream", "--port", port]
        stack.enter_context(running(command, f"{upstream}/models", folder / "upstream.log", {}))
        redis = RedisServer(folder).start()
        stack.callback(redis.kill)
        config = folder / "gateway.yaml"
        config.write_text(_CONFIG.format(redis=redis.url, upstream=upstream))
        (folder / "policies").mkdir()
        (folder / "policies" / "default.yaml").write_text(_POLICY)
        env = {"GATEWAY_ADMIN_KEY": "bench", "GATEWAY_DATA_DIR": str(folder / "data"), "BENCH_UPSTREAM_KEY": "k"}
        (folder / "data").mkdir()
        workers = {name: _worker(stack, folder, config, env, name) for name in ("open", "shut")}
        background = stack.enter_context(_background(config, env))
        urls = {name: url for name, (url, _) in workers.items()}
        processes = {name: psutil.Process(server.pid) for name, (_, server) in workers.items()}
        processes |= {"redis": _redis(folder), "background": background}
        for scope, subject in _BUDGETS:
            _post(urls["open"], "budgets", {"scope": scope, "subject": subject, "limit_usd": 1e6})
        made = _post(urls["open"], "keys", {"name": "bench", "team": "bench", "budget_usd": 1e6})
        yield House(urls, processes, str(made["key"]))


def _worker(stack: ExitStack, folder: Path, config: Path, env: Mapping[str, str], name: str) -> tuple[str, Server]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.proxy.bookless", "--port", str(port), "--config", str(config)]
    command += ["--shut"] * (name == "shut")
    url = f"http://127.0.0.1:{port}"
    return url, stack.enter_context(running(command, f"{url}/healthz", folder / f"{name}.log", dict(env)))


@contextmanager
def _background(config: Path, env: Mapping[str, str]) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "gateway.background", "--config", str(config)]
    process = psutil.Popen(command, env={**os.environ, **env})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _redis(folder: Path) -> psutil.Process:
    """The server whose socket is in this folder."""
    mine = (one for one in psutil.process_iter() if one.name() == "redis-server" and str(folder) in _line(one))
    return next(mine)


def _line(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), process.cwd()])
    except psutil.Error:
        return ""


def _post(url: str, what: str, body: Mapping[str, object]) -> dict[str, object]:
    headers = {"authorization": "Bearer bench", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/admin/{what}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        made: dict[str, object] = json.load(reply)
    return made


def measure(served: House, rounds: int, seconds: int) -> dict[str, list[Seen]]:
    """Both by turns, whoever began the last round comes second in the next."""
    seen: dict[str, list[Seen]] = {"open": [], "shut": []}
    for name in seen:
        served.run(name, 1)
    for number in range(rounds):
        for name in list(seen)[:: 1 if number % 2 else -1]:
            seen[name].append(served.run(name, seconds))
    return seen


def share(seen: Mapping[str, list[Seen]]) -> float:
    """What the open books take of the rate: the median of the rounds' ratios."""
    pairs = zip(seen["open"], seen["shut"], strict=True)
    return 1 - statistics.median(one.per_second / other.per_second for one, other in pairs)


def show(seen: Mapping[str, list[Seen]], console: Console) -> None:
    table = Table("books", "requests/s", "worker µs", "redis µs", "background µs", "all µs of processor time")
    for name, runs in seen.items():
        columns = [[run.per_second, *run[1:], run.all_us] for run in runs]
        table.add_row(name, *(f"{statistics.median(column):,.0f}" for column in zip(*columns, strict=True)))
    console.print(table)
    opened, shut = ([statistics.median(run.worker_us for run in seen[name])] for name in ("open", "shut"))
    console.print(f"of the rate: {share(seen):.1%}; of the worker's processor time: {1 - shut[0] / opened[0]:.1%}")


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.proxy.share", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farthing-share-") as folder, house(Path(folder)) as served:
        seen = measure(served, options.rounds, options.seconds)
    show(seen, Console())
    return 0 if share(seen) <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
