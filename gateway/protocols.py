"""The seams: each has two real implementations and one contract test that runs over both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gateway.types import ChatRequest, Chunk, Content, Features, LedgerEntry, Score, Usage

Helper = Literal["embedder", "cross_encoder"]
"""A model that helps to decide: no request is answered by it, but where it is hosted it is paid for."""
Used = Callable[[Helper, "Usage"], None]
"""Is told what one call of a helper used."""


class Backend(Protocol):
    """Something that answers chat completions: one configured model at one provider."""

    def chat(self, request: ChatRequest, *, timeout_s: float | None = None) -> AsyncIterator[Chunk]:
        """Ask upstream as the client asked: a stream gives a chunk an event, a plain call one chunk with ``final``.

        The connection is made on the first ``__anext__``; leaving the iterator (``aclose``) cancels upstream.
        A stream always asks upstream for usage, whether or not the client did.

        Raises:
            UpstreamRefused, UpstreamUnavailable, UpstreamTimeout: before the first chunk.
            UpstreamBroken: after the first chunk.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class Embedder(Protocol):
    """Texts to unit vectors."""

    @property
    def id(self) -> str | None:
        """Model, pooling and dimension, e.g. ``all-MiniLM-L6-v2/mean/384``; None until the first reply."""
        ...

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> NDArray[np.float32]:
        """float32 array of shape (len(texts), dimension), rows of length 1. ``used`` is told of a call that may be
        billed, also of one that failed. Raises UpstreamError.
        """
        ...

    async def close(self) -> None: ...


class Scorer(Protocol):
    """Features (and, where it can use one, the embedding) to a difficulty."""

    def wants_embedding(self, features: Features) -> bool:
        """Whether the embedding of the last user turn could change where the request goes."""
        ...

    def score(self, features: Features, embedding: NDArray[np.float32] | None = None) -> Score:
        """Pure and quick (≤ 0.5 ms)."""
        ...


class LedgerStore(Protocol):
    """The books in SQL. One writer (the background process); readers anywhere, never on the hot path."""

    async def migrate(self) -> None:
        """Bring the schema to the newest version; safe to call again."""
        ...

    async def append(self, entries: Sequence[LedgerEntry]) -> int:
        """Insert, idempotent by ``request_id`` (a ``crashed`` row gives way to a settled one). Returns new rows."""
        ...

    async def get(self, request_id: str) -> LedgerEntry | None: ...

    async def recent(self, limit: int = 50) -> list[LedgerEntry]:
        """The newest rows first."""
        ...

    async def append_encoded(self, entries: Sequence[bytes]) -> int:
        """What ``append`` does, for the JSON of entries as they come from the stream. Raises LedgerRefused."""
        ...

    async def rate(self, scores: Mapping[str, float]) -> list[str]:
        """Put feedback (−1 … 1 by request id) on rows; the last counts. Returns the requests that have no row."""
        ...

    async def put_contents(self, kept: Sequence[Content]) -> None:
        """Keep prompts and answers, as their policy says; the first of a request stays."""
        ...

    async def content(self, request_id: str) -> Content | None:
        """What is kept of a request's prompt and answer, as it is stored."""
        ...

    async def summary(self, since_ms: int, until_ms: int) -> Mapping[str, Any]:
        """Totals and breakdowns of a period, from the rollups: see :mod:`gateway.ledger.summary`."""
        ...

    async def put_key(self, record: Mapping[str, Any]) -> None:
        """Insert or replace the definition of an API key (hash, never the key)."""
        ...

    async def keys(self) -> list[dict[str, Any]]: ...

    async def put_definition(self, field: str, value: str) -> None:
        """Insert or replace the JSON of an organisation, team or budget; an empty value takes it away."""
        ...

    async def definitions(self) -> dict[str, str]:
        """Their JSON by field: ``team:default/red``, ``budget:bud_…``."""
        ...

    async def close(self) -> None: ...
