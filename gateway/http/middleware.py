"""What every reply under ``/v1`` has, whichever endpoint made it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.parse import new_id

_NAME = b"x-gateway-request-id"


class RequestId:
    """Puts ``x-gateway-request-id`` on replies under ``/v1`` that have none; chat completions bring their own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and all(name != _NAME for name, _ in message["headers"]):
                message = {**message, "headers": [*message["headers"], (_NAME, new_id().encode())]}
            await send(message)

        await self._app(scope, receive, named)
