"""The dashboard over HTTP: who may see what, what is exported, and what happens when something is away."""

from __future__ import annotations

import csv
import io
import os
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.dashboard.session import COOKIE
from gateway.types import DAY_MS, HOUR_MS, NANO
from tests.support.dashboard import Looked, looked_at
from tests.support.gateway import ADMIN
from tests.support.ledger import entry
from tests.support.processes import children_with
from tests.support.serving import until

PAGES = ("", "/explore", "/requests", "/live", "/cache", "/budgets", "/models", "/policies")
EVIL = "=cmd|' /C calc'!A0"


def now() -> int:
    return int(time.time() * 1000)


def rows_of_today() -> list[object]:
    start = now() - now() % DAY_MS
    return [
        entry(f"r{n}", ts_ms=start + n, key_id="k1" if n % 2 else "k2", cost_nano=123_456_789 + n) for n in range(20)
    ]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looked]:
    """Open to nobody who has not signed in."""
    folder = tmp_path_factory.mktemp("looked")
    with looked_at(folder, rows_of_today(), auth={"anonymous": "deny", "admin_key": "${GATEWAY_ADMIN_KEY}"}) as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture
def admin(looked: Looked) -> Iterator[httpx.Client]:
    client = looked.admin()
    yield client
    client.close()


@pytest.mark.parametrize("page", [*PAGES, "/requests/r1"])
def test_nobody_sees_a_page_without_signing_in(looked: Looked, page: str) -> None:
    with looked.browser() as stranger:
        reply = stranger.get(f"/dashboard{page}")
        assert (reply.status_code, 'type="password"' in reply.text) == (401, True)
        data = stranger.get(f"/dashboard{page or '/overview'}.json")
        assert (data.status_code, data.json()["error"]["code"]) == (401, "not_signed_in")


@pytest.mark.parametrize("page", [*PAGES, "/requests/r1", "/nowhere"])
def test_every_page_forbids_foreign_and_inline_code(looked: Looked, admin: httpx.Client, page: str) -> None:
    reply = admin.get(f"/dashboard{page}")
    assert reply.status_code == (404 if page == "/nowhere" else 200)
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"style=|<script>|\son\w+=|https://", reply.text)
    assert ADMIN not in reply.text


def test_signing_in_as_an_admin(looked: Looked) -> None:
    with looked.browser() as browser:
        wrong = browser.post("/dashboard/sign-in", data={"key": "guess"})
        assert (wrong.status_code, "neither the admin key" in wrong.text) == (401, True)
        assert browser.post("/dashboard/sign-in", content=b"key=" + b"x" * 5000).status_code == 401
        right = browser.post("/dashboard/sign-in", data={"key": ADMIN})
        cookie = right.headers["set-cookie"].lower()
        assert right.status_code == 303
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/dashboard"))
        assert ADMIN not in cookie
        assert browser.get("/dashboard").status_code == 200
        session = browser.cookies[COOKIE]
        assert browser.post("/dashboard/sign-out").status_code == 303
        assert browser.get("/dashboard").status_code == 401
    role, end, subject, mark = session.split(".")
    for forged in (
        f"{role}.{int(end) + 9}.{subject}.{mark}",
        f"{role}.1700000000.{subject}.{mark}",
        f"owner.{end}.{subject}.{mark}",
    ):
        assert (
            httpx.get(f"{looked.url}/dashboard/overview.json", cookies={COOKIE: forged}, timeout=60.0).status_code
            == 401
        )


def test_another_sites_form_changes_nothing(looked: Looked, admin: httpx.Client) -> None:
    for foreign in (
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        reply = admin.post("/dashboard/policies/reload", headers=foreign)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "foreign_form")
        assert admin.post("/dashboard/links", headers=foreign, data={"days": "7"}).status_code == 403
        assert looked.browser().post("/dashboard/sign-in", headers=foreign, data={"key": ADMIN}).status_code == 403


