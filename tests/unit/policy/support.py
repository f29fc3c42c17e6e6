"""Policies and requests for these tests, by a line each."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.config import DEFAULT_MODELS, ModelConfig
from gateway.features import extract
from gateway.policy.compile import CompiledPolicy, compile_policy, unmetered
from gateway.policy.engine import OnError
from gateway.policy.model import read_policy
from gateway.pricing import PriceBook
from gateway.types import ChatRequest, Decision, Features, Principal, RequestOptions, Score
from gateway.yamlfile import Document

MODELS = DEFAULT_MODELS
TWO_LOCAL = (*DEFAULT_MODELS, ModelConfig(name="local-big", local="qwen", supports=("tools", "json"), context=32_768))


def policy(
    rules: str,
    *,
    models: tuple[ModelConfig, ...] = MODELS,
    top: str = "name: test",
    on_error: OnError = unmetered,
) -> CompiledPolicy:
    """``rules``: one flow mapping a line."""
    lines = [f"  - {line.strip()}" for line in rules.strip().splitlines()]
    document = Document("\n".join([top, "rules:", *lines]), "test.yaml")
    return compile_policy(read_policy(document), document, models, PriceBook.load(models), on_error)


def features(
    prompt: str = "What is the capital of France?",
    *,
    messages: list[Any] | None = None,
    body: dict[str, Any] | None = None,
    principal: Principal | None = None,
    options: RequestOptions | None = None,
    max_tokens: int | None = None,
) -> Features:
    request = ChatRequest(
        id="r",
        model="auto",
        messages=[{"role": "user", "content": prompt}] if messages is None else messages,
        fields={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in (body or {}).items()},
        max_tokens=max_tokens,
        options=options or RequestOptions(),
    )
    return extract(request, principal or Principal(key_id="k"), default_max_tokens=1024)


def away(**reasons: str) -> Any:
    """``away(gpt_4o_mini="no api_key is set")``: which models cannot be asked (dashes written as underscores)."""
    return {name.replace("_", "-"): reason for name, reason in reasons.items()}.get


def decide(compiled: CompiledPolicy, difficulty: float = 0.5, **changes: Any) -> Decision:
    asked = changes.pop("features", None) or features()
    changes.setdefault("unavailable", away())
    return compiled.decide(asked, Score(difficulty=difficulty), **changes)
