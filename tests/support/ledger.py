"""Rows and key definitions for tests of the books."""

from __future__ import annotations

from typing import Any

from gateway.types import LedgerEntry

NOON = 1_767_268_800_000
"""2026-01-01T12:00:00Z"""


def entry(request_id: str, **changes: Any) -> LedgerEntry:
    """A plain answered request at noon."""
    fields: dict[str, Any] = {
        "ts_ms": NOON,
        "key_id": "k1",
        "policy": "default",
        "rule": "easy",
        "requested_model": "auto",
        "model": "local-small",
        "served": "local",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "usage_source": "reported",
        "cost_nano": 1000,
        "baseline_nano": 3000,
        "saved_nano": 2000,
        "duration_ms": 80.0,
    }
    return LedgerEntry(request_id=request_id, **(fields | changes))


def key_record(key_id: str, **changes: Any) -> dict[str, Any]:
    """The definition of a key as it stands in Redis and SQL."""
    fields: dict[str, Any] = {
        "id": key_id,
        "hash": f"{key_id:0>64}",
        "prefix": "fg-abc",
        "name": f"key {key_id}",
        "organisation": "default",
        "team": "",
        "tags": [],
        "rpm": None,
        "tpm": None,
        "concurrency": None,
        "budget_nano": None,
        "project": "",
        "role": "user",
        "models": [],
        "policies": [],
        "allowed_tags": [],
        "created_ms": 1_767_268_800_000,
        "expires_ms": None,
        "revoked_ms": None,
    }
    return fields | changes