def test_a_key_owner_sees_the_requests_of_that_key_only(looked: Looked) -> None:
    key, key_id = looked.key("mine", budget_usd=5)
    other, _ = looked.key("theirs", budget_usd=7)
    looked.append(entry("mine-1", ts_ms=now(), key_id=key_id, cost_nano=77))
    with looked.browser() as owner:
        assert owner.post("/dashboard/sign-in", data={"key": key}).status_code == 303
        figures = owner.get("/dashboard/overview.json").json()["figures"]
        assert (figures["requests"], figures["cost_usd"]) == (1, 77e-9)
        for page in ("requests", "live"):
            rows = owner.get(f"/dashboard/{page}.json?key_id=k1").json()["tables"]["requests"]
            assert [row["request_id"] for row in rows] == ["mine-1"]
        assert owner.get("/dashboard/explore.json?key_id=k1").json()["figures"]["requests"] == 1
        assert owner.get("/dashboard/requests/mine-1").status_code == 200
        assert owner.get("/dashboard/requests/r1").status_code == 404
        assert [row["name"] for row in owner.get("/dashboard/budgets.json").json()["tables"]["budgets"]] == ["mine"]
        assert owner.get("/dashboard/policies").status_code == 404
        assert owner.post("/dashboard/policies/reload").status_code == 403
        bearer = {"authorization": f"Bearer {other}"}
        assert (
            httpx.get(f"{looked.url}/dashboard/overview.json", headers=bearer, timeout=60.0).json()["figures"][
                "requests"
            ]
            == 0
        )
        looked.thread.run(looked.gateway.admin("DELETE", f"/admin/keys/{key_id}"))
        until(lambda: owner.get("/dashboard/overview.json").status_code == 401)
    assert (
        httpx.get(
            f"{looked.url}/dashboard/overview.json", headers={"authorization": "Bearer fg-no"}, timeout=60.0
        ).status_code
        == 401
    )


def test_a_keys_role_decides(looked: Looked) -> None:
    for role, reloads in (("viewer", 403), ("admin", 303)):
        key, _ = looked.key(f"{role}s key", role=role)
        with looked.browser() as browser:
            assert browser.post("/dashboard/sign-in", data={"key": key}).status_code == 303
            assert browser.get("/dashboard/overview.json").json()["figures"]["requests"] >= 20
            assert browser.post("/dashboard/policies/reload").status_code == reloads


def test_budgets_of_every_kind_are_shown(looked: Looked, admin: httpx.Client) -> None:
    looked.key("own-budget", budget_usd=3)
    looked.budget(
        "b-team", 5 * NANO, scope="team", subject="red", window="month", limit_nano=20 * NANO, name="red team"
    )
    looked.budget("b-roll", 2 * NANO, scope="organisation", subject="default", window="24h", limit_nano=2 * NANO)
    looked.budget("b-soft", 0, scope="model", subject="claude", window="day", limit_nano=NANO, hard=False)
    rows = {row["name"]: row for row in admin.get("/dashboard/budgets.json").json()["tables"]["budgets"]}
    assert rows["own-budget"] | {"limit_usd": 3, "spent_usd": 0, "window": "in all"} == rows["own-budget"]
    assert rows["red team"] | {"left_usd": 15, "used": 0.25, "window": "this month"} == rows["red team"]
    assert rows["organisation default"] | {"left_usd": 0, "window": "last 24h"} == rows["organisation default"]
    assert rows["model claude"] | {"kind": "soft", "left_usd": 1} == rows["model claude"]
    assert next(iter(rows)) == "organisation default"
    page = admin.get("/dashboard").text
    assert "exhausted" in page
    assert "red team, this month" in page


def test_a_read_only_link_shows_everything_and_changes_nothing(looked: Looked, admin: httpx.Client) -> None:
    made = admin.post("/dashboard/links", data={"days": "7"})
    found = re.search(r'value="(http://[^"]+/dashboard/view/[^"]+)"', made.text)
    assert found
    assert admin.post("/dashboard/links", data={"days": "4000"}).status_code == 400
    with looked.browser() as viewer:
        asked = viewer.get(found[1])
        token = re.search(r'name="token" value="([^"]+)"', asked.text)
        assert token
        assert viewer.get("/dashboard").status_code == 401
        assert viewer.post("/dashboard/view", data={"token": token[1]}).status_code == 303
        assert viewer.get("/dashboard/overview.json").json()["figures"]["requests"] >= 20
        policies = viewer.get("/dashboard/policies")
        assert (policies.status_code, "Reload now" in policies.text, "Make a link" in policies.text) == (
            200,
            False,
            False,
        )
        assert viewer.post("/dashboard/policies/reload").status_code == 403
        assert viewer.post("/dashboard/links", data={"days": "7"}).status_code == 403
        assert viewer.get("/admin/keys").status_code == 401
        assert viewer.post("/dashboard/view", data={"token": token[1] + "0"}).status_code == 401
        assert viewer.get("/dashboard/view/link.9999999999..0000").status_code == 401


def test_an_admin_reloads_and_reads_why_it_was_refused(looked: Looked, admin: httpx.Client) -> None:
    policy = looked.folder / "policies" / "default.yaml"
    good = policy.read_text()
    policy.write_text(good + "nonsense: true\n")
    assert admin.post("/dashboard/policies/reload").status_code == 303
    until(lambda: "The last reload was refused" in admin.get("/dashboard/policies").text)
    assert "nonsense" in admin.get("/dashboard/policies").text
    policy.write_text(good)
    assert admin.post("/dashboard/policies/reload").headers["location"] == "/dashboard/policies"
    until(lambda: "was refused" not in admin.get("/dashboard/policies").text)


