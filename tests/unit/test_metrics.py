"""What Prometheus reads after rows were observed, in one process and in several."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import FLUSH_S, Metrics
from tests.support.ledger import entry
from tests.support.pace import allowed


def values(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render()[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return values(metrics).get((name, frozenset(labels.items())), 0.0)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(models=["local-small", "big"], rules=["easy", "hard"])


def test_one_row_updates_everything_about_its_request(metrics: Metrics) -> None:
    metrics.observe(
        entry(
            "r1",
            cached_tokens=3,
            cost_nano=1_500_000_000,
            saved_nano=500_000_000,
            duration_ms=300.0,
            ttft_ms=40.0,
            overhead_ms=1.0,
            detail={"attempts": [{}, {}, {}]},
        )
    )
    row = {"model": "local-small", "rule": "easy", "cache": "miss", "served": "local", "status": "ok"}
    assert value(metrics, "gateway_requests_total", **row) == 1
    assert value(metrics, "gateway_tokens_total", model="local-small", kind="prompt") == 10
    assert value(metrics, "gateway_tokens_total", model="local-small", kind="cached") == 3
    assert value(metrics, "gateway_cost_usd_total", model="local-small") == 1.5
    assert value(metrics, "gateway_saved_usd_total", model="local-small") == 0.5
    assert value(metrics, "gateway_retries_total", model="local-small") == 2
    where = {"model": "local-small", "served": "local"}
    assert value(metrics, "gateway_request_duration_seconds_bucket", le="0.3", **where) == 1
    assert value(metrics, "gateway_request_duration_seconds_bucket", le="0.1", **where) == 0
    assert value(metrics, "gateway_request_duration_seconds_sum", **where) == pytest.approx(0.3)
    assert value(metrics, "gateway_time_to_first_token_seconds_count", **where) == 1
    assert value(metrics, "gateway_overhead_seconds_sum") == pytest.approx(0.001)


def test_the_opentelemetry_names_show_the_same_numbers(metrics: Metrics) -> None:
    metrics.observe(entry("r1", duration_ms=300.0, ttft_ms=40.0))
    where = {"gen_ai_request_model": "local-small", "gateway_served": "local"}
    assert value(metrics, "gen_ai_server_request_duration_seconds_sum", **where) == pytest.approx(0.3)
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count", **where) == 1
    tokens = {"gen_ai_request_model": "local-small", "gen_ai_token_type": "output"}
    assert value(metrics, "gen_ai_client_token_usage_sum", **tokens) == 5


def test_names_nobody_configured_are_other_and_no_new_series(metrics: Metrics) -> None:
    for number in range(50):
        metrics.observe(entry(f"r{number}", model=f"made-up-{number}", rule=f"rule-{number}"))
    row = {"model": "other", "rule": "other", "cache": "miss", "served": "local", "status": "ok"}
    assert value(metrics, "gateway_requests_total", **row) == 50
    assert len(metrics._by_raw) == 0
    assert "made-up" not in metrics.render()[0].decode()


def test_pinned_requests_and_hits_are_told_apart_from_unknown_rules(metrics: Metrics) -> None:
    for rule in ("pinned", "cache"):
        metrics.observe(entry(rule, rule=rule))
        row = {"model": "local-small", "cache": "miss", "served": "local", "status": "ok"}
        assert value(metrics, "gateway_requests_total", rule=rule, **row) == 1


def test_a_reload_brings_new_names(metrics: Metrics) -> None:
    metrics.observe(entry("r1", model="fresh"))
    metrics.configured(["fresh"], ["easy"])
    metrics.observe(entry("r2", model="fresh"))
    row = {"rule": "easy", "cache": "miss", "served": "local", "status": "ok"}
    assert value(metrics, "gateway_requests_total", model="fresh", **row) == 1
    assert value(metrics, "gateway_requests_total", model="other", **row) == 1


def test_savings_may_fall_again(metrics: Metrics) -> None:
    metrics.observe(entry("r1", saved_nano=3 * 10**9))
    metrics.observe(entry("r2", saved_nano=-(10**9)))
    assert value(metrics, "gateway_saved_usd_total", model="local-small") == pytest.approx(2.0)


def test_refusals_are_counted_by_a_bounded_set_of_codes(metrics: Metrics) -> None:
    metrics.refused("rate_limit_exceeded")
    for number in range(500):
        metrics.refused(f"code_{number}")
    metrics.refused('evil"} 1\nfake')
    found = {
        dict(labels)["code"]: n for (name, labels), n in values(metrics).items() if name == "gateway_refused_total"
    }
    assert found["rate_limit_exceeded"] == 1
    assert len(found) <= 61
    assert sum(found.values()) == 502
    assert found["other"] >= 2


def test_events(metrics: Metrics) -> None:
    metrics.redis_away()
    metrics.cel_error("easy")
    metrics.cel_error("who")
    metrics.config_rejected()
    metrics.inflight.inc()
    metrics.inflight.inc()
    metrics.inflight.dec()
    assert value(metrics, "gateway_redis_away_total") == 1
    assert value(metrics, "gateway_cel_errors_total", rule="easy") == 1
    assert value(metrics, "gateway_cel_errors_total", rule="other") == 1
    assert value(metrics, "gateway_config_rejected_total") == 1
    assert value(metrics, "gateway_in_flight") == 1


async def test_rows_reach_prometheus_without_anybody_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, flushed = Metrics(["local-small"], ["easy"]), asyncio.Event()

    def flush() -> None:
        Metrics.flush(metrics)
        flushed.set()

    monkeypatch.setattr(metrics, "flush", flush)
    metrics.observe(entry("r1"))
    assert metrics.registry.get_sample_value("gateway_overhead_seconds_count") == 0
    await asyncio.wait_for(flushed.wait(), 40 * FLUSH_S)
    assert metrics.registry.get_sample_value("gateway_overhead_seconds_count") == 1


_WORKER = """
import sys
from gateway.metrics import Metrics
from tests.support.ledger import entry
metrics = Metrics(["local-small"], ["easy"])
for number in range(int(sys.argv[1])):
    metrics.observe(entry(str(number), saved_nano=-1_000_000_000))
