"""Rows of the ledger with decisions and votes, as a gateway that routes by difficulty writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.features import extract
from gateway.types import ChatRequest, Decision, LedgerEntry, Principal, Score
from tests.support.ledger import NOON, entry


def voted(
    request_id: str,
    *,
    difficulty: float = 0.2,
    vote: float | None = None,
    model: str = "local-small",
    key: str = "k1",
    prompt: str = "What is the capital of France?",
    score: Score | None = None,
    detail: dict[str, Any] | None = None,
    **changes: Any,
) -> LedgerEntry:
    """A request that was decided by its difficulty and answered by ``model``; ``vote`` is its feedback."""
    asked = ChatRequest(id=request_id, model="auto", messages=[{"role": "user", "content": prompt}], fields={})
    features = extract(asked, Principal(key_id=key, team=changes.get("team", "")), default_max_tokens=1024)
    told = score or Score(difficulty=difficulty)
    decision = Decision(
        rule="easy",
        targets=(model,),
        difficulty=told.difficulty,
        contributions=told.contributions,
        scorer=told.scorer,
    )
    logged = {"features": msgspec.structs.replace(features, last_user_text=""), "decision": decision, "attempts": []}
    fields: dict[str, Any] = {
        "key_id": key,
        "model": model,
        "served": "local" if model.startswith("local") else "hosted",
        "ts_ms": NOON,
        "difficulty": told.difficulty,
        "feedback": vote,
        "prompt_tokens": 200,
        "completion_tokens": 100,
    }
    return entry(request_id, **(fields | changes), detail=msgspec.to_builtins({**logged, **(detail or {})}))
