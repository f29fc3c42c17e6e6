"""Calls of the models that help to decide (an embedder, a cross-encoder): JSON over HTTP, never worth waiting for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from gateway.backends import connect, translate
from gateway.backends.http1 import HttpFailure
from gateway.backends.openai_http import MAX_ERROR_BYTES, MAX_REPLY_BYTES
from gateway.backends.usage import read_usage
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from gateway.tokens import estimate_tokens
from gateway.types import Usage

AWAY_S = 1.0
_CONNECT_TIMEOUT_S = 1.0

T = TypeVar("T")


class _Counted(msgspec.Struct):
    usage: Any = None


class AuxiliaryModel:
    """``url`` over TCP or a Unix socket (``uds``); ``what``: its name in errors.

    A call takes at most ``timeout_s`` seconds; after a failure that is not the request's fault all calls fail at once
    for ``away_s`` seconds.
    """

    def __init__(
        self,
        what: str,
        url: str,
        api_key: str | None = None,
        *,
        uds: str | None = None,
        timeout_s: float,
        away_s: float = AWAY_S,
    ) -> None:
        self._what, self._away_s, self._away_until = what, away_s, 0.0
        headers = [("Content-Type", "application/json")]
        self._endpoint = connect.Endpoint(
            url,
            headers=[*headers, ("Authorization", f"Bearer {api_key}")] if api_key else headers,
            uds=uds,
            connect_timeout=min(_CONNECT_TIMEOUT_S, timeout_s),
            read_timeout=timeout_s,
            timeout=timeout_s,
        )

    async def call(
        self,
        body: Mapping[str, Any],
        understand: Callable[[bytes], T],
        texts: Sequence[str],
        told: Callable[[Usage], None] | None,
    ) -> T:
        """What ``understand`` makes of the reply; it raises ValueError or msgspec.DecodeError where that is nonsense.

        ``told`` is what a call used that may be billed: by its reply, else by an estimate of ``texts``.

        Raises:
            UpstreamError: UpstreamRefused where the request is at fault.
        """
        if (left := self._away_until - time.monotonic()) > 0:
            raise UpstreamUnavailable(f"the {self._what} is away", connect=True, retry_after=left)
        try:
            content = await self._post(msgspec.json.encode(body))
            if told is not None:
                told(_usage(content, texts))
            return self._understood(content, understand)
        except UpstreamRefused:
            raise
        except UpstreamError as error:
            self._away_until = time.monotonic() + self._away_s
            if told is not None and isinstance(error, UpstreamTimeout):  # it computes, and bills, all the same
                told(_estimate(texts))
            raise

    async def _post(self, body: bytes) -> bytes:
        try:
            reply = await self._endpoint.call(body)
            try:
                content = await reply.whole(MAX_REPLY_BYTES if reply.status == 200 else MAX_ERROR_BYTES) or b""
            finally:
                reply.close()
        except HttpFailure as error:
            raise translate.before_reply(error) from error
        if reply.status != 200:
            raise translate.from_status(reply.status, reply.headers, content)
        return content

    def _understood(self, content: bytes, understand: Callable[[bytes], T]) -> T:
        try:
            return understand(content)
        except (msgspec.DecodeError, ValueError) as error:
            raise UpstreamBroken(f"the {self._what}'s reply cannot be read: {error}") from None

    async def close(self) -> None:
        """Release connections."""
        await self._endpoint.close()


def _usage(content: bytes, texts: Sequence[str]) -> Usage:
    """What a reply says it used; some count in all only. Where it says nothing, an estimate."""
    try:
        counted = msgspec.json.decode(content, type=_Counted).usage
    except msgspec.DecodeError:
        return _estimate(texts)
    total = {"prompt_tokens": counted.get("total_tokens")} if isinstance(counted, dict) else None
    return read_usage(counted) or read_usage(total) or _estimate(texts)


def _estimate(texts: Sequence[str]) -> Usage:
    return Usage(prompt_tokens=sum(map(estimate_tokens, texts)), source="estimated")
