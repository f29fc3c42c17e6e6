"""A gateway that sends its traces and metrics to a real OTLP collector, and one that sends nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.collector import Collector, attributes
from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream

SECRET = "the-planted-prompt-4711"
ROOT = Path(__file__).parents[2]
POLICY: Any = {
    "name": "default",
    "baseline": "big",
    "rules": [
        {"name": "stays-here", "when": "'confidential' in tags", "use": ["near"], "local_only": True},
        {"name": "all", "use": ["big", "spare"]},
    ],
}
STEPS = ["authenticate", "features", "gate", "admit", "recall", "reserve", "call", "reply", "settle"]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    with Collector.started() as started:
        yield started


def traced(folder: Path, upstream: Upstream, telemetry: dict[str, Any]) -> Any:
    url = upstream.base_url
    models = [hosted("big", url), hosted("spare", url), local("near", url)]
    return gateway(folder, models, [POLICY], telemetry=telemetry)


def only(spans: list[Any], name: str, kind: int = Span.SPAN_KIND_INTERNAL) -> Any:
    found = [each for each in spans if each.name == name and each.kind == kind]
    assert len(found) == 1, [each.name for each in spans]
    return found[0]


async def test_a_request_is_one_trace_with_a_span_for_each_step(
    tmp_path: Path, upstream: Upstream, collector: Collector
) -> None:
    upstream.enqueue(Plan(status=500), Plan(text="a b c d", prompt_tokens=7, completion_tokens=4))
    client = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with traced(tmp_path, upstream, {"otlp": collector.url}) as running:
        reply = await running.chat(SECRET, headers={"traceparent": client})
        assert reply.status_code == 200
        await running.rows(1)
    spans = collector.spans()
    root = only(spans, "chat spare", Span.SPAN_KIND_SERVER)
    assert (root.kind, root.trace_id.hex(), root.parent_span_id.hex()) == (
        Span.SPAN_KIND_SERVER,
        client.split("-")[1],
        client.split("-")[2],
    )
    about = attributes(root)
    assert about["gen_ai.operation.name"] == "chat"
    assert (about["gen_ai.request.model"], about["gen_ai.response.model"]) == ("auto", "spare")
    assert (about["gen_ai.usage.input_tokens"], about["gen_ai.usage.output_tokens"]) == (7, 4)
    assert about["gateway.cost_usd"] == reply.json()["usage"]["cost_usd"]
    assert about["gateway.request.id"] == reply.headers["x-gateway-request-id"]
    steps = [each for each in spans if each.parent_span_id == root.span_id]
    assert [each.name for each in sorted(steps, key=lambda each: each.start_time_unix_nano)][:3] == STEPS[:3]
    assert {each.name for each in steps} == {*STEPS, "decide"}
    assert all(root.start_time_unix_nano <= each.start_time_unix_nano for each in steps)
    assert all(each.start_time_unix_nano <= each.end_time_unix_nano <= root.end_time_unix_nano for each in steps)
    call = only(spans, "call")
    tries = [each for each in spans if each.parent_span_id == call.span_id]
    assert [(each.name, each.kind) for each in tries] == [
        ("chat big", Span.SPAN_KIND_CLIENT),
        ("chat spare", Span.SPAN_KIND_CLIENT),
    ]
    assert attributes(tries[0])["http.response.status_code"] == 500
    assert {each.trace_id for each in spans} == {root.trace_id}
    assert collector.resources()[0]["service.name"] == "farthing"


async def test_the_measurements_have_the_names_of_the_conventions(
    tmp_path: Path, upstream: Upstream, collector: Collector
) -> None:
    async with traced(tmp_path, upstream, {"otlp": collector.url}) as running:
        upstream.enqueue(Plan(text="one two three", prompt_tokens=11, completion_tokens=3, chunk_delay_s=0.02))
        async with running.open("hello there") as reply:
            await reply.aread()
        await running.rows(1)
    metrics = collector.metrics()
    assert metrics.keys() == {
        "gen_ai.client.token.usage",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gateway.cost",
        "gateway.saved",
    }
    usage = metrics["gen_ai.client.token.usage"].histogram.data_points
    assert {attributes(point)["gen_ai.token.type"]: point.sum for point in usage} == {"input": 11, "output": 3}
    assert metrics["gen_ai.server.request.duration"].unit == "s"


async def test_nothing_of_a_prompt_or_an_answer_is_sent(
    tmp_path: Path, upstream: Upstream, collector: Collector
) -> None:
    quoting = {"error": {"message": f"cannot answer {SECRET}", "code": "odd"}}
    async with traced(tmp_path, upstream, {"otlp": collector.url}) as running:
        await running.chat(SECRET, user=SECRET, headers={"x-gateway-tags": SECRET, "x-gateway-session": SECRET})
        upstream.enqueue(Plan(status=400, error=quoting))
        assert (await running.chat(f"{SECRET} again")).status_code == 400
        await running.rows(2)
    failed = [each for each in collector.spans() if "error.type" in attributes(each)]
    assert failed
    assert SECRET.encode() not in collector.everything()


async def test_content_is_sent_where_it_is_asked_for_but_never_of_a_local_only_request(
    tmp_path: Path, upstream: Upstream, collector: Collector
) -> None:
    async with traced(tmp_path, upstream, {"otlp": collector.url, "content": True}) as running:
        upstream.enqueue(Plan(text="the answer that was given"))
        await running.chat("a question anyone may see")
        confidential = {"x-gateway-tags": "confidential"}
        assert (await running.chat(SECRET, headers=confidential)).headers["x-gateway-model"] == "near"
        await running.rows(2)
    sent = collector.everything()
    assert b"a question anyone may see" in sent
    assert b"the answer that was given" in sent
    assert SECRET.encode() not in sent


async def test_a_collector_that_is_away_holds_up_nobody(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.telemetry.CLOSE_S", 0.2)
    async with traced(tmp_path, upstream, {"otlp": "http://127.0.0.1:9"}) as running:
        replies = await asyncio.gather(*(running.chat(f"question {n}") for n in range(20)))
        assert {reply.status_code for reply in replies} == {200}
        await running.rows(20)


async def test_refused_requests_and_clients_that_leave_have_a_trace_too(
    tmp_path: Path, upstream: Upstream, collector: Collector
) -> None:
    async with traced(tmp_path, upstream, {"otlp": collector.url}) as running:
        upstream.enqueue(Plan(text="word " * 50, chunks=50, chunk_delay_s=0.1))
        async with running.open("a long one") as reply:
            async for _ in reply.aiter_raw():
                break
        await _cancelled(running)
    root = next(each for each in collector.spans() if each.kind == Span.SPAN_KIND_SERVER)
    assert attributes(root)["error.type"] in ("cancelled", "other")


async def _cancelled(running: Gateway) -> None:
    rows = await running.rows(1)
    assert rows[0].status == "cancelled"


def test_off_costs_nothing_not_even_the_import(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom gateway.config import load\nfrom gateway.http.worker import build_runtime\n"
        "import asyncio\nasync def main():\n runtime = build_runtime(load())\n assert runtime.telemetry is None\n"
        " assert type(runtime.pipeline).__name__ == 'Pipeline'\nasyncio.run(main())\n"
        # redis-py imports the SDK's metrics by itself wherever they are installed.
        "own = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'google.protobuf', 'gateway.tracing')\n"
        "print([name for name in sys.modules if name.startswith(own)])"
    )
    env = {"GATEWAY_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    reply = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (reply.stdout.strip(), reply.returncode) == ("[]", 0), reply.stderr


@pytest.mark.parametrize(
    ("env", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_environment_can_switch_it_on_and_off(env: dict[str, str], on: bool) -> None:
    from gateway.config import TelemetryConfig
    from gateway.telemetry import wanted

    assert wanted(TelemetryConfig(), env) is on
