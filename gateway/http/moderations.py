"""``POST /v1/moderations`` in OpenAI's wire format: a text, texts, or parts of which some are images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.http.parse import checked
from gateway.http.unary import UnaryEndpoint, counted, request_of, text_parts
from gateway.unary import Asked


class _Body(msgspec.Struct):
    input: str | list[str | dict[str, Any]]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None


_body = msgspec.json.Decoder(_Body)


class ModerationsEndpoint(UnaryEndpoint):
    """An ASGI app."""

    def read(self, raw: bytes, headers: Mapping[str, str], request_id: str) -> Asked:
        """See `Endpoint.read`."""
        return moderations_request(raw, headers, request_id)


def moderations_request(raw: bytes, headers: Mapping[str, str], request_id: str) -> Asked:
    """Read a moderation request; where it names no model, that is left to the configuration.

    Raises:
        InvalidRequest: naming the field or header.
    """
    fields, body = checked(raw, _body)
    given = [body.input] if isinstance(body.input, str) else body.input
    texts = [one for one in given if isinstance(one, str)]
    parts = [one for one in given if isinstance(one, dict)]
    if texts and parts:
        raise InvalidRequest("'input' must be texts or parts, not both", param="input")
    for place, part in enumerate(parts):
        if not isinstance(part.get("type"), str):
            raise InvalidRequest(f"'input[{place}].type' must be a string", param=f"input[{place}].type")
    parts += text_parts(texts, empty=True)
    return Asked(
        operation="moderations",
        request=request_of(request_id, fields, parts, headers, model=body.model),
        inputs=counted(len(given)),
    )