metrics.inflight.inc()
metrics.flush()
print("done", flush=True)
sys.stdin.read()
"""


def test_any_worker_shows_all_of_them_also_one_that_is_gone(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _WORKER]
    workers = [
        subprocess.Popen([*command, count], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for count in ("3", "4")
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "done\n"
    workers[0].communicate("")
    shower = (
        "from pathlib import Path\n"
        "from gateway.metrics import Metrics\n"
        "from gateway.supervisor.parts import forget_gauges\n"
        f"forget_gauges(Path({str(tmp_path)!r}), {workers[0].pid})\n"
        "print(Metrics().render()[0].decode())"
    )
    text = subprocess.run([sys.executable, "-c", shower], env=env, capture_output=True, text=True, check=True).stdout
    workers[1].communicate("")
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "_bucket" not in sample.name
    }
    assert found["gateway_requests_total"] == 7
    assert found["gateway_saved_usd_total"] == -7
    assert found["gateway_in_flight"] == 1
    assert found["gateway_request_duration_seconds_count"] == 7
    assert found["gen_ai_server_request_duration_seconds_count"] == 7


def test_observing_a_row_is_cheap(metrics: Metrics) -> None:
    row = entry("r1", ttft_ms=20.0, detail={"attempts": [{}]})

    async def run() -> float:
        started = time.perf_counter()
        for _ in range(5000):
            metrics.observe(row)
        metrics.flush()
        return (time.perf_counter() - started) / 5000

    best = min(asyncio.run(run()) for _ in range(5))
    print(f"{best * 1e6:.1f} µs a row")
    assert best < allowed(50e-6)
