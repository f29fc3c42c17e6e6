"""Who is let in without a key: DESIGN section 7, header by header."""

from __future__ import annotations

import pytest

from gateway.auth import Peer, anonymous_allowed
from gateway.config import AuthConfig

LOOPBACK = AuthConfig()
JSON = {"content-type": "application/json"}


def allowed(
    headers: dict[str, str] | None = None,
    *,
    peer: str = "127.0.0.1",
    bind: str = "127.0.0.1",
    method: str = "POST",
    config: AuthConfig = LOOPBACK,
) -> bool:
    sent = {"host": "localhost:8080", **JSON, **(headers or {})}
    sent = {name: value for name, value in sent.items() if value != "(none)"}
    return anonymous_allowed(config, Peer(host=peer, bind=bind, method=method, headers=sent))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LocalHost:1",
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.8.9.1:80",
        "[::1]",
        "[::1]:8080",
    ],
)
def test_a_client_of_this_machine_needs_no_key(host: str) -> None:
    assert allowed({"host": host})


@pytest.mark.parametrize(
    "host",
    [
        *("(none)", "", "evil.com", "evil.com:8080", "127.0.0.1.evil.com", "127.0.0.1.evil.com:8080"),
        *("localhost.evil.com", "localhost.evil.com:80", "evil.com#localhost", "0.0.0.0", "0.0.0.0:8080", "10.0.0.7"),
        *("[::]", "[::2]:8080", "::1", "localhost.", "[::1", "[localhost]", "127.0.0.1:8080:evil.com", "2130706433"),
        *("0x7f.1", "127.1", "evil.com, localhost", "localhost, evil.com", "[::ffff:10.0.0.1]"),
        *("evil.com@127.0.0.1", "127.0.0.1/evil.com", "localhost?x", "localhost:", "localhost:80x", "localhost\n"),
    ],
)
def test_a_rebound_host_needs_one(host: str) -> None:
    assert not allowed({"host": host})


@pytest.mark.parametrize(
    "header",
    [
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"),
        *("x-forwarded-server", "x-forwarded-prefix", "x-forwarded-anything-new", "x-real-ip"),
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1;host=localhost", ""])
def test_whatever_came_through_a_proxy_needs_one(header: str, value: str) -> None:
    assert not allowed({header: value})
    assert not allowed({header: value}, method="GET")


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.com", "http://evil.com:8080", "http://localhost.evil.com:8080", "null", "", "file://"),
        *("http://localhost:3000", "http://localhost", "http://127.0.0.1:8080", "http://[::1", "chrome-extension://x"),
    ],
)
def test_a_page_of_another_origin_needs_one(origin: str) -> None:
    assert not allowed({"origin": origin})
    assert not allowed({"origin": origin}, method="GET")


def test_the_gateways_own_pages_do_not() -> None:
    assert allowed({"origin": "http://localhost:8080"})
    assert allowed({"host": "[::1]:8080", "origin": "http://[::1]:8080"})


@pytest.mark.parametrize(
    "kind",
    [
        *("(none)", "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        *("text/plain; application/json", "application/jsonp", "text/json", "application/json, text/plain"),
    ],
)
def test_what_a_form_of_any_page_may_send_needs_one(kind: str) -> None:
    assert not allowed({"content-type": kind})
    assert allowed({"content-type": kind}, method="GET")
    assert allowed({"content-type": kind}, method="HEAD")
    assert not allowed({"content-type": kind}, method="DELETE")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
def test_json_in_any_spelling_does_not(kind: str) -> None:
    assert allowed({"content-type": kind})


@pytest.mark.parametrize("peer", ["", "10.0.0.7", "192.168.1.2", "::2", "unix", "127.0.0.1.evil.com"])
def test_another_machine_needs_one(peer: str) -> None:
    assert not allowed(peer=peer)


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.7", "example.com", ""])
def test_a_gateway_that_others_can_reach_asks_everyone(bind: str) -> None:
    assert not allowed(bind=bind)


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_a_gateway_of_this_machine_does_not(bind: str) -> None:
    assert allowed(bind=bind, peer="::1")


def test_nobody_is_anonymous_where_that_is_denied() -> None:
    assert not allowed(config=AuthConfig(anonymous="deny"))
