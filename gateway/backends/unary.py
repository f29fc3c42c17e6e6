"""Calls that are answered in one piece and are no chat: embeddings and moderations, in OpenAI's wire format.

A target of theirs is a `protocols.Backend` like any other, so that retries, circuit breakers and equal servers are
those of chat; what it yields is one final chunk with the whole reply.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gateway.backends.usage import read_usage
from gateway.backends.wire import reported
from gateway.errors import UpstreamBroken
from gateway.types import Chunk, Usage

Operation = Literal["embeddings", "moderations"]
"""A path under ``/v1``, here and upstream."""


class _Reply(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Reply).decode


def read_unary(body: bytes) -> Chunk:
    """A reply as one final chunk.

    Raises:
        UpstreamBroken: it is neither vectors nor verdicts.
        UpstreamUnavailable: it is an error under a status of success.
    """
    try:
        reply = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamBroken(f"upstream's reply cannot be read: {error}") from None
    usage = _usage(reply.usage)
    if reply.data is None and reply.results is None:
        if reply.error:
            raise reported(reply.error, usage)
        nothing = UpstreamBroken("upstream's reply has neither 'data' nor 'results'")
        nothing.used = usage
        raise nothing
    return Chunk(data=body, usage=usage, final=True)


def _usage(counted: Any) -> Usage | None:
    """Some count in all only."""
    if not isinstance(counted, dict):
        return None
    return read_usage(counted) or read_usage({"prompt_tokens": counted.get("total_tokens")})
