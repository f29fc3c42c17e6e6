"""The dashboard in real Chromium, over books that look like a month and a half of traffic."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect

from gateway.types import DAY_MS
from tests.support.chromium import PATIENCE, Chromium
from tests.support.dashboard import Looked, looked_at
from tests.support.gateway import ADMIN
from tests.support.ledger import entry
from tests.support.traffic import traffic

# A browser that had to be killed says nothing about the page: once more then, and only then.
once_more = pytest.mark.flaky(reruns=1, only_rerun=["TargetClosedError"])
pytestmark = [pytest.mark.browser, once_more, pytest.mark.timeout(3 * PATIENCE)]

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts"
AXE = ROOT / "tests" / "support" / "axe" / "axe.min.js"
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
BUDGETS: tuple[tuple[float, dict[str, Any]], ...] = (
    (0.86, {"scope": "organisation", "subject": "default", "window": "month", "name": "Everything"}),
    (0.34, {"scope": "team", "subject": "search", "window": "month", "name": "Search"}),
    (1.0, {"scope": "model", "subject": "claude", "window": "7d", "name": "claude"}),
)
PAGES = {
    "overview": "?period=30d",
    "explore": "/explore?period=month",
    "hour": "/explore?period={hour}",
    "requests": "/requests?period=7d&team=support",
    "request": "/requests/{request}",
    "live": "/live",
    "budgets": "/budgets",
    "models": "/models",
    "policies": "/policies",
}


def now() -> int:
    return int(time.time() * 1000)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as started:
        yield started


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return traffic(now())


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> Iterator[Looked]:
    """A gateway with a history, open on this machine."""
    with looked_at(tmp_path_factory.mktemp("busy"), rows) as running:
        month = time.strftime("%Y-%m", time.gmtime())
        spent = sum(row.cost_nano for row in rows if time.strftime("%Y-%m", time.gmtime(row.ts_ms / 1000)) == month)
        for number, (share, budget) in enumerate(BUDGETS):
            running.budget(f"b{number}", spent, limit_nano=int(spent / share) or 1, **budget)
        yield running


Look = Callable[..., Page]


@pytest.fixture
def look(chromium: Chromium) -> Iterator[Look]:
    """Open a page; at the end nothing may have broken the content security policy or thrown."""
    complaints: list[str] = []
    contexts = []

    def open_page(url: str, width: int = 1440, colour_scheme: Any = "light", **options: Any) -> Page:
        context = chromium.context(viewport={"width": width, "height": 900}, color_scheme=colour_scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if _grave(message) else None)
        page.goto(url)
        return page

    with chromium.bounded():
        yield open_page
        for context in contexts:
            context.close()
    assert complaints == []


def _grave(message: ConsoleMessage) -> bool:
    """Chromium also reports as an error that a page asked for signing in."""
    return message.type == "error" and "401 (Unauthorized)" not in message.text


def address(busy: Looked, rows: list[Any], name: str) -> str:
    full = next(row for row in reversed(rows) if row.ts_ms < now() - DAY_MS and row.served == "hosted")
    hour = time.strftime("%Y-%m-%dT%H", time.gmtime(full.ts_ms / 1000))
    return f"{busy.url}/dashboard{PAGES[name].format(hour=hour, request=full.request_id)}"


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_every_page_fits_and_is_accessible(busy: Looked, rows: list[Any], look: Look, width: int, scheme: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page = look("about:blank", width, scheme, bypass_csp=False)
    serious: dict[str, list[str]] = {}
    for name in PAGES:
        page.goto(address(busy, rows, name))
        expect(page.locator("h1")).to_have_count(1)
        page.screenshot(path=str(ARTIFACTS / f"dashboard-{name}-{width}-{scheme}.png"), full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        serious[name] = axe(page)
    assert {name: found for name, found in serious.items() if found} == {}


def axe(page: Page) -> list[str]:
    """What axe-core finds serious or critical. Of long tables, whose rows are alike, it looks at the first ones."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({exclude: ['tbody tr:nth-child(n+8)']}, {resultTypes: ['violations']})")
    grave = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {[node['html'][:120] for node in each['nodes'][:3]]}" for each in grave]


