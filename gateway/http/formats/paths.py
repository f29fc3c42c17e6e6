"""Which path speaks which format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.http.endpoint import Endpoint, Load
from gateway.http.formats.completions import COMPLETIONS
from gateway.http.formats.counting import CountEndpoint
from gateway.http.formats.exchange import TranslatedEndpoint
from gateway.http.formats.messages import MESSAGES
from gateway.http.formats.responses import RESPONSES

if TYPE_CHECKING:
    from gateway.runtime import Runtime

_FORMATS = {"/v1/completions": COMPLETIONS, "/v1/messages": MESSAGES, "/v1/responses": RESPONSES}


def endpoints(runtime: Runtime, load: Load) -> dict[str, Endpoint[Any]]:
    """All of them, by path."""
    found: dict[str, Endpoint[Any]] = {path: TranslatedEndpoint(runtime, load, form) for path, form in _FORMATS.items()}
    return found | {"/v1/messages/count_tokens": CountEndpoint(runtime, load)}
