"""Embeddings over OpenAI's wire format: this machine's own process or any hosted one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.backends.auxiliary import AWAY_S, AuxiliaryModel
from gateway.protocols import Used

TIMEOUT_S = 2.0


class _Item(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Reply(msgspec.Struct):
    data: list[_Item]
    model: str = ""


class HttpEmbedder:
    """A `protocols.Embedder` at ``base_url`` (which ends where ``/embeddings`` begins).

    The rest is as for `AuxiliaryModel`.
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
        url = base_url.rstrip("/") + "/embeddings"
        self._upstream = AuxiliaryModel("embedder", url, api_key, uds=uds, timeout_s=timeout_s, away_s=away_s)
        self._id: str | None = None

    @property
    def id(self) -> str | None:
        """See `protocols.Embedder.id`."""
        return self._id

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> NDArray[np.float32]:
        """See `protocols.Embedder.embed`."""
        body = {"model": self._model, "input": texts, "encoding_format": "base64"}
        told = None if used is None else partial(used, "embedder")
        return await self._upstream.call(body, lambda content: self._vectors(content, len(texts)), texts, told)

    async def close(self) -> None:
        """Release connections."""
        await self._upstream.close()

    def _vectors(self, content: bytes, count: int) -> NDArray[np.float32]:
        """Raises ValueError, msgspec.DecodeError."""
        reply = msgspec.json.decode(content, type=_Reply)
        vectors = np.stack([_vector(item.embedding) for item in sorted(reply.data, key=lambda item: item.index)])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if len(vectors) != count or not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
            raise ValueError("not one vector a text")
        self._id = _identity(reply.model or self._model, vectors.shape[1])
        return np.asarray(vectors / lengths, dtype=np.float32)


def _vector(embedding: str | list[float]) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
    return np.asarray(embedding, dtype=np.float32)


def _identity(model: str, dimension: int) -> str:
    """Our own process names model, pooling and dimension; elsewhere the pooling is the provider's affair."""
    return model if model.endswith(f"/{dimension}") else f"{model}/hosted/{dimension}"
