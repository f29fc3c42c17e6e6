"""``POST /v1/embeddings`` in OpenAI's wire format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from gateway.errors import InvalidRequest
from gateway.http.parse import checked
from gateway.http.unary import UnaryEndpoint, counted, request_of, text_parts
from gateway.unary import Asked

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Body(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: str | list[str | list[TokenId] | TokenId]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    user: str | None = None


_body = msgspec.json.Decoder(_Body)


class EmbeddingsEndpoint(UnaryEndpoint):
    """An ASGI app."""

    def read(self, raw: bytes, headers: Mapping[str, str], request_id: str) -> Asked:
        """See `Endpoint.read`."""
        return embeddings_request(raw, headers, request_id)


def embeddings_request(raw: bytes, headers: Mapping[str, str], request_id: str) -> Asked:
    """Read an embeddings request: a text, texts, one array of token ids or several.

    Raises:
        InvalidRequest: naming the field or header.
    """
    fields, body = checked(raw, _body)
    given = [body.input] if isinstance(body.input, str) else body.input
    texts = [one for one in given if isinstance(one, str)]
    ids = [one for one in given if isinstance(one, int)]
    arrays = [one for one in given if isinstance(one, list)]
    if len(given) not in (len(texts), len(ids), len(arrays)):
        raise InvalidRequest("'input' must be texts or arrays of token ids, not both", param="input")
    if not all(arrays):
        raise InvalidRequest("'input' must not have an empty array of token ids", param="input")
    parts = text_parts(texts)
    return Asked(
        operation="embeddings",
        request=request_of(request_id, fields, parts, headers, model=body.model, user=body.user),
        inputs=counted(1 if ids else len(given)),
        tokens=len(ids) + sum(map(len, arrays)) if ids or arrays else None,
    )
