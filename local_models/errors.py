"""What a request can be refused for, in OpenAI's error JSON.

ApiError              status, message, type, code, param, Retry-After in seconds
├─ InvalidRequest     400, names the field; code `invalid_request` unless a sharper one fits
├─ Unsupported        400 `unsupported`: valid OpenAI, but not something this process does
└─ Unavailable        503 with Retry-After: `loading`, `overloaded`
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

# Nobody reads it: the client hung up before its answer was complete. The number is nginx's.
CLIENT_CLOSED_REQUEST = 499


class ApiError(Exception):
    """An answer other than 200; `retry_after` in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    """The request is not what the API takes; `param` names the field."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(400, message, code, param)


class Unsupported(InvalidRequest):
    """The request is valid, but asks for something this process does not do."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, param, "unsupported")


class Unavailable(ApiError):
    """Not now: ask again in `retry_after` seconds."""

    def __init__(self, message: str, code: str, retry_after: float) -> None:
        super().__init__(503, message, code, retry_after=retry_after)


def reply(request: Request, error: Exception) -> Response:
    """Exception handler for ApiError and for Starlette's own HTTPException (404, 405)."""
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, error.detail, "not_found" if error.status_code == 404 else "http_error")
    if not isinstance(error, ApiError):
        error = ApiError(500, "internal error", "internal_error")
    headers = {"retry-after": str(math.ceil(error.retry_after))} if error.retry_after is not None else None
    return json_response(error.body, error.status, headers)


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response, encoded by msgspec."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
