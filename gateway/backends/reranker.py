"""A cross-encoder over `/v1/rerank` (vLLM's and Jina's wire format): this machine's embedding process or any URL."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from gateway.backends import connect, translate
from gateway.backends.http1 import HttpFailure
from gateway.backends.openai_http import MAX_ERROR_BYTES, MAX_REPLY_BYTES
from gateway.config import Settings, socket_path
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable

AWAY_S = 1.0
_CONNECT_S = 1.0


class _Result(msgspec.Struct):
    index: int
    relevance_score: float


class _Reply(msgspec.Struct):
    results: list[_Result]


class HttpReranker:
    """``base_url`` ends where ``/rerank`` begins. A call takes at most ``timeout_s``; after a failure all calls fail at
    once for a second: a second opinion is never worth waiting for.
    """

    def __init__(
        self, base_url: str, model: str, api_key: str | None = None, *, uds: str | None = None, timeout_s: float
    ) -> None:
        self._model, self._away_until = model, 0.0
        headers = [("Content-Type", "application/json")]
        self._endpoint = connect.Endpoint(
            base_url.rstrip("/") + "/rerank",
            headers=[*headers, ("Authorization", f"Bearer {api_key}")] if api_key else headers,
            uds=uds,
            connect_timeout=min(_CONNECT_S, timeout_s),
            read_timeout=timeout_s,
            timeout=timeout_s,
        )

    @classmethod
    def of(cls, settings: Settings) -> HttpReranker | None:
        """The configured one, here or elsewhere."""
        config = settings.config.cache.cross_encoder
        if config is None:
            return None
        timeout_s = config.timeout_ms / 1000
        if config.url is not None:
            return cls(config.url, config.model, config.api_key, timeout_s=timeout_s)
        socket = str(socket_path(settings.data_dir, "embed"))
        return cls("http://local/v1", config.model, uds=socket, timeout_s=timeout_s)

    async def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """0 … 1 for each document, in their order. Raises UpstreamError."""
        if (left := self._away_until - time.monotonic()) > 0:
            raise UpstreamUnavailable("the cross-encoder is away", connect=True, retry_after=left)
        try:
            return await self._score(query, documents)
        except UpstreamError:
            self._away_until = time.monotonic() + AWAY_S
            raise

    async def _score(self, query: str, documents: Sequence[str]) -> list[float]:
        body = msgspec.json.encode({"model": self._model, "query": query, "documents": documents})
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
        try:
            results = msgspec.json.decode(content, type=_Reply).results
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamBroken(f"the cross-encoder's reply cannot be read: {error}") from None
        scores = {result.index: result.relevance_score for result in results}
        if scores.keys() != set(range(len(documents))) or not all(0 <= score <= 1 for score in scores.values()):
            raise UpstreamBroken("the cross-encoder's reply is not one score from 0 to 1 a document")
        return [scores[index] for index in range(len(documents))]

    async def close(self) -> None:
        """Release connections."""
        await self._endpoint.close()