def test_from_the_month_down_to_one_request(busy: Looked, rows: list[Any], look: Look) -> None:
    page = look(f"{busy.url}/dashboard")
    page.click("nav[aria-label=Period] >> text=This month")
    page.click("nav.menu >> text=Explore")
    expect(page.locator("h1 + p")).to_have_text(time.strftime("%B %Y", time.gmtime()))
    page.click("a.step[aria-label^=Earlier]")  # this month may be an hour old
    expect(page.locator("a.step[aria-label^=Later]")).to_have_count(1)
    spent = page.inner_text("#spent")
    day = page.locator("#over_time tbody th a").last
    chosen = day.inner_text()
    day.click()
    assert f"period={chosen}" in page.url
    assert page.inner_text("#spent") != spent
    of_day = [row for row in rows if time.strftime("%Y-%m-%d", time.gmtime(row.ts_ms / 1000)) == chosen]
    assert page.inner_text("#requests-count") == f"{len(of_day):,}"
    page.locator("#over_time tbody th a").first.click()
    expect(page.locator(".crumbs [aria-current]")).to_have_text(re.compile(r"\d\d:00"))
    request = page.locator("#requests tbody th a").first
    wanted = request.inner_text()
    request.click()
    expect(page.locator("h1")).to_have_text("Request")
    assert wanted in page.inner_text(".lead")
    row = next(row for row in of_day if row.request_id == wanted)
    assert (f"{row.prompt_tokens:,} / {row.completion_tokens:,}") in page.inner_text(".cards")
    page.click(".crumbs >> nth=0 >> a >> nth=1")
    assert page.inner_text("#spent") == spent


def test_a_chart_is_pointed_at_and_clicked(busy: Looked, look: Look) -> None:
    page = look(f"{busy.url}/dashboard?period=30d")
    bar = page.locator("g.slot").nth(10)
    bar.hover()
    expect(page.locator("#tip")).to_be_visible()
    day = bar.get_attribute("data-tip") or ""
    assert page.inner_text("#tip").splitlines()[0] == day.splitlines()[0]
    bar.click()
    page.wait_for_url(re.compile(rf"explore\?period={day[:10]}$"))


def test_filters_are_added_and_removed(busy: Looked, rows: list[Any], look: Look) -> None:
    page = look(f"{busy.url}/dashboard/explore?period=30d")
    everything = page.inner_text("#requests-count")
    page.click("#by_team >> text=support")
    assert "helpdesk-bot" in page.inner_text("#by_key_id")
    assert page.inner_text("#requests-count") != everything
    page.click("nav[aria-label='Split by'] >> text=Model")
    page.click("#by_model >> text=claude")
    expect(page.locator(".chips li")).to_have_count(2)
    page.click("text=Requests >> nth=0")
    expect(page.locator("#requests tbody tr").first).to_contain_text("claude")
    page.click("[aria-label='Remove the filter Team']")
    page.click("[aria-label='Remove the filter Model']")
    expect(page.locator(".chips")).to_have_count(0)


def test_a_range_of_days_is_chosen(busy: Looked, look: Look) -> None:
    page = look(f"{busy.url}/dashboard/explore")
    page.fill("input[name=from]", "2026-11-02")
    page.fill("input[name=to]", "2026-11-05")
    page.click(".dates button")
    expect(page.locator("h1 + p")).to_have_text("2 Nov 2026 to 5 Nov 2026")


def test_signing_in_and_out(tmp_path: Path, look: Look, rows: list[Any]) -> None:
    with looked_at(tmp_path, rows[-50:], auth={"anonymous": "deny", "admin_key": "${GATEWAY_ADMIN_KEY}"}) as running:
        page = look("about:blank")
        reply = page.request.get(f"{running.url}/dashboard")
        assert reply.status == 401
        page.goto(f"{running.url}/dashboard/sign-in")
        page.screenshot(path=str(ARTIFACTS / "dashboard-sign-in.png"))
        page.fill("#key", ADMIN)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Live")
        assert page.evaluate("document.cookie") == ""
        page.click("nav.menu >> text=Policies")
        page.click("text=Make a link")
        link = page.input_value("#link")
        page.goto(f"{running.url}/dashboard")
        page.click("text=Sign out")
        expect(page.locator("#key")).to_be_visible()
        viewer = look(link)
        viewer.click("text=Open the dashboard")
        expect(viewer.locator("#state")).to_have_text("Live")
        viewer.click("nav.menu >> text=Policies")
        expect(viewer.locator("text=Reload now")).to_have_count(0)
        page.close()
        viewer.close()


def test_an_open_page_follows_and_keeps_the_focus(tmp_path: Path, look: Look) -> None:
    with looked_at(tmp_path, [entry("first", ts_ms=now() - 1000)]) as running:
        page = look(f"{running.url}/dashboard/live")
        page.locator("#requests tbody th a").first.focus()
        running.append(entry("second", ts_ms=now()))
        expect(page.locator("#requests tbody tr")).to_have_count(2)
        assert page.evaluate("document.activeElement.textContent") == "first"
        assert page.locator("#requests tbody th a").first.inner_text() == "second"
        page.click("#pause")
        expect(page.locator("#state")).to_have_text("Paused")
        running.append(entry("third", ts_ms=now()))
        page.click("#pause")
        expect(page.locator("#requests tbody tr")).to_have_count(3)
        page.close()


