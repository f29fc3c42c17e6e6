"""What no client of ``/admin`` and ``/v1/feedback`` should send is refused in OpenAI's error format: never a 500."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from tests.support.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module", autouse=True)
async def books(served: Gateway) -> None:
    """There are books to look into."""
    store = SqlStore(ledger_url(served.runtime.view.settings))
    await store.migrate()
    await store.close()


KEY = "/admin/keys/{key}"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/keys", {"name": "x", "self": 1}),
        ("PATCH", KEY, {"self": 1}),
        ("PATCH", KEY, {"key_id": "other"}),
        ("PATCH", KEY, {"rpm": -1}),
        ("PATCH", KEY, {"budget_usd": 1e300}),
        ("POST", KEY + "/rotate", {"overlap_s": 1e300}),
        ("POST", "/admin/budgets", {"self": 1}),
        ("POST", "/admin/budgets", {"scope": "team", "subject": "red", "limit_usd": -1}),
        ("PATCH", "/admin/budgets/{budget}", {"self": 1}),
        ("PATCH", "/admin/budgets/{budget}", {"budget_id": "other"}),
        ("PUT", "/admin/organisations/acme", {"self": 1}),
        ("PUT", "/admin/teams/acme/red", {"self": 1}),
        ("POST", "/admin/cache/purge", {"older_than_s": 1e308}),
        ("POST", "/admin/cache/purge", {"older_than_s": -1}),
        ("POST", "/admin/cache/purge", {}),
        ("POST", "/admin/policies/validate", {"policy": "a: " + "[" * 20_000}),
        ("POST", "/admin/policies/rollback", {"version": "../../etc/passwd"}),
        ("POST", "/admin/import", {"version": 1, "keys": [{"self": 1}]}),
        ("POST", "/v1/feedback", {"request_id": "req_\0", "score": 1}),
        ("POST", "/v1/feedback", {"request_id": "req_1", "score": 1e300}),
        ("GET", "/v1/requests/%00", None),
        ("GET", "/v1/requests/" + "x" * 5_000, None),
        ("GET", "/v1/models/%F0%9F%98%80%00", None),
    ],
)
async def test_is_refused_and_told_why(gate: Gateway, method: str, path: str, body: dict[str, Any] | None) -> None:
    made = await gate.admin("POST", "/admin/budgets", json={"scope": "team", "subject": "red", "limit_usd": 1})
    known = {"{key}": gate.key_id(await gate.key()), "{budget}": made.json()["id"]}
    for name, value in known.items():
        path = path.replace(name, value)

    reply = await gate.admin(method, path, **({} if body is None else {"json": body}))

    assert reply.status_code in (400, 404), (reply.status_code, reply.text)
    assert reply.json()["error"].keys() >= {"message", "type", "param", "code"}
    assert reply.json()["error"]["code"] != "internal_error"
