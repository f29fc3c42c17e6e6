"""Errors as the client gets them."""

from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.errors import (
    BudgetExhausted,
    GatewayError,
    InvalidRequest,
    RateLimited,
    Unauthenticated,
    UpstreamRefused,
    UpstreamUnavailable,
)
from gateway.http.errors import error_response, on_bug, on_gateway_error, on_http_exception


def request(path: str = "/v1/nothing", method: str = "PUT") -> Request:
    return Request({"type": "http", "method": method, "path": path, "headers": [], "query_string": b""})


def test_an_error_is_openais_json() -> None:
    response = error_response(InvalidRequest("'n': too small", param="n"), "req_1")
    assert response.status_code == 400
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "'n': too small", "type": "invalid_request_error", "param": "n", "code": "invalid_request"}
    }
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-gateway-request-id"] == "req_1"
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(("wait", "told"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")])
def test_retry_after_is_whole_seconds_and_never_too_early(wait: float, told: str) -> None:
    error = RateLimited("slow down", code="rpm_limit_exceeded", retry_after=wait)
    error.headers = [("x-ratelimit-limit-requests", "5"), ("x-gateway-request-id", "req_own")]
    response = error_response(error, "req_1")
    assert (response.status_code, response.headers["retry-after"]) == (429, told)
    assert response.headers["x-ratelimit-limit-requests"] == "5"
    assert response.headers["x-gateway-request-id"] == "req_own"


def test_a_401_says_how_to_authenticate() -> None:
    assert error_response(Unauthenticated("no")).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in error_response(BudgetExhausted("no")).headers


def test_a_header_that_http_cannot_carry_does_not_break_the_reply() -> None:
    error = GatewayError("x")
    error.headers = [("x-gateway-route", "règle €")]
    assert error_response(error).headers["x-gateway-route"] == "règle ?"


@pytest.mark.parametrize(
    "raw", [b'{"error":{"message":"bad tool","code":7,"more":[1.10]}}', b' {"error": "text", "x": 1}']
)
def test_an_upstreams_own_refusal_keeps_its_body(raw: bytes) -> None:
    response = error_response(UpstreamRefused("bad", upstream_status=422, raw_body=raw))
    assert (response.status_code, response.body) == (422, raw)


@pytest.mark.parametrize(
    "raw", [b"", b"<html>nginx</html>", b"[]", b'{"detail": "no"}', b"\xff\xfe", b'{"error":' + b"[" * 10_000]
)
def test_a_refusal_in_another_format_is_told_in_ours(raw: bytes) -> None:
    response = error_response(UpstreamRefused("bad", upstream_status=404, raw_body=raw))
    assert response.status_code == 404
    assert json.loads(bytes(response.body))["error"]["code"] == "upstream_refused"


def test_an_upstreams_failure_is_told_in_ours() -> None:
    error = UpstreamUnavailable(
        "down", upstream_status=503, raw_body=b'{"error": {"message": "internal host 10.0.0.7"}}'
    )
    response = error_response(error)
    assert response.status_code == 503
    assert b"10.0.0.7" not in bytes(response.body)


async def test_paths_and_methods_that_do_not_exist() -> None:
    missing = await on_http_exception(request(), HTTPException(404))
    assert (missing.status_code, json.loads(bytes(missing.body))["error"]["code"]) == (404, "not_found")
    wrong = await on_http_exception(request("/v1/models"), HTTPException(405, headers={"Allow": "GET"}))
    told = json.loads(bytes(wrong.body))["error"]
    assert (wrong.status_code, told["code"]) == (405, "method_not_allowed")
    assert told["message"] == "PUT is not allowed for /v1/models"
    assert wrong.headers["allow"] == "GET"
    assert (await on_http_exception(request(), HTTPException(418))).status_code == 418


async def test_a_bug_tells_nothing_of_itself() -> None:
    response = await on_bug(request(), ValueError("secret path /etc"))
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)
    assert json.loads(bytes(response.body))["error"]["code"] == "internal_error"
    assert (await on_gateway_error(request(), BudgetExhausted("no"))).status_code == 402
