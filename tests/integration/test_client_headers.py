"""The client's headers stay here: an upstream sees none of them, but for a short list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = {
    "cookie": "session=tasty",
    "x-api-key": "sk-someone",
    "proxy-authorization": "Basic c2VjcmV0",
    "x-gateway-tags": "hush",
    "x-gateway-session": "whisper",
    "x-gateway-quality": "7",
    "referer": "https://intranet/secret",
    "x-custom": "mine",
    "user-agent": "my-agent/1",
    "openai-organization": "org-mine",
}
KNOWN = {"host", "content-type", "content-length", "authorization", "user-agent", "accept", "accept-encoding"}


@pytest.mark.parametrize("stream", [False, True])
async def test_no_header_of_the_client_reaches_an_upstream(gate: Gateway, upstream: Upstream, stream: bool) -> None:
    key = await gate.key()

    reply = await gate.chat(key=key, headers=SECRETS, stream=stream)

    assert reply.status_code == 200, reply.text
    [received] = upstream.requests
    assert {name.lower() for name, _ in received.headers} <= KNOWN
    assert received.header("authorization") == "Bearer upstream-secret"
    seen = str(received.headers)
    assert key not in seen
    assert not [value for value in SECRETS.values() if len(value) > 1 and value in seen]


async def test_a_retry_and_the_next_target_see_as_little(tmp_path: Path, upstream: Upstream) -> None:
    policy: Any = {"name": "default", "rules": [{"name": "all", "use": ["big", "second"]}]}
    upstream.plans["big"] = Plan(status=503)
    models = [hosted("big", upstream.base_url, max_retries=1), hosted("second", upstream.base_url, api_key="other")]
    async with gateway(tmp_path, models, [policy]) as gate:
        key = await gate.key()
        assert (await gate.chat(key=key, headers=SECRETS)).status_code == 200

    first, retry, second = upstream.requests
    assert {name.lower() for received in upstream.requests for name, _ in received.headers} <= KNOWN
    assert [received.header("authorization") for received in (first, retry, second)] == [
        "Bearer upstream-secret",
        "Bearer upstream-secret",
        "Bearer other",
    ]


async def test_the_admin_key_does_not_leave_either(gate: Gateway, upstream: Upstream) -> None:
    from tests.support.gateway import ADMIN

    assert (await gate.chat(key=ADMIN)).status_code == 200

    assert ADMIN not in str(upstream.requests[0].headers)


async def test_a_local_model_gets_no_credential_at_all(tmp_path: Path, upstream: Upstream) -> None:
    policy: Any = {"name": "default", "rules": [{"name": "all", "use": ["small"]}]}
    async with gateway(tmp_path, [local("small", upstream.base_url)], [policy]) as gate:
        await gate.chat(key=await gate.key(), headers=SECRETS)

    assert upstream.requests[0].header("authorization") is None


async def test_beta_headers_are_what_is_forwarded(gate: Gateway, upstream: Upstream) -> None:
    await gate.chat(headers={"openai-beta": "assistants=v2"})

    assert upstream.requests[0].header("openai-beta") == "assistants=v2"


async def test_what_upstream_sets_does_not_reach_the_client(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(headers={"set-cookie": "their=cookie", "x-ratelimit-remaining-requests": "1"})

    reply = await gate.chat()

    assert "set-cookie" not in reply.headers
    assert "x-ratelimit-remaining-requests" not in reply.headers
