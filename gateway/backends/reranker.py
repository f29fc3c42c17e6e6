"""A cross-encoder over `/v1/rerank` (vLLM's and Jina's wire format): this machine's embedding process or any URL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from gateway.backends.auxiliary import AuxiliaryModel
from gateway.config import Settings, socket_path
from gateway.protocols import Used


class _Result(msgspec.Struct):
    index: int
    relevance_score: float


class _Reply(msgspec.Struct):
    results: list[_Result]


class HttpReranker:
    """``base_url`` ends where ``/rerank`` begins; the rest is as for `AuxiliaryModel`."""

    def __init__(
        self, base_url: str, model: str, api_key: str | None = None, *, uds: str | None = None, timeout_s: float
    ) -> None:
        self._model = model
        url = base_url.rstrip("/") + "/rerank"
        self._upstream = AuxiliaryModel("cross-encoder", url, api_key, uds=uds, timeout_s=timeout_s)

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

    async def score(self, query: str, documents: Sequence[str], used: Used | None = None) -> list[float]:
        """0 … 1 for each document, in their order. ``used``: as for `protocols.Embedder`. Raises UpstreamError."""
        body = {"model": self._model, "query": query, "documents": documents}
        # It reads the question with each document anew.
        texts = [query] * len(documents) + list(documents)
        told = None if used is None else partial(used, "cross_encoder")
        return await self._upstream.call(body, lambda content: _scores(content, len(documents)), texts, told)

    async def close(self) -> None:
        """Release connections."""
        await self._upstream.close()


def _scores(content: bytes, count: int) -> list[float]:
    """Raises ValueError, msgspec.DecodeError."""
    results = msgspec.json.decode(content, type=_Reply).results
    scores = {result.index: result.relevance_score for result in results}
    if scores.keys() != set(range(count)) or not all(0 <= score <= 1 for score in scores.values()):
        raise ValueError("not one score from 0 to 1 a document")
    return [scores[index] for index in range(count)]
