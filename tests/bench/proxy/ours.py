"""This gateway as it is run: `gateway serve` with the whole pipeline on, and a look into its ledger."""

import json
import os
import secrets
import signal
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import psutil

from tests.bench.proxy.load import EXACT, OURS, SEMANTIC, Contender, Sample
from tests.bench.proxy.processes import Server, Skipped, answers, free_port, running

_CONFIG = """\
server: {{host: 127.0.0.1, port: {port}, workers: 1}}
policies: {{dir: policies, default: default}}
models:
  - {{name: bench, provider: openai_compatible, base_url: "{upstream}", api_key: "${{BENCH_UPSTREAM_KEY}}",
     price: {{input: 2.5, output: 10}}}}
"""
_POLICY = """\
name: {name}
baseline: bench
cache: {{semantic: {semantic}}}
rules:
  - {{name: everything, use: [bench]}}
"""
_LIMITS = {"budget_usd": 1_000_000, "rpm": 100_000_000, "tpm": 1_000_000_000, "concurrency": 10_000}
_CATCH_UP_S = 30.0


class Gateway:
    """A running gateway and what was asked of it. `lag_s`: the longest wait for the ledger after a run."""

    def __init__(self, url: str, key: str, server: Server, data: Path) -> None:
        self._url = url
        self._key = key
        self._data = data
        self.server = server
        self.answered = self.sent = 0
        self.repeated_answered = self.repeated_sent = 0
        self.lag_s = 0.0

    def contenders(self) -> list[Contender]:
        """Unique prompts with the semantic tier off and on, and one prompt over and over."""
        return [
            self._contender(OURS, "auto"),
            self._contender(SEMANTIC, "auto:semantic"),
            self._contender(EXACT, "auto", same_prompt=True),
        ]

    def rows(self) -> dict[str, int]:
        """How many rows the ledger has, by what the cache did."""
        file = f"file:{self._data / 'ledger.sqlite3'}?mode=ro"
        try:
            with closing(sqlite3.connect(file, uri=True)) as connection:
                return dict(connection.execute("select cache, count(*) from ledger group by cache"))
        except sqlite3.OperationalError:  # not made yet
            return {}

    def worker(self) -> psutil.Process:
        """The worker process."""
        children = psutil.Process(self.server.pid).children(recursive=True)
        return next(child for child in children if "gateway.http.worker" in child.cmdline())

    def cold_start_s(self) -> float:
        """Kill the worker; seconds from the birth of its successor until that answers."""
        before = self.worker().pid
        os.kill(before, signal.SIGKILL)
        while not answers(f"{self._url}/healthz"):
            time.sleep(0.01)
        return time.time() - self.worker().create_time()

    def _contender(self, name: str, model: str, *, same_prompt: bool = False) -> Contender:
        headers = {"authorization": f"Bearer {self._key}"}
        url = f"{self._url}/v1"
        after = partial(self._after, same_prompt)
        return Contender(name=name, url=url, model=model, headers=headers, same_prompt=same_prompt, after=after)

    def _after(self, repeated: bool, sample: Sample) -> None:
        self.answered += sample.requests
        self.sent += sample.sent
        self.repeated_answered += sample.requests * repeated
        self.repeated_sent += sample.sent * repeated
        began = time.monotonic()
        while sum(self.rows().values()) < self.answered and time.monotonic() - began < _CATCH_UP_S:
            time.sleep(0.05)
        self.lag_s = max(self.lag_s, time.monotonic() - began)


@contextmanager
def gateway(upstream: str, folder: Path) -> Iterator[Gateway]:
    """`gateway serve` in front of `upstream`, with a key that has every limit and a budget. Raises Skipped."""
    command = Path(sys.executable).with_name("gateway")
    if not command.exists():
        raise Skipped(f"{command} is not there")
    port, admin_key, data = free_port(), secrets.token_hex(16), folder / "data"
    url = f"http://127.0.0.1:{port}"
    config = folder / "gateway.yaml"
    config.write_text(_CONFIG.format(port=port, upstream=upstream))
    (folder / "policies").mkdir()
    for name, semantic in (("default", "false"), ("semantic", "true")):
        (folder / "policies" / f"{name}.yaml").write_text(_POLICY.format(name=name, semantic=semantic))
    env = {"GATEWAY_ADMIN_KEY": admin_key, "GATEWAY_DATA_DIR": str(data), "BENCH_UPSTREAM_KEY": "sk-upstream"}
    serve = [str(command), "serve", "--config", str(config)]
    with running(serve, f"{url}/readyz", folder / "gateway.log", env) as server:
        yield Gateway(url, _new_key(url, admin_key), server, data)


def _new_key(url: str, admin_key: str) -> str:
    body = json.dumps({"name": "bench", **_LIMITS}).encode()
    headers = {"authorization": f"Bearer {admin_key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/admin/keys", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return str(json.load(reply)["key"])
    except urllib.error.HTTPError as failure:
        raise Skipped(f"POST /admin/keys: {failure.code} {failure.read().decode()}") from failure
