"""One name for a model, however a bill, a provider or a configuration spells it."""

from __future__ import annotations

import re

from gateway.config import ModelConfig

_SNAPSHOT = re.compile(r"-(?:20\d\d-?[01]\d-?[0-3]\d|latest)$")
_PUNCTUATION = re.compile(r"[\s._]+")


def plain(model: str) -> str:
    """``anthropic/claude-haiku-4-5-20251001`` and ``Claude Haiku 4.5`` are both ``claude-haiku-4-5``."""
    name = _PUNCTUATION.sub("-", model.strip().lower().rsplit("/", 1)[-1])
    return _SNAPSHOT.sub("", name)


def vendor(model: ModelConfig) -> str:
    """Who bills a model: ``openai``, ``anthropic`` …; '' where that cannot be told, as for a compatible server."""
    if model.kind == "openai":
        return "openai"
    prefix, slash, _ = model.upstream_name.partition("/")
    if model.kind == "litellm":
        return prefix if slash else ("anthropic" if plain(prefix).startswith("claude") else "openai")
    return ""
