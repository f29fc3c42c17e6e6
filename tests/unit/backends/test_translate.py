"""Failures of HTTP and upstream's statuses in this gateway's error tree: none slips through."""

import errno
import inspect
import time
from email.utils import formatdate

import pytest

from gateway.backends import http1, translate
from gateway.backends.http1 import (
    CannotConnect,
    ConnectTimeout,
    DeadlinePassed,
    Disconnected,
    HttpFailure,
    Malformed,
    ReadTimeout,
)
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable

FAILURES = [
    cls
    for _, cls in inspect.getmembers(http1, inspect.isclass)
    if issubclass(cls, HttpFailure) and cls is not HttpFailure
]


@pytest.mark.parametrize("cls", FAILURES, ids=lambda cls: cls.__name__)
def test_every_failure_of_http_is_translated(cls: type[HttpFailure]) -> None:
    error = cls("said")
    assert isinstance(translate.before_reply(error), UpstreamTimeout | UpstreamUnavailable)
    assert isinstance(translate.in_reply(error, begun=False), UpstreamTimeout | UpstreamBroken)
    assert isinstance(translate.in_reply(error, begun=True), UpstreamBroken)


def caused(error: HttpFailure, number: int) -> HttpFailure:
    error.__cause__ = OSError(number, "said")
    return error


@pytest.mark.parametrize(
    ("error", "code", "connect"),
    [
        (ConnectTimeout(), translate.UNREACHABLE, True),
        (caused(CannotConnect("no route"), errno.EHOSTUNREACH), translate.UNREACHABLE, True),
        (caused(CannotConnect("refused"), errno.ECONNREFUSED), "upstream_unavailable", True),
        (caused(Disconnected("timed out", stale=True), errno.ETIMEDOUT), translate.UNREACHABLE, False),
        (Disconnected("hung up", stale=True), translate.STALE, True),
        (Disconnected("hung up"), "upstream_unavailable", False),
        (Malformed("junk"), "upstream_unavailable", False),
    ],
)
def test_says_what_another_try_is_worth(error: HttpFailure, code: str, connect: bool) -> None:
    failure = translate.before_reply(error)
    assert isinstance(failure, UpstreamUnavailable)
    assert (failure.code, failure.connect) == (code, connect)


def test_the_callers_deadline_is_told_from_the_targets_slowness() -> None:
    assert translate.before_reply(DeadlinePassed(), deadline=True).code == translate.DEADLINE
    assert translate.before_reply(DeadlinePassed()).code == "upstream_timeout"
    assert translate.before_reply(ReadTimeout(), deadline=True).code == "upstream_timeout"
    assert translate.in_reply(DeadlinePassed(), begun=True, deadline=True).code == translate.DEADLINE


OPENAI = b'{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}'


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422])
def test_the_clients_faults_are_passed_on(status: int) -> None:
    failure = translate.from_status(status, {}, OPENAI)
    assert isinstance(failure, UpstreamRefused)
    assert (failure.status, failure.raw_body, failure.message) == (status, OPENAI, "too long")
    assert failure.code == "context_length_exceeded"


@pytest.mark.parametrize("status", [401, 402, 403])
def test_our_bad_credential_does_not_look_like_the_clients(status: int) -> None:
    failure = translate.from_status(status, {}, b'{"error":{"message":"Incorrect key sk-ab"}}')
    assert isinstance(failure, UpstreamUnavailable)
    assert (failure.status, failure.code, failure.upstream_status) == (502, "upstream_auth", status)
    assert "sk-ab" not in failure.message


@pytest.mark.parametrize(("status", "shown"), [(408, 502), (409, 502), (429, 429), (500, 500), (503, 503), (529, 529)])
def test_what_may_pass_is_unavailable(status: int, shown: int) -> None:
    failure = translate.from_status(status, {"retry-after": "3"}, OPENAI)
    assert isinstance(failure, UpstreamUnavailable)
    assert (failure.status, failure.upstream_status, failure.retry_after) == (shown, status, 3.0)


@pytest.mark.parametrize("status", [301, 307, 100])
def test_a_redirect_is_no_answer(status: int) -> None:
    assert isinstance(translate.from_status(status, {}, b""), UpstreamUnavailable)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"x"', b'{"error":7}', b'{"error":{}}', b"[" * 100_000])
def test_any_body_of_an_error_can_be_read(body: bytes) -> None:
    failure: UpstreamError = translate.from_status(400, {}, body)
    assert failure.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": formatdate(time.time() - 60, usegmt=True)}, 0.0),
    ],
)
def test_reads_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert translate.retry_after(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    seconds = translate.retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert seconds == pytest.approx(60, abs=2)
