"""The one place where errors become HTTP: OpenAI's error JSON with a stable ``code``."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import GatewayError, NotFound, UpstreamError

_MESSAGES = {404: "no such path: {path}", 405: "{method} is not allowed for {path}"}


class _WithError(msgspec.Struct):
    error: Any


def error_response(error: GatewayError, request_id: str = "", body: bytes = b"") -> Response:
    """A refusal or failure as the client gets it: ``body``, else OpenAI's; an upstream's own refusal keeps its body."""
    headers = dict(error.headers)
    if request_id:
        headers.setdefault("x-gateway-request-id", request_id)
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = body or upstream_body(error) or msgspec.json.encode(error.body())
    return Response(body, status_code=error.status, headers=_safe(headers), media_type="application/json")


def upstream_body(error: GatewayError) -> bytes | None:
    """The upstream's own error JSON where it refused the client's request."""
    if not isinstance(error, UpstreamError) or not error.raw_body or not 400 <= error.status < 500:
        return None
    try:
        msgspec.json.decode(error.raw_body, type=_WithError)
    except (msgspec.DecodeError, RecursionError):
        return None
    return error.raw_body


def _safe(headers: dict[str, str]) -> dict[str, str]:
    return {name: value.encode("latin-1", "replace").decode("latin-1") for name, value in headers.items()}


async def on_gateway_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: a path or method that does not exist."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(NotFound(f"no such path: {request.url.path}"))
    message = _MESSAGES.get(error.status_code, "{method} {path} was refused")
    text = message.format(method=request.method, path=request.url.path)
    body = {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": "method_not_allowed"}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def on_bug(_: Request, __: Exception) -> Response:
    """What nobody foresaw; the server logs it with its traceback."""
    return error_response(GatewayError("an unexpected error happened in the gateway"))
