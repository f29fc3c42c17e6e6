"""What ``/v1/embeddings`` and ``/v1/moderations`` have in common: a body is read, and answered in one piece."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.http.endpoint import JSON, BrokenOff, Endpoint
from gateway.http.parse import TEXT_MAX, options
from gateway.http.protocol import WHOLE
from gateway.types import ChatRequest
from gateway.unary import Asked

if TYPE_CHECKING:
    from starlette.types import Scope, Send

    from gateway.types import Principal

AUTO = "auto"
MOST_INPUTS = 2048  # OpenAI's bound


class UnaryEndpoint(Endpoint[Asked]):
    """An ASGI app."""

    @abstractmethod
    def read(self, raw: bytes, headers: Mapping[str, str], request_id: str) -> Asked:
        """See `Endpoint.read`."""

    async def answer(self, asked: Asked, principal: Principal, scope: Scope, send: Send) -> None:
        """See `Endpoint.answer`."""
        reply = await self._runtime.unary.answer(self._runtime.view, asked, principal)
        try:
            await scope["extensions"][WHOLE]([*reply.headers, JSON], reply.body)
        except Exception as bug:
            raise BrokenOff from bug


def request_of(
    request_id: str,
    fields: Mapping[str, msgspec.Raw],
    parts: list[dict[str, Any]],
    headers: Mapping[str, str],
    *,
    model: str | None,
    user: str | None = None,
) -> ChatRequest:
    """A body whose inputs, as parts of one user's message, are there for features and gate to read.

    Raises:
        InvalidRequest: naming the header.
    """
    return ChatRequest(
        id=request_id,
        model=model or AUTO,
        messages=[{"role": "user", "content": parts}],
        fields=dict(fields),
        user=(user or "")[:TEXT_MAX],
        options=options(headers),
    )


def text_parts(texts: list[str], *, empty: bool = False) -> list[dict[str, Any]]:
    """``empty``: whether a text may be."""
    for place, text in enumerate(texts):
        if not text and not empty:
            raise InvalidRequest(f"'input[{place}]' must not be empty", param="input")
    return [{"type": "text", "text": text} for text in texts]


def counted(inputs: int) -> int:
    """How many inputs there are. Raises InvalidRequest where these are none, or too many."""
    if not 1 <= inputs <= MOST_INPUTS:
        raise InvalidRequest(f"'input' must have 1 to {MOST_INPUTS} entries, not {inputs}", param="input")
    return inputs