def test_exports_are_exact(looked: Looked, admin: httpx.Client) -> None:
    reply = admin.get("/dashboard/requests.csv?period=today&key_id=k1")
    assert reply.headers["content-disposition"] == 'attachment; filename="farthing-requests-requests-today.csv"'
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert sum(Decimal(row["cost_usd"]) * NANO for row in rows) == sum(123_456_789 + n for n in range(1, 20, 2))
    body = admin.get("/dashboard/explore.json?period=today&by=key_id&table=by_key_id&key_id=k1").text
    assert f'"cost_usd":{Decimal(sum(123_456_789 + n for n in range(1, 20, 2))) / NANO}' in body
    wrong = admin.get("/dashboard/explore.csv?table=nothing")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "no_such_table")


def test_a_spreadsheet_does_not_run_what_clients_say(looked: Looked, admin: httpx.Client) -> None:
    looked.append(entry("evil", ts_ms=now() - 3 * DAY_MS, model=EVIL, rule=EVIL))
    day = time.strftime("%Y-%m-%d", time.gmtime(now() / 1000 - 3 * 86400))
    rows = list(csv.DictReader(io.StringIO(admin.get(f"/dashboard/requests.csv?period={day}").text)))
    assert [row["model"] for row in rows] == [f"'{EVIL}"]


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("/overview.json?period=forever", "invalid_period"),
        ("/overview.json?period=2026-13", "invalid_period"),
        ("/explore.json?by=colour", "invalid_query"),
        ("/explore.json?sort=colour", "invalid_query"),
        ("/requests.json?after=nonsense", "invalid_query"),
    ],
)
def test_what_cannot_be_shown_is_said(looked: Looked, admin: httpx.Client, address: str, code: str) -> None:
    reply = admin.get(f"/dashboard{address}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    page = admin.get(f"/dashboard{address.replace('.json', '').replace('/overview', '')}")
    assert (page.status_code, 'role="alert"' in page.text) == (400, True)


def test_a_range_of_days_becomes_an_address(looked: Looked, admin: httpx.Client) -> None:
    asked = {"page": "explore", "from": "2026-11-03", "to": "2026-11-01", "model": "a b"}
    reply = admin.get("/dashboard/range", params=asked)
    assert reply.headers["location"] == "/dashboard/explore?period=2026-11-01..2026-11-03&model=a+b"
    assert admin.get(reply.headers["location"]).status_code == 200


def test_many_open_pages_read_the_books_once_a_second(looked: Looked, admin: httpx.Client) -> None:
    started = time.monotonic()
    made = {admin.get("/dashboard/models.json").json()["at_ms"] for _ in range(30)}
    assert len(made) <= time.monotonic() - started + 2


def test_the_process_that_makes_pages_is_nice_and_comes_back(looked: Looked, admin: httpx.Client) -> None:
    assert admin.get("/dashboard/models").status_code == 200
    for process in _makers():
        assert process.nice() > psutil.Process().nice()
        assert os.getsid(process.pid) == process.pid  # within the worker's session alone that would say little
        end(process)
    assert admin.get("/dashboard/budgets").status_code == 200
    assert len(_makers()) == 1


def end(maker: psutil.Process) -> None:
    """Without collecting its exit status: that is the worker's to do, and the worker is this process."""
    maker.terminate()
    until(lambda: not maker.is_running() or maker.status() == psutil.STATUS_ZOMBIE)


def _makers() -> list[psutil.Process]:
    return children_with("gateway.dashboard")


def test_pages_are_made_outside_the_worker(looked: Looked, admin: httpx.Client) -> None:
    """This process is the worker, and the browser too: what it spends on a page is less than what the page costs."""
    admin.get("/dashboard")
    (maker,) = _makers()
    before, own = _cpu(maker), time.process_time()
    for days in range(1, 16):
        assert admin.get(f"/dashboard?period=2026-01-{days:02d}").status_code == 200
    assert time.process_time() - own < _cpu(maker) - before


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_a_test_alert_is_an_admins_to_send(looked: Looked, admin: httpx.Client) -> None:
    sent = admin.post("/dashboard/alerts/test")
    assert (sent.status_code, "not configured" in sent.text, "sent" in sent.text) == (200, True, True)
    assert looked.browser().post("/dashboard/alerts/test").status_code == 403
    assert "Send a test alert" in admin.get("/dashboard/budgets").text


def test_static_files_are_sent_once(looked: Looked) -> None:
    first = httpx.get(f"{looked.url}/dashboard/static/dashboard.css", timeout=60.0)
    again = httpx.get(first.url, headers={"if-none-match": first.headers["etag"]}, timeout=60.0)
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert httpx.get(f"{looked.url}/dashboard/static/..%2fsession.py", timeout=60.0).status_code == 404


def test_without_redis_and_without_books(tmp_path: Path) -> None:
    with looked_at(tmp_path) as running:
        running.gateway.redis.kill()
        page = running.browser().get("/dashboard/budgets")
        assert (page.status_code, "Redis is away" in page.text) == (200, True)
        (tmp_path / "data" / "ledger.sqlite3").rename(tmp_path / "gone")
        for leftover in (tmp_path / "data").glob("ledger.sqlite3-*"):
            leftover.unlink()
        for maker in _makers():
            end(maker)
        reply = httpx.get(f"{running.url}/dashboard/overview.json", timeout=60.0)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "ledger_away")
        page = running.browser().get("/dashboard")
        assert (page.status_code, "cannot be read" in page.text) == (503, True)


