from __future__ import annotations

import time

import pytest

from gateway.dashboard import session

KEY = "an admin key"
HASH = "ab" * 32


@pytest.mark.parametrize(("role", "subject"), [("admin", ""), ("viewer", ""), ("owner", HASH)])
def test_what_was_issued_is_read_back(role: session.Role, subject: str) -> None:
    found = session.read(session.issue(KEY, role, subject), KEY)
    assert found is not None
    assert (found.role, found.subject) == (role, subject)
    assert 0 < found.end - time.time() <= session.LIFETIME_S


def test_a_session_is_good_under_its_admin_key_only() -> None:
    cookie = session.issue(KEY, "admin")
    assert session.read(cookie, "another key") is None
    assert session.read(cookie, None) is None
    assert session.read(cookie, "") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda cookie: cookie.replace("viewer", "admin"),
        lambda cookie: cookie.replace("..", f".{HASH}."),
        lambda cookie: cookie[:-1] + ("0" if cookie[-1] != "0" else "1"),
        lambda cookie: cookie + ".",
        lambda cookie: "",
        lambda cookie: "é" * 90,
    ],
)
def test_what_was_changed_is_refused(change: object) -> None:
    assert callable(change)
    assert session.read(change(session.issue(KEY, "viewer")), KEY) is None


def test_what_has_ended_is_refused() -> None:
    assert session.read(session.issue(KEY, "viewer", end=int(time.time()) - 1), KEY) is None


def test_a_link_is_no_cookie_and_a_cookie_no_link() -> None:
    link = session.link(KEY, 7)
    end = session.link_end(link, KEY)
    assert end is not None
    assert 6.9 < (end - time.time()) / 86400 <= 7
    assert session.read(link, KEY) is None
    assert session.link_end(session.issue(KEY, "viewer"), KEY) is None
    assert session.link_end(link, "another key") is None


def test_a_session_by_link_ends_with_the_link() -> None:
    soon = int(time.time()) + 60
    found = session.read(session.issue(KEY, "viewer", end=soon), KEY)
    assert found is not None
    assert found.end == soon
