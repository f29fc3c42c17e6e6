"""Each thing is told once, by every channel, over real Redis and SQL, a webhook and a mail server; and resolved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from gateway.alerts import channels, rules
from gateway.alerts.budgets import states
from gateway.alerts.rules import BudgetState, Finding
from gateway.alerts.watch import Watch, active, send_test
from gateway.budget.accounts import catch_up
from gateway.budget.definitions import Budget
from gateway.budget.levels import FIELD, account_of, of_key
from gateway.cli.app import app
from gateway.config import AlertsConfig, EmailConfig, Settings
from gateway.ledger.store import SqlStore
from gateway.redis_io import Keys
from gateway.types import DAY_MS, NANO
from tests.support.gateway import gateway, hosted
from tests.support.inbox import Mailbox, Webhook, mailbox
from tests.support.ledger import NOON, entry, key_record
from tests.support.upstream import Upstream
from tests.support.visits import settings

KEYS = Keys()
FINDING = Finding(key="k", kind="budget", title="Budget <!here> & co", text="80 % used")


@pytest.fixture
def post() -> Iterator[Mailbox]:
    with mailbox() as received:
        yield received


class House:
    """A watch with budgets a test can set."""

    def __init__(self, redis: Redis, store: SqlStore, chosen: Settings) -> None:
        self.states: list[BudgetState] = []
        self.redis, self.store, self.settings = redis, store, chosen
        self.watch = Watch(redis, KEYS, store, self._budgets)

    async def _budgets(self) -> list[BudgetState]:
        return self.states

    async def look(self, now_ms: int = NOON) -> list[str]:
        return [told.title for told in await self.watch.look(self.settings, now_ms)]


@pytest.fixture
def house(tmp_path: Path, redis: Redis, store: SqlStore, inbox: Webhook) -> House:
    return House(redis, store, settings(tmp_path, alerts={"webhook": inbox.url}))


def spent(share: float) -> BudgetState:
    return BudgetState(id="key_1", name="ci", limit_nano=NANO, spent_nano=round(share * NANO))


async def test_a_threshold_is_told_once_by_whichever_process_looks(house: House, inbox: Webhook) -> None:
    house.states = [spent(0.81)]
    assert await house.look() == ["Budget ci: 81% used"]
    house.states = [spent(0.9)]
    other = House(house.redis, house.store, house.settings)
    other.states = house.states
    assert await house.look() + await other.look(NOON + 2 * DAY_MS) == []
    house.states = [spent(1.0)]
    assert await house.look() == ["Budget ci: exhausted"]
    assert inbox.titles == ["Budget ci: 81% used", "Budget ci: exhausted"]
    assert {one.severity for one in (await active(house.redis, KEYS)).values()} == {"warning", "critical"}


async def test_what_the_webhook_did_not_take_is_told_at_the_next_look(
    house: House, inbox: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_PAUSE_S", 0.01)
    inbox.statuses = [500] * channels.TRIES
    house.states = [spent(0.81)]
    await house.look()
    assert await active(house.redis, KEYS) == {}
    await house.look()
    await house.look()
    assert inbox.titles == ["Budget ci: 81% used"]


async def test_a_state_is_told_again_while_it_lasts_and_when_it_is_over(
    house: House, store: SqlStore, inbox: Webhook
) -> None:
    failed = [entry(f"f{n}", ts_ms=NOON - 1000, status="error", error="upstream_timeout: x") for n in range(15)]
    await store.append([*failed, *(entry(f"r{n}", ts_ms=NOON - 1000) for n in range(10))])
    assert await house.look(NOON) == ["60% of requests fail"]
    assert await house.look(NOON + 30_000) == []
    later = NOON + 15 * 60_000
    await store.append([entry(f"later{n}", ts_ms=later - 1000) for n in range(30)])
    assert await house.look(later) == ["Resolved: 60% of requests fail"]
    assert await active(house.redis, KEYS) == {}
    assert inbox.received[-1]["severity"] == "info"


async def test_a_state_that_lasts_is_told_every_day(house: House, store: SqlStore) -> None:
    house.settings = settings(Path(house.settings.file).parent, alerts={"repeat_hours": 0.1})
    for now in (NOON, NOON + 60_000, NOON + 7 * 60_000):
        failed = [entry(f"f{now}-{n}", ts_ms=now - 1000, status="error", error="x_y: z") for n in range(25)]
        await store.append(failed)
    told = [await house.look(now) for now in (NOON, NOON + 60_000, NOON + 7 * 60_000)]
    assert [len(each) for each in told] == [1, 0, 1]


async def test_a_local_model_that_does_not_answer_is_told_and_resolved(
    tmp_path: Path, redis: Redis, store: SqlStore
) -> None:
    models: Any = [{"name": "near", "local": "smollm2-135m-instruct", "url": "http://127.0.0.1:9/v1"}]
    policy = {"name": "default", "rules": [{"name": "all", "use": ["near"]}]}
    house = House(redis, store, settings(tmp_path, models, [policy]))
    assert await house.look() == ["Target near is down"]
    with Upstream.in_thread() as up:
        models[0]["url"] = up.base_url
        house.settings = settings(tmp_path, models, [policy])
        assert await house.look(NOON + 30_000) == []
        assert await house.look(NOON + 120_000) == ["Resolved: Target near is down"]


async def test_the_forecast_is_told_once_a_month(house: House, store: SqlStore) -> None:
    house.settings = settings(Path(house.settings.file).parent, alerts={"month_usd": 10})
    await store.append([entry(f"d{day}", ts_ms=NOON - day * DAY_MS, cost_nano=NANO) for day in range(1, 8)])
    # A dollar on each of the last seven days, and half of New Year's Day and thirty more to come.
    assert await house.look() == ["2026-01 is heading for $30.50, above $10.00"]
    assert await house.look(NOON + DAY_MS) == []


async def test_budgets_are_read_where_they_are_counted(redis: Redis) -> None:
    month = Budget(id="b1", scope="team", subject="red", limit_nano=1000, window="month", alert_at=(0.5,))
    each = Budget(id="b2", scope="user", subject="*", limit_nano=50, window="24h", name="per user")
    for budget in (month, each):
        await redis.hset(KEYS.definitions, f"{FIELD}{budget.id}", msgspec.json.encode(budget))
    now = account_of(month, "red", NOON)
    for account, limit, known in (
        (now, 1000, {"": 600}),
        (account_of(month, "red", NOON - 40 * DAY_MS), 1000, {"": 999}),
        (account_of(each, "alice", NOON), 50, {account_of(each, "alice", NOON).slice: 49}),
        (account_of(of_key("k1", "ci", "default", 800), "k1", NOON), 800, {"": 800}),
    ):
        await catch_up(redis, KEYS, account, limit, known, NOON)
    found = await states(redis, KEYS, [key_record("k1", name="ci", budget_nano=800), key_record("k2")], NOON)
    assert sorted((one.name, one.spent_nano, one.limit_nano) for one in found) == [
        ("ci", 800, 800),
        ("of team red", 600, 1000),
        ("per user: alice", 49, 50),
    ]
    told = rules.budgets(found, AlertsConfig())
    assert sorted(one.title for one in told) == [
        "Budget ci: exhausted",
        "Budget of team red: 60% used",
        "Budget per user: alice: 98% used",
    ]
    assert "2026-02-01 00:00 UTC" in next(one.text for one in told if "red" in one.title)


async def test_slack_shows_it_and_a_name_cannot_ping_anybody(inbox: Webhook) -> None:
    assert await channels.deliver(FINDING, AlertsConfig(webhook=inbox.url)) == {"log": "sent", "webhook": "sent"}
    assert inbox.received[0]["text"] == "⚠️ *Budget &lt;!here&gt; &amp; co*\n80 % used"


async def test_mail_goes_out_without_holding_up_the_loop(post: Mailbox) -> None:
    mail = EmailConfig(host="127.0.0.1", port=post.port, to=("ops@example.com", "cfo@example.com"), security="none")
    assert (await channels.deliver(FINDING, AlertsConfig(email=mail)))["email"] == "sent"
    assert "Subject: [farthing] Budget <!here> & co" in post.messages[0]
    assert "To: ops@example.com, cfo@example.com" in post.messages[0]


async def test_a_channel_that_fails_says_so_without_its_secret(
    inbox: Webhook, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_PAUSE_S", 0.01)
    inbox.statuses = [403]
    gone = EmailConfig(host="127.0.0.1", port=9, to=("ops@example.com",), password="planted-password")
    outcome = await channels.deliver(FINDING, AlertsConfig(webhook=inbox.url, email=gone))
    assert outcome["webhook"] == "the webhook answered 403"
    assert outcome["email"].startswith("the mail server did not take it")
    unreachable = await channels.deliver(FINDING, AlertsConfig(webhook="http://127.0.0.1:9/planted-secret"))
    assert unreachable["webhook"].startswith("the webhook cannot be reached")
    assert "planted" not in caplog.text + str(outcome) + str(unreachable)


async def test_a_test_message_says_how_each_channel_took_it(inbox: Webhook) -> None:
    outcome = await send_test(AlertsConfig(webhook=inbox.url))
    assert outcome == {"log": "sent", "webhook": "sent", "email": "not configured"}
    assert inbox.titles == ["Test alert"]


async def test_an_admin_can_send_one_and_nobody_else(tmp_path: Path, upstream: Upstream, inbox: Webhook) -> None:
    models = [hosted("big", upstream.base_url)]
    async with gateway(tmp_path, models, alerts={"webhook": inbox.url}) as running:
        assert (await running.http.post("/admin/alerts/test")).status_code in (401, 403)
        reply = await running.admin("POST", "/admin/alerts/test")
        assert reply.json() == {"log": "sent", "webhook": "sent", "email": "not configured"}
        assert (await running.admin("GET", "/admin/alerts")).json() == {"object": "list", "data": []}
    assert inbox.titles == ["Test alert"]


def test_the_command_line_sends_one_too(tmp_path: Path, inbox: Webhook) -> None:
    settings(tmp_path, alerts={"webhook": inbox.url})
    config = ["--config", str(tmp_path / "gateway.yaml")]
    result = CliRunner().invoke(app, ["alerts", "test", *config])
    assert (result.exit_code, inbox.titles) == (0, ["Test alert"])
    inbox.statuses = [404]
    assert CliRunner().invoke(app, ["alerts", "test", "--json", *config]).exit_code == 1


async def test_looking_takes_no_more_than_a_moment_of_the_loop(house: House) -> None:
    """A slow webhook must not hold the loop: the heartbeat beside it goes on."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.001)

    house.states = [spent(0.81)]
    beating = asyncio.create_task(beat())
    await house.look(int(time.time() * 1000))
    beating.cancel()
    assert beats > 3
