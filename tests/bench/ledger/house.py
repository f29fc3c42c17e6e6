"""A real gateway on books that were filled: ``gateway serve``, a scripted upstream behind it, its dashboard open."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.bench.proxy.processes import free_port, running
from tests.support.processes import children_with
from tests.support.serving import Serving, environment, serving, write_config

ADMIN = "admin-of-the-benchmark"
POLICY = """
name: default
baseline: model-7
cache: {semantic: false}
rules:
  - {name: everything, use: [model-7]}
"""
BUDGETS: tuple[dict[str, Any], ...] = (
    {"scope": "organisation", "subject": "default", "limit_usd": 90_000, "window": "month", "name": "Everything"},
    {"scope": "model", "subject": "model-7", "limit_usd": 9_000, "window": "week", "name": "model-7"},
    *(
        {"scope": "team", "subject": f"team-{n}", "limit_usd": 6_000, "window": "month", "name": f"Team {n}"}
        for n in range(20)
    ),
)


class House:
    """The gateway, and the process that makes its pages."""

    def __init__(self, served: Serving) -> None:
        self.url, self._served = served.url, served

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """Signed in, as a browser is."""
        with httpx.Client(base_url=self.url, headers={"accept": "text/html"}, timeout=60) as client:
            assert client.post("/dashboard/sign-in", data={"key": ADMIN}).status_code == 303
            yield client

    def key(self) -> str:
        """An API key with every limit."""
        body = {"name": "bench", "budget_usd": 1_000_000, "rpm": 10**8, "tpm": 10**9, "concurrency": 10_000}
        return str(self._admin("/admin/keys", body).json()["key"])

    def cpu_s(self) -> float:
        """What making pages has taken so far; 0 where nobody has looked."""
        for process in children_with("gateway.dashboard", self._served.children()["worker"].pid):
            times = process.cpu_times()
            return float(times.user + times.system)
        return 0.0

    def budgets(self) -> None:
        """Define them, unless an earlier run has."""
        reply = httpx.get(f"{self.url}/admin/budgets", headers={"authorization": f"Bearer {ADMIN}"}, timeout=60)
        if not reply.json()["data"]:
            for definition in BUDGETS:
                self._admin("/admin/budgets", definition)

    def _admin(self, path: str, body: dict[str, Any]) -> httpx.Response:
        reply = httpx.post(self.url + path, json=body, headers={"authorization": f"Bearer {ADMIN}"}, timeout=60)
        assert reply.is_success, reply.text
        return reply


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """Serve the books in ``folder/data``."""
    port = free_port()
    upstream = f"http://127.0.0.1:{port}/v1"
    command = [sys.executable, "-m", "tests.support.upstream", "--port", str(port)]
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "default.yaml").write_text(POLICY)
    base = {"provider": "openai_compatible", "base_url": upstream, "api_key": "k"}
    models: list[dict[str, Any]] = [
        {"name": f"model-{n}", **base, "price": {"input": 2.5, "output": 10}} for n in range(2, 12)
    ]
    models += [{"name": f"local-{n}", **base, "usd_per_hour": 0.04} for n in range(2)]
    config = write_config(folder, models=models, auth={"admin_key": "${GATEWAY_ADMIN_KEY}"})
    with (
        running(command, f"{upstream}/models", folder / "upstream.log", {}),
        serving(config, environment(folder, GATEWAY_ADMIN_KEY=ADMIN)) as served,
    ):
        made = House(served)
        made.budgets()
        yield made
