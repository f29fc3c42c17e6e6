"""``POST /v1/messages/count_tokens``: what a message would have for a prompt, without asking a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.types import Scope, Send

from gateway import deciding
from gateway.features import prompt_texts
from gateway.http import errors
from gateway.http.endpoint import JSON, Endpoint
from gateway.http.formats import messages
from gateway.http.protocol import WHOLE
from gateway.tokens import count_tokens
from gateway.types import ChatRequest

if TYPE_CHECKING:
    from gateway.errors import GatewayError
    from gateway.types import Principal


class CountEndpoint(Endpoint[ChatRequest]):
    """Counted here, by OpenAI's o200k_base whatever the model: nothing leaves this machine, and nothing is booked."""

    def read(self, raw: bytes, headers: Mapping[str, str], request_id: str) -> ChatRequest:
        return messages.read_to_count(raw, headers, request_id)

    def refusal(self, error: GatewayError, request_id: str) -> Response:
        return errors.error_response(error, request_id, messages.refusal(error, request_id))

    async def answer(self, asked: ChatRequest, principal: Principal, scope: Scope, send: Send) -> None:
        deciding.permit(self._runtime.view, asked, principal, deciding.policy_of(self._runtime.view, asked.model).name)
        texts, rest = prompt_texts(asked)
        counted = {"input_tokens": rest + sum(await count_tokens(texts))}
        headers = [("x-gateway-request-id", asked.id), JSON]
        await scope["extensions"][WHOLE](headers, msgspec.json.encode(counted))