def test_without_an_admin_key_nobody_can_sign_in(tmp_path: Path) -> None:
    with looked_at(tmp_path, auth={"anonymous": "deny", "admin_key": None}) as running:
        page = running.browser().get("/dashboard")
        assert (page.status_code, "GATEWAY_ADMIN_KEY" in page.text, "<form" in page.text) == (401, True, False)
        assert running.browser().post("/dashboard/sign-in", data={"key": ""}).status_code == 401


def test_a_request_shows_what_of_its_cost_bought_no_answer(looked: Looked, admin: httpx.Client) -> None:
    parts = {"cost_nano": 2_500_000, "embedding_nano": 1_200, "verification_nano": 0, "abandoned_nano": 1_000_000}
    looked.append(entry("in-parts", ts_ms=now(), key_id="k9", **parts))
    page = re.sub(r"<[^>]+>", "", admin.get("/dashboard/requests/in-parts").text)
    assert "of which $0.0000012 embedding, $0.0010 abandoned tries" in page


def test_a_request_without_a_known_price_has_its_page(looked: Looked, admin: httpx.Client) -> None:
    looked.append(entry("unpriced", ts_ms=now(), key_id="k9", cost_nano=0, unpriced=True))
    page = admin.get("/dashboard/requests/unpriced")
    assert (page.status_code, "no known price" in page.text) == (200, True)


def test_an_hour_lists_its_requests_a_page_at_a_time(looked: Looked, admin: httpx.Client) -> None:
    at = now() - now() % HOUR_MS - 5 * DAY_MS
    looked.append(*(entry(f"page-{n:03d}", ts_ms=at + n) for n in range(150)))
    hour = time.strftime("%Y-%m-%dT%H", time.gmtime(at / 1000))
    seen: list[str] = []
    address = f"/dashboard/requests?period={hour}"
    for _ in range(3):
        page = admin.get(address).text
        seen += re.findall(r'data-key="(page-\d+)"', page)
        following = re.search(r'href="([^"]+)" rel="next"', page)
        if following is None:
            break
        address = following[1].replace("&amp;", "&")
    assert seen == [f"page-{n:03d}" for n in range(149, -1, -1)]


def test_spending_for_programs(looked: Looked) -> None:
    def spend(token: str, query: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{looked.url}/admin/spend{query}", headers=headers, timeout=60.0)

    told = spend(ADMIN, "?period=today&by=key_id").json()
    # Beside what other tests of this module have asked with keys of their own.
    costs = {row["name"]: Decimal(str(row["cost_usd"])) for row in told["tables"]["by_key_id"]}
    assert costs["k1"] + costs["k2"] == Decimal(sum(123_456_789 + n for n in range(20))) / NANO
    assert Decimal(str(told["figures"]["cost_usd"])) == sum(costs.values())
    assert spend(ADMIN, "?period=today&key_id=k1").json()["figures"]["requests"] == 10
    viewer, own = looked.key("auditor", role="viewer")[0], looked.key("own")[0]
    assert spend(viewer, "?period=today").json()["figures"] == told["figures"]
    assert spend(own, "?period=today").json()["figures"]["requests"] == 0
    assert spend(own, "?period=today&key_id=k1").json()["figures"]["requests"] == 0
    for token, query, status in (("", "", 401), ("fg-nobody", "", 401), (ADMIN, "?period=sometime", 400)):
        reply = spend(token, query)
        assert (reply.status_code, reply.json()["error"].keys()) == (status, {"message", "type", "param", "code"})
