"""Embeddings over OpenAI's wire format: this machine's own process or any hosted one."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.backends import connect, translate
from gateway.backends.http1 import HttpFailure
from gateway.backends.openai_http import MAX_ERROR_BYTES, MAX_REPLY_BYTES
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable

TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 1.0
AWAY_S = 1.0


class _Item(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Reply(msgspec.Struct):
    data: list[_Item]
    model: str = ""


class HttpEmbedder:
    """A `protocols.Embedder` at ``base_url`` (which ends where ``/embeddings`` begins), over TCP or a Unix socket.

    A call takes at most ``timeout_s`` seconds; after a failure that is not the texts' fault all calls fail at once for
    ``away_s`` seconds. An embedding is never worth waiting for.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        uds: str | None = None,
        timeout_s: float = TIMEOUT_S,
        away_s: float = AWAY_S,
    ) -> None:
        self._model = model
        headers = [("Content-Type", "application/json")]
        self._endpoint = connect.Endpoint(
            base_url.rstrip("/") + "/embeddings",
            headers=[*headers, ("Authorization", f"Bearer {api_key}")] if api_key else headers,
            uds=uds,
            connect_timeout=min(CONNECT_TIMEOUT_S, timeout_s),
            read_timeout=timeout_s,
            timeout=timeout_s,
        )
        self._away_s, self._away_until = away_s, 0.0
        self._id: str | None = None

    @property
    def id(self) -> str | None:
        """See `protocols.Embedder.id`."""
        return self._id

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `protocols.Embedder.embed`."""
        if (left := self._away_until - time.monotonic()) > 0:
            raise UpstreamUnavailable("the embedder is away", connect=True, retry_after=left)
        try:
            status, headers, body = await self._post(texts)
        except HttpFailure as error:
            raise self._away(translate.before_reply(error)) from error
        if status != 200:
            failure = translate.from_status(status, headers, body)
            raise self._away(failure) if isinstance(failure, UpstreamUnavailable) else failure
        return self._vectors(body, len(texts))

    async def close(self) -> None:
        """Release connections."""
        await self._endpoint.close()

    async def _post(self, texts: Sequence[str]) -> tuple[int, Mapping[str, str], bytes]:
        body = msgspec.json.encode({"model": self._model, "input": texts, "encoding_format": "base64"})
        reply = await self._endpoint.call(body)
        try:
            limit = MAX_REPLY_BYTES if reply.status == 200 else MAX_ERROR_BYTES
            return reply.status, reply.headers, await reply.whole(limit) or b""
        finally:
            reply.close()

    def _away(self, failure: UpstreamError) -> UpstreamError:
        self._away_until = time.monotonic() + self._away_s
        return failure

    def _vectors(self, body: bytes, count: int) -> NDArray[np.float32]:
        try:
            reply = msgspec.json.decode(body, type=_Reply)
            rows = [_vector(item.embedding) for item in sorted(reply.data, key=lambda item: item.index)]
            vectors = np.stack(rows)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise self._away(UpstreamBroken(f"the embedder's reply cannot be read: {error}")) from None
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if len(rows) != count or not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
            raise self._away(UpstreamBroken("the embedder's reply is not one vector a text"))
        self._id = _identity(reply.model or self._model, vectors.shape[1])
        return np.asarray(vectors / lengths, dtype=np.float32)


def _vector(embedding: str | list[float]) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
    return np.asarray(embedding, dtype=np.float32)


def _identity(model: str, dimension: int) -> str:
    """Our own process names model, pooling and dimension; elsewhere the pooling is the provider's affair."""
    return model if model.endswith(f"/{dimension}") else f"{model}/hosted/{dimension}"