HELD = """
window.asked = 0; window.held = [];
window.fetch = () => {
  window.asked += 1;
  const answer = { ok: true, status: 200, text: async () => document.documentElement.outerHTML };
  return new Promise((resolve) => held.push(() => resolve(answer)));
};
"""
ARRIVE = "held.splice(0).forEach((arrive) => arrive())"


def test_pausing_while_an_answer_is_on_its_way_leaves_one_loop(busy: Looked, look: Look) -> None:
    page = look("about:blank")
    page.clock.install()
    page.add_init_script(HELD)
    page.goto(f"{busy.url}/dashboard/live")
    page.clock.run_for(2000)
    assert page.evaluate("asked") == 1
    for _ in range(3):
        page.click("#pause")
        expect(page.locator("#state")).to_have_text("Paused")
        page.click("#pause")
    page.click("#pause")
    page.evaluate(ARRIVE)
    page.clock.run_for(10_000)
    expect(page.locator("#state")).to_have_text("Paused")
    assert page.evaluate("asked") == 1
    page.click("#pause")
    assert page.evaluate("asked") == 2
    page.evaluate(ARRIVE)
    expect(page.locator("#state")).to_have_text("Live")
    for turn in (3, 4):
        page.clock.run_for(2000)
        assert page.evaluate("asked") == turn
        page.evaluate(ARRIVE)


def test_what_clients_and_upstreams_say_stays_text(tmp_path: Path, look: Look) -> None:
    evil = entry(EVIL, ts_ms=now() - 1000, model=EVIL, rule=EVIL, key_id=EVIL, tags=(EVIL,), error=EVIL, status="error")
    with looked_at(tmp_path, [evil]) as running:
        page = look(f"{running.url}/dashboard?period=today")
        for path in ("?period=today", "/explore?period=today&by=model", "/live", "/requests?period=today"):
            page.goto(f"{running.url}/dashboard{path}")
            assert "owned" not in page.title()
            assert page.locator("main img, main script").count() == 0
        page.locator("#requests tbody th a").first.click()
        assert EVIL in page.inner_text(".lead")
        page.close()


def test_an_empty_ledger_says_what_to_do_first(tmp_path: Path, look: Look) -> None:
    with looked_at(tmp_path) as running:
        page = look(f"{running.url}/dashboard")
        page.screenshot(path=str(ARTIFACTS / "dashboard-empty.png"), full_page=True)
        assert f"curl {running.url}/v1/chat/completions" in page.inner_text("#first-request")
        assert axe(page) == []
        running.append(entry("first", ts_ms=now()))
        expect(page.locator("#spent")).to_be_visible(timeout=20_000)
        page.close()


def test_theme_and_zone_are_kept(busy: Looked, look: Look) -> None:
    page = look(f"{busy.url}/dashboard/live", timezone_id="Asia/Tokyo")
    cell = page.locator("#requests time").first
    utc, light = cell.inner_text(), page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#zone")
    here = cell.inner_text()
    assert (int(here[11:13]) - int(utc[11:13])) % 24 == 9
    page.click("#theme")
    page.click("#theme")
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert page.inner_text("#theme") == "Theme: dark"
    assert page.inner_text("#zone") == "Asia/Tokyo"


def test_without_javascript_all_figures_are_there(busy: Looked, rows: list[Any], look: Look) -> None:
    page = look(f"{busy.url}/dashboard?period=30d", java_script_enabled=False)
    assert page.inner_text("#spent").startswith("$")
    page.click("summary")
    page.locator("#over_time tbody th a").first.click()
    page.locator("#over_time tbody th a").first.click()
    assert page.locator("#requests tbody tr").count() > 0


def test_the_keyboard_reaches_everything(busy: Looked, look: Look) -> None:
    page = look(f"{busy.url}/dashboard?period=30d")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Today", "This month", "Show", "Requests", "Errors", "All budgets", "search"} <= reached


def test_exports_are_offered_and_arrive(busy: Looked, look: Look) -> None:
    page = look(f"{busy.url}/dashboard/explore?period=30d&by=model")
    with page.expect_download() as download:
        page.locator("section:has(#by_model) >> text=CSV").click()
    assert download.value.suggested_filename == "farthing-explore-by_model-30d.csv"
    # Not the file itself: waiting for Chromium to have written it knows no bound.
    assert page.request.get(download.value.url).text().startswith("name,requests,errors,cost_usd,")
