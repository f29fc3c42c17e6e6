"""The dashboard over real HTTP and in real Chromium."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.applications import Starlette
from starlette.requests import Request

from gateway.dashboard.routes import routes
from gateway.dashboard.session import COOKIE
from gateway.ledger.rollups import DAY_MS
from gateway.ledger.store import SqlStore
from gateway.types import LedgerEntry
from tests.support.asgi_server import serving
from tests.support.ledger import entry
from tests.support.loop_thread import LoopThread

ADMIN = "admin-key-of-this-test"
ARTIFACTS = Path(__file__).parents[2] / "artifacts"
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Dashboard:
    """A served dashboard over a SQLite ledger that the test fills."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.open = True
        self.key: str | None = ADMIN
        self._address = f"sqlite+aiosqlite:///{folder / 'ledger.sqlite3'}"
        self._store: SqlStore | None = None

    def append(self, *entries: LedgerEntry) -> None:
        async def write() -> None:
            store = SqlStore(self._address)
            await store.migrate()
            await store.append(entries)
            await store.close()

        with LoopThread() as thread:
            thread.run(write())

    def app(self) -> Starlette:
        return Starlette(routes=list(routes(self._read_store, self._allowed, lambda: self.key)))

    async def _read_store(self) -> SqlStore:
        if self._store is None:
            self._store = SqlStore.reader(self._address)
        return self._store

    async def _allowed(self, request: Request) -> bool:
        return self.open or request.headers.get("authorization") == f"Bearer {ADMIN}"

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    made = Dashboard(tmp_path)
    made.append()
    with serving(made.app(), at_end=made.close) as url:
        made.url = url
        yield made


def now() -> int:
    return int(time.time() * 1000)


def a_day_of_traffic() -> list[LedgerEntry]:
    end = now()
    start = end - end % DAY_MS
    rows = []
    for n in range(240):
        hosted, cached = n % 5 == 0, n % 4 == 1
        rows.append(
            entry(
                f"req_{n:04d}",
                ts_ms=start + (end - start) * n // 240,
                rule="hard" if hosted else "easy",
                model="gpt-4o-mini" if hosted else "local-small",
                provider="openai" if hosted else "local",
                served="cache" if cached else "hosted" if hosted else "local",
                cache="exact" if cached else "miss",
                cost_nano=0 if cached else 900_000 if hosted else 21_000,
                baseline_nano=1_100_000,
                saved_nano=1_100_000 if cached else 200_000 if hosted else 1_079_000,
                ttft_ms=0.4 if cached else 120.0 + n,
                duration_ms=0.6 if cached else 480.0 + 3 * n,
                status="error" if n % 60 == 59 else "ok",
                error="upstream_timeout" if n % 60 == 59 else "",
                tags=("team-blue", "chat") if n % 3 else (),
                usage_source="estimated" if n % 50 == 7 else "reported",
            )
        )
    return rows


def test_the_numbers_are_those_of_the_ledger(dashboard: Dashboard) -> None:
    rows = a_day_of_traffic()
    dashboard.append(*rows)
    data = httpx.get(f"{dashboard.url}/dashboard/data.json").json()
    assert data["total"]["requests"] == 240
    assert round(data["total"]["cost_usd"] * 10**9) == sum(row.cost_nano for row in rows)
    assert round(data["total"]["saved_usd"] * 10**9) == sum(row.saved_nano for row in rows)
    assert data["total"]["errors"] == 4
    assert data["cache"]["hit_rate"] == 0.25
    assert {row["name"]: row["requests"] for row in data["by_model"]} == {"local-small": 192, "gpt-4o-mini": 48}
    assert [row["request_id"] for row in data["recent"]] == [f"req_{n:04d}" for n in range(239, 189, -1)]


