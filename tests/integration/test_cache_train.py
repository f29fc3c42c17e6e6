"""The verifier learns from own traffic: hits that callers called wrong, a training, and a gateway that has reloaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml
from typer.testing import CliRunner

from gateway.cache.lessons import Lesson, lessons
from gateway.cache.verifier import Verifier, measure, shipped
from gateway.cache.words import read
from gateway.cli.app import app
from tests.support.gateway import ADMIN, Gateway, gateway, hosted
from tests.support.models import EMBED, embed_model, served
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORED, ASKED = "What is the capital of France?", "What's the capital of France?"
KEYS = 12


@pytest.fixture(scope="module")
def embedder() -> Iterator[str]:
    with served("embed", "--model", str(embed_model())) as address:
        yield f"{address}/v1"


@pytest_asyncio.fixture(loop_scope="module")
async def gate(
    tmp_path: Path, upstream_server: Upstream, upstream: Upstream, embedder: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("BIG_KEY", "upstream-secret")
    upstream.default = Plan(text="Paris is the capital of France", chunks=3)
    models = [hosted("big", upstream_server.base_url)]
    async with gateway(tmp_path, models, embedder={"url": embedder, "model": EMBED}) as running:
        yield running


async def hit(gate: Gateway, key: str) -> httpx.Response:
    """A partition's first would-be hit is never drawn to be checked."""
    before = gate.runtime.semantic.size
    assert (await gate.chat(STORED, key=key)).headers["x-gateway-cache"] == "miss"
    await until(lambda: gate.runtime.semantic.size == before + 1)
    return await gate.chat(ASKED, key=key)


async def reported(gate: Gateway, key: str, reply: httpx.Response) -> None:
    body = {"request_id": reply.headers["x-gateway-request-id"], "wrong_cache_hit": True}
    said = await gate.http.post("/v1/feedback", json=body, headers={"authorization": f"Bearer {key}"})
    assert said.json()["evicted"] is True


async def learnt(gate: Gateway) -> list[Lesson]:
    return [each async for each in lessons(gate.runtime.redis, gate.runtime.keys)]


async def train(gate: Gateway, out: Path) -> str:
    arguments = ["cache", "train", "--from-ledger", "--config", str(gate.folder / "gateway.yaml"), "--out", str(out)]
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert done.exit_code == 0, done.output
    return str(done.output)


def in_force(gate: Gateway) -> Verifier | None:
    return gate.runtime.semantic.judges.verifier


async def test_hits_that_were_called_wrong_are_given_no_more_once_it_was_trained_and_named(gate: Gateway) -> None:
    for number in range(KEYS):
        key = await gate.key(f"k{number}")
        reply = await hit(gate, key)
        assert reply.headers["x-gateway-cache"] == "semantic"
        await reported(gate, key, reply)
    found = await learnt(gate)
    assert {(each.source, each.same) for each in found} == {("reported", False)}
    assert len({each.tenant for each in found}) == len(found) == KEYS

    out = gate.folder / "own.json"
    assert "reported" in await train(gate, out)
    measures = measure(read(ASKED), read(STORED), 0.98)
    assert in_force(gate) is None  # nothing switches itself on
    file = gate.folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "cache": {"verifier": "own.json"}}))
    assert (await gate.admin("POST", "/admin/policies/reload")).status_code == 200
    verifier = in_force(gate)
    assert verifier is not None
    assert verifier.p_of(measures) < shipped().p_of(measures) - 0.2

    assert (await hit(gate, await gate.key("later"))).headers["x-gateway-cache"] == "miss"


async def test_an_operators_rejection_teaches_by_the_hits_the_entry_was_given_as(gate: Gateway) -> None:
    key = await gate.key()
    reply = await hit(gate, key)
    assert (
        await gate.admin("POST", f"/admin/cache/{reply.headers['x-gateway-cache-entry']}/reject")
    ).status_code == 200
    [lesson] = await learnt(gate)
    assert (lesson.source, lesson.same, lesson.tenant) == ("rejected", False, gate.key_id(key))


async def test_a_file_that_is_none_changes_nothing_and_says_why(gate: Gateway) -> None:
    (gate.folder / "own.json").write_text(json.dumps({"format": "other"}))
    file = gate.folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "cache": {"verifier": "own.json"}}))
    refused = await gate.admin("POST", "/admin/policies/reload")
    assert refused.status_code == 400
    assert "own.json" in refused.text
    assert in_force(gate) is None


async def test_with_nothing_learnt_there_is_nothing_to_train_on(gate: Gateway) -> None:
    arguments = ["cache", "train", "--from-ledger", "--config", str(gate.folder / "gateway.yaml")]
    done = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--out", str(gate.folder / "own.json")])
    assert done.exit_code == 1
    assert not (gate.folder / "own.json").exists()
