"""One CacheContext, computed once, used by both the read and the write: what a stored answer is an answer to.

The partition is a hard wall. Everything that could change an answer is part of it, by a deny-list of body fields: a
field nobody here has heard of separates. Inside a partition only the last user turn differs.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from gateway.cache.normal import normalise as normalise
from gateway.types import ChatRequest, Principal, Scope

_NO_WALL = frozenset({"messages", "model", "stream", "stream_options", "user", "metadata", "store"})
_QUESTION_MAX = 800


class CacheContext(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer may be found or kept.

    ``exact`` and ``normal`` are digests of the whole request (``normal``: other case and spacing, None where that
    could change the meaning); ``question`` is the text to compare inside ``partition``, '' where only an identical
    request may be answered. ``embedder``: whose vectors are in there.
    """

    partition: str
    exact: str
    normal: str | None
    question: str
    embedder: str = ""


def cache_context(
    request: ChatRequest, principal: Principal, *, scope: Scope, local_only: bool, embedder: str, arm: str = ""
) -> CacheContext:
    """The cache's view of a request. Pure; ``embedder`` is the identity of the embedding model in use, '' while that
    is not known: nothing is compared then. ``arm``: of an experiment, whose arms share no answers, since one would be
    credited with what another has paid for.

    What must stay local is in no cache that everybody shares: there, ``shared`` means the key's own.
    """
    scope = "key" if local_only and scope == "shared" else scope
    tenant = {"key": principal.key_id, "team": principal.team or principal.key_id, "shared": ""}[scope]
    messages, question = _split(request.messages)
    body = {name: _value(raw) for name, raw in request.fields.items() if name not in _NO_WALL}
    wall = [
        [principal.organisation, scope, tenant, request.model, request.options.quality, local_only],
        request.options.forward_headers,
        body,
        messages,
    ]
    if arm:
        wall.append(arm)
    if request.apart:
        wall.append([request.apart])
    walled = hashlib.sha256(msgspec.json.encode(wall, order="sorted"))
    text = question if isinstance(question, str) else None
    normal = normalise(text) if text is not None else None
    return CacheContext(
        partition=_digest(walled, b"semantic", embedder.encode()),
        exact=_digest(walled, b"exact", msgspec.json.encode(question, order="sorted")),
        normal=None if normal is None else _digest(walled, b"normal", normal.encode()),
        question=text if text is not None and embedder and _comparable(request, text) else "",
        embedder=embedder,
    )


def _value(raw: msgspec.Raw) -> Any:
    """A field's value; as it was written where it fits no number of ours (1e999)."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return raw


def _digest(walled: Any, kind: bytes, last: bytes) -> str:
    digest = walled.copy()
    digest.update(b"\0" + kind + b"\0" + last)
    return str(digest.hexdigest()[:32])


def _split(messages: list[dict[str, Any]]) -> tuple[list[Any], Any]:
    """The history, and the content of the last turn if it is the user's (text parts joined), else None."""
    last = messages[-1]
    if last.get("role") != "user":
        return messages, None
    rest = {name: value for name, value in last.items() if name != "content"}
    return [*messages[:-1], rest], _joined(last.get("content"))


def _joined(content: Any) -> Any:
    """A single text part means what the bare string means; anything else stays as it is."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        part = content[0]
        if part.keys() == {"type", "text"} and part["type"] == "text" and isinstance(part["text"], str):
            return part["text"]
    return content


def _comparable(request: ChatRequest, text: str) -> bool:
    """Whether a similar question may be answered alike: the encoder must have seen all of it, and a choice of
    tools, several answers or log-probabilities are never guessed.
    """
    if request.n != 1 or request.logprobs or not text.strip() or len(text) > _QUESTION_MAX:
        return False
    return not request.fields.keys() & {"tools", "functions", "modalities", "audio"}