def test_many_open_pages_read_the_ledger_once_a_second(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    summary = SqlStore.summary

    async def counted(self: SqlStore, since: int, until: int) -> Any:
        reads.append(since)
        return await summary(self, since, until)

    monkeypatch.setattr(SqlStore, "summary", counted)
    started = time.monotonic()
    for _ in range(20):
        assert httpx.get(f"{dashboard.url}/dashboard/data.json").status_code == 200
    assert len(reads) <= time.monotonic() - started + 1


def test_every_answer_forbids_foreign_and_inline_code(dashboard: Dashboard) -> None:
    for path in ("", "/data.json", "/static/dashboard.js", "/static/none.js"):
        answer = httpx.get(f"{dashboard.url}/dashboard{path}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = httpx.get(f"{dashboard.url}/dashboard").text
    assert "style=" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_what_is_not_a_period_or_a_file_is_refused(dashboard: Dashboard) -> None:
    answer = httpx.get(f"{dashboard.url}/dashboard/data.json?period=forever")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_period")
    assert httpx.get(f"{dashboard.url}/dashboard/static/..%2fsession.py").status_code == 404


def test_a_file_that_did_not_change_is_not_sent_again(dashboard: Dashboard) -> None:
    first = httpx.get(f"{dashboard.url}/dashboard/static/dashboard.css")
    again = httpx.get(first.url, headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


def test_a_ledger_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    unborn = Dashboard(tmp_path / "nowhere")
    with serving(unborn.app(), at_end=unborn.close) as url:
        answer = httpx.get(f"{url}/dashboard/data.json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_away")


def test_without_the_anonymous_rule_it_takes_the_admin_key(dashboard: Dashboard) -> None:
    dashboard.open = False
    with httpx.Client(base_url=dashboard.url) as browser:
        assert browser.get("/dashboard/data.json").status_code == 401
        page = browser.get("/dashboard")
        assert (page.status_code, 'type="password"' in page.text) == (401, True)
        bearer = {"authorization": f"Bearer {ADMIN}"}
        assert httpx.get(f"{dashboard.url}/dashboard/data.json", headers=bearer).status_code == 200
        wrong = browser.post("/dashboard/sign-in", data={"key": "guess"})
        assert (wrong.status_code, "not the admin key" in wrong.text) == (401, True)
        assert browser.post("/dashboard/sign-in", content=b"key=" + b"x" * 5000).status_code == 401
        right = browser.post("/dashboard/sign-in", data={"key": ADMIN})
        assert right.status_code == 303
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert ADMIN not in cookie
        assert browser.get("/dashboard/data.json").status_code == 200
        session = browser.cookies[COOKIE]
        forged = {COOKIE: "9" + session}
        assert httpx.get(f"{dashboard.url}/dashboard/data.json", cookies=forged).status_code == 401
        ended = {COOKIE: "1700000000." + session.partition(".")[2]}
        assert httpx.get(f"{dashboard.url}/dashboard/data.json", cookies=ended).status_code == 401
        dashboard.key = "another-key"
        assert browser.get("/dashboard/data.json").status_code == 401
        dashboard.key = ADMIN
        browser.post("/dashboard/sign-out")
        assert browser.get("/dashboard/data.json").status_code == 401


def test_without_an_admin_key_nobody_can_sign_in(dashboard: Dashboard) -> None:
    dashboard.open, dashboard.key = False, None
    page = httpx.get(f"{dashboard.url}/dashboard")
    assert page.status_code == 401
    assert "GATEWAY_ADMIN_KEY" in page.text
    assert "<form" not in page.text
    assert httpx.post(f"{dashboard.url}/dashboard/sign-in", data={"key": ""}).status_code == 401


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--headless=new"]
        )
        yield browser
        browser.close()


Look = Callable[..., Page]


@pytest.fixture
def look(chromium: Browser) -> Iterator[Look]:
    """Open a page; at the end nothing may have broken the content security policy or thrown."""
    complaints: list[str] = []
    contexts = []

    def open_page(url: str, width: int = 1280, colour_scheme: Any = "light", **options: Any) -> Page:
        viewport: Any = {"width": width, "height": 900}
        context = chromium.new_context(viewport=viewport, color_scheme=colour_scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_it_shows_the_day(dashboard: Dashboard, look: Look, width: int, scheme: str) -> None:
    dashboard.append(*a_day_of_traffic())
    page = look(f"{dashboard.url}/dashboard", width, scheme)
    page.wait_for_selector("#state.live")
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=str(ARTIFACTS / f"dashboard-{width}-{scheme}.png"), full_page=True)
    assert page.inner_text("#requests") == "240"
    assert page.inner_text("#hit-rate") == "25.0 %"
    assert page.inner_text("#spent") == "$0.0354"
    assert page.locator("#recent tbody tr").count() == 50
    assert page.locator("#models tbody tr").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    link = page.locator("#recent tbody tr a").first
    assert link.get_attribute("href") == "/dashboard/requests/req_0239"


@pytest.mark.browser
def test_it_follows_what_happens_and_keeps_the_focus(dashboard: Dashboard, look: Look) -> None:
    dashboard.append(entry("first", ts_ms=now() - 1000))
    page = look(f"{dashboard.url}/dashboard")
    page.wait_for_selector("#recent tbody tr")
    page.locator("#recent tbody tr a").first.focus()
    dashboard.append(entry("second", ts_ms=now()))
    page.wait_for_selector("#recent tbody tr:nth-child(2)")
    assert page.evaluate("document.activeElement.textContent") == "first"
    assert page.locator("#recent tbody tr a").first.inner_text() == "second"


@pytest.mark.browser
def test_what_clients_and_upstreams_say_stays_text(dashboard: Dashboard, look: Look) -> None:
    dashboard.append(
        entry(EVIL, ts_ms=now(), model=EVIL, rule=EVIL, key_id=EVIL, tags=(EVIL,), error=EVIL, status="error")
    )
    page = look(f"{dashboard.url}/dashboard")
    page.wait_for_selector("#recent tbody tr")
    assert page.title() == "Dashboard – Farthing"
    assert page.locator("main img, main script").count() == 0
    assert EVIL in page.inner_text("#models")


@pytest.mark.browser
def test_an_empty_ledger_says_what_to_do_first(dashboard: Dashboard, look: Look) -> None:
    page = look(f"{dashboard.url}/dashboard")
    page.wait_for_selector("#empty:visible")
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=str(ARTIFACTS / "dashboard-empty.png"), full_page=True)
    assert f"curl {dashboard.url}/v1/chat/completions" in page.inner_text("#first-request")
    assert not page.is_visible("#figures")
    dashboard.append(entry("first", ts_ms=now()))
    page.wait_for_selector("#figures:visible")


@pytest.mark.browser
def test_another_period_is_a_click_away(dashboard: Dashboard, look: Look) -> None:
    dashboard.append(entry("today", ts_ms=now()), entry("last-week", ts_ms=now() - 6 * DAY_MS))
    page = look(f"{dashboard.url}/dashboard")
    page.wait_for_selector("#state.live")
    assert page.inner_text("#requests") == "1"
    page.click("text=7 days")
    page.wait_for_selector("#state.live")
    assert page.inner_text("#requests") == "2"
    assert page.get_attribute("[data-period='7d']", "aria-current") == "page"


@pytest.mark.browser
def test_signing_in_with_a_browser(dashboard: Dashboard, chromium: Browser) -> None:
    dashboard.open = False
    page = chromium.new_page()
    page.goto(f"{dashboard.url}/dashboard")
    page.screenshot(path=str(ARTIFACTS / "dashboard-sign-in.png"))
    page.fill("#key", "wrong")
    page.click("button")
    page.wait_for_selector("text=That is not the admin key.")
    page.fill("#key", ADMIN)
    page.click("button")
    page.wait_for_selector("#state.live")
    page.click("text=Sign out")
    page.wait_for_selector("#key")
    page.close()


@pytest.mark.browser
def test_every_control_and_figure_has_a_name(dashboard: Dashboard, look: Look) -> None:
    dashboard.append(*a_day_of_traffic())
    page = look(f"{dashboard.url}/dashboard")
    page.wait_for_selector("#state.live")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1").count() == 1
    unnamed = """() => {
      const without = (what, named) => [...document.querySelectorAll(what)].filter((node) => !named(node)).length;
      return without('table', (table) => table.querySelector('thead th[scope=col]'))
        + without('table:not(#recent) tbody tr', (row) => row.querySelector('th[scope=row]'))
        + without('svg', (chart) => chart.getAttribute('aria-label'))
        + without('a, button', (control) => control.textContent.trim())
        + without('section', (part) => document.getElementById(part.getAttribute('aria-labelledby')));
    }"""
    assert page.evaluate(unnamed) == 0
