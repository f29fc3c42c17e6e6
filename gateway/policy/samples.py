"""Requests that every expression is tried on when a policy is loaded."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.types import Features

_PLAIN = Features(
    prompt_tokens=13,
    max_tokens=1024,
    turns=1,
    messages=1,
    needs=(),
    tags=(),
    language="en",
    code=False,
    maths=False,
    privacy="",
    question="what",
    constraints=0,
    words=6,
    stream=False,
    quality=5,
    system_tokens=0,
    last_user_tokens=7,
    key="anonymous",
    team="",
    model="auto",
)
_RICH = msgspec.structs.replace(
    _PLAIN,
    prompt_tokens=9_000,
    max_tokens=4_096,
    turns=7,
    messages=15,
    needs=("json", "tools", "vision"),
    tags=("confidential", "team-a"),
    language="de",
    code=True,
    maths=True,
    privacy="email",
    question="",
    constraints=9,
    words=700,
    stream=True,
    quality=10,
    system_tokens=400,
    last_user_tokens=1_200,
    key="key-1",
    team="research",
    model="auto:default",
)
_EMPTY = msgspec.structs.replace(
    _PLAIN, prompt_tokens=6, turns=0, language="und", question="", words=0, quality=0, last_user_tokens=0
)
_TAGGED = msgspec.structs.replace(_RICH, tags=tuple(f"tag-{number}" for number in range(64)))


def _values(features: Features, difficulty: float, confidence: float) -> dict[str, Any]:
    scored = {"difficulty": difficulty, "scorer": "profile", "confidence": confidence}
    return msgspec.structs.asdict(features) | scored | {"hour": 14, "weekday": "tue", "budget_left": 0.5}


SAMPLES = {
    "a short question": _values(_PLAIN, 0.1, 0.9),
    "a long technical conversation": _values(_RICH, 0.9, 0.2),
    "a conversation without a user turn": _values(_EMPTY, 0.5, 0.5),
    "a request with 64 tags": _values(_TAGGED, 0.5, 0.5),
}
