"""Policies side by side over real HTTP: who is in which arm, what the books say of it, how a losing arm is stopped."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from gateway.alerts.watch import Watch as Alerts
from gateway.background import Background
from gateway.cli.app import app
from gateway.experiments import state
from gateway.experiments.watch import Watch
from gateway.http.worker import build_runtime
from gateway.ledger.store import SqlStore
from gateway.ledger.stream import Drain
from gateway.ledger.where import ledger_url
from gateway.policy.experiments import Stopped
from gateway.runtime import Runtime
from gateway.types import LedgerEntry
from tests.support.gateway import Gateway, gateway, hosted, local, serving, write_policies
from tests.support.inbox import webhook
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHARE = 0.5
EXPERIMENT: dict[str, Any] = {"name": "cheaper", "arms": {"cheap": SHARE}, "by": "session", "stop": {"errors": "+10%"}}
SECRET = {"name": "secret", "when": "'secret' in tags", "use": ["local-small"], "local_only": True}
CONFIDENTIAL = {"name": "confidential", "when": "'confidential' in tags", "use": ["local-small"], "local_only": True}
BIG_NANO, SMALL_NANO = 3_500_000, 700_000  # 1000 tokens in and 100 out, at the prices below
SMALL_PRICE = {"input": 0.5, "output": 2}


def control(experiment: Mapping[str, Any] | None = EXPERIMENT, **more: Any) -> dict[str, Any]:
    named = {"experiment": dict(experiment)} if experiment is not None else {}
    return {
        "name": "default",
        "baseline": "big",
        "rules": [CONFIDENTIAL, {"name": "all", "use": ["big"]}],
        **named,
        **more,
    }


def cheap(**more: Any) -> dict[str, Any]:
    return {"name": "cheap", "baseline": "big", "rules": [SECRET, {"name": "every", "use": ["small"]}], **more}


class House:
    """A gateway with an experiment, and the background's part played by hand."""

    def __init__(self, gate: Gateway, store: SqlStore) -> None:
        self.gate, self.store = gate, store
        runtime = gate.runtime
        self.drain = Drain(runtime.redis, store, runtime.keys)
        self.watch = Watch(runtime.redis, runtime.keys, store)
        self.policies_dir = runtime.view.settings.policies_dir

    async def ask(
        self, session: str, prompt: str = "", *, key: str = "", tags: str = "", **body: Any
    ) -> httpx.Response:
        headers = {"x-gateway-session": session} | ({"x-gateway-tags": tags} if tags else {})
        return await self.gate.chat(prompt or f"about {session}", key=key, headers=headers, **body)

    async def arms(self, sessions: Sequence[str]) -> dict[str, str]:
        """Which policy decides for each."""
        found = {session: (await self.ask(session)).headers["x-gateway-policy"] for session in sessions}
        return {session: label.partition("@")[0] for session, label in found.items()}

    async def book(self) -> None:
        """Everything settled so far is in SQL."""
        await self.gate.runtime.books.drain()
        await self.drain.catch_up()

    async def rows(self) -> list[LedgerEntry]:
        await self.book()
        return await self.store.recent(1000)

    async def look(self) -> list[str]:
        """What the background process does every quarter of a minute."""
        await self.book()
        return await self.watch.look(self.policies_dir)

    async def report(self, *options: str) -> Any:
        config = str(self.gate.folder / "gateway.yaml")
        command = ["experiment", "report", "cheaper", *options, "--config", config]
        result = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert result.exit_code == 0, result.output
        return result

    async def stopped_everywhere(self, *others: Runtime) -> None:
        for runtime in (self.gate.runtime, *others):
            await until(partial(nothing_for, "cheap", runtime), within_s=20)


def exposed(runtime: Runtime) -> str:
    return runtime.metrics.render()[0].decode()


def share_of(arm: str, runtime: Runtime) -> float | None:
    label = f'gateway_experiment_share{{arm="{arm}",experiment="cheaper"}}'
    lines = [line for line in exposed(runtime).splitlines() if line.startswith(label)]
    return float(lines[0].split()[-1]) if lines else None


def script(upstream: Upstream) -> None:
    upstream.plans["big"] = upstream.plans["small"] = Plan(text="fine", prompt_tokens=1000, completion_tokens=100)


@asynccontextmanager
async def house(
    folder: Path, upstream: Upstream, here: Upstream | None = None, policies: Sequence[Any] = (), **sections: Any
) -> AsyncIterator[House]:
    """``here``: what answers as the local model."""
    script(upstream)
    local_url = (here or upstream).base_url
    models = [
        hosted("big", upstream.base_url),
        hosted("small", upstream.base_url, price=SMALL_PRICE),
        local("local-small", local_url),
    ]
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(gateway(folder, models, policies or (control(), cheap()), **sections))
        store = SqlStore(ledger_url(gate.runtime.view.settings))
        stack.push_async_callback(store.close)
        await store.migrate()
        await until(lambda: gate.runtime.pipeline.trials.known)
        yield House(gate, store)


def in_both(arms: Mapping[str, str]) -> tuple[str, str]:
    """A session of the control's, and one of the arm's."""
    found = {name: session for session, name in arms.items()}
    return found["default"], found["cheap"]


def nothing_for(arm: str, runtime: Runtime) -> bool:
    return share_of(arm, runtime) == 0


@pytest.fixture(scope="module")
def here_server() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, here_server: Upstream
) -> AsyncIterator[House]:
    """For who only asks; rows of other tests are in its books."""
    async with house(tmp_path_factory.mktemp("shared"), upstream_server, here_server) as under:
        yield under


@pytest_asyncio.fixture(loop_scope="module")
async def under(shared: House, upstream: Upstream) -> House:
    script(upstream)
    return shared


SESSIONS = [f"s{n}" for n in range(12)]


class TestAssignment:
    async def test_a_session_stays_in_its_arm_and_is_told_so(self, under: House, upstream: Upstream) -> None:
        arms = await under.arms(SESSIONS)
        assert await under.arms(SESSIONS) == arms
        assert set(arms.values()) == {"default", "cheap"}
        session = in_both(arms)[1]
        reply = await under.ask(session, "why?")
        assert reply.headers["x-gateway-model"] == "small"
        told = (await under.gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}")).json()
        experiment = told["experiment"]
        assert (experiment["experiment"], experiment["arm"], experiment["by"]) == ("cheaper", "cheap", "session")
        assert 0 <= experiment["draw"] < experiment["share"] == SHARE
        assert told["policy"] == reply.headers["x-gateway-policy"]
        assert f"experiment:cheaper@{experiment['run']}/cheap" in told["tags"]

    async def test_who_does_not_ask_for_the_policy_is_not_in_it(self, under: House, upstream: Upstream) -> None:
        session = in_both(await under.arms(SESSIONS))[1]
        forged = f"experiment:cheaper@{under.gate.runtime.view.policies.experiments['default'].definition}/cheap"
        told = [
            await under.ask(session, model="big"),
            await under.ask(session, model="auto:cheap", tags=f"blue,{forged}"),
        ]
        assert [reply.headers["x-gateway-route"] for reply in told] == ["pinned", "every"]
        ids = [reply.headers["x-gateway-request-id"] for reply in told]
        rows = {row.request_id: row for row in await under.rows()}
        assert [rows[each].tags for each in ids] == [(), ("blue",)]
        assert ["experiment" in rows[each].detail for each in ids] == [False, False]

    async def test_a_key_that_may_not_use_the_arm_stays_with_the_control_uncounted(
        self, under: House, upstream: Upstream
    ) -> None:
        key = await under.gate.key(policies=["default"])
        replies = [await under.ask(session, key=key) for session in SESSIONS]
        assert {reply.headers["x-gateway-policy"].partition("@")[0] for reply in replies} == {"default"}
        own = [row for row in await under.rows() if row.key_id == under.gate.key_id(key)]
        assert {row.tags for row in own} == {()}

    async def test_arms_share_no_stored_answers(self, under: House, upstream: Upstream) -> None:
        one, other = in_both(await under.arms(SESSIONS))
        asked = [one, one, other, other]
        replies = []
        for session in asked:
            replies.append(await under.ask(session, "the same question"))
            await under.gate.runtime.books.drain()
        assert [reply.headers["x-gateway-cache"] for reply in replies] == ["miss", "exact", "miss", "exact"]
        assert [reply.headers["x-gateway-model"] for reply in replies] == ["big", "big", "small", "small"]

    async def test_no_budget_of_tags_is_charged_for_an_arm(self, under: House, upstream: Upstream) -> None:
        every_tag = {"scope": "tag", "subject": "*", "limit_usd": 0.000001, "window": "1d"}
        budget = (await under.gate.admin("POST", "/admin/budgets", json=every_tag)).json()
        key = await under.gate.key()

        async def enforced() -> bool:
            tagged = await under.ask("s", "over the limit", key=key, tags="blue")
            return "x-gateway-degraded" in tagged.headers

        await until(enforced)
        assert any(row.tags and row.tags[0].startswith("experiment:cheaper@") for row in await under.rows())
        untagged = [await under.ask(session, key=key) for session in SESSIONS[:6]]
        assert {reply.headers.get("x-gateway-degraded") for reply in untagged} == {None}
        assert (await under.gate.admin("DELETE", f"/admin/budgets/{budget['id']}")).status_code == 200

    async def test_explain_says_what_each_arm_would_do(self, under: House, upstream: Upstream) -> None:
        config = ["--config", str(under.gate.folder / "gateway.yaml")]
        command = ["explain", "What is it?", "--json", *config]
        result = await asyncio.to_thread(CliRunner(env={"BIG_KEY": "k"}).invoke, app, command)
        told = json.loads(result.output)["experiment"]
        assert [(arm["arm"], arm["share"], arm["model"]) for arm in told["arms"]] == [
            ("default", SHARE, "big"),
            ("cheap", SHARE, "small"),
        ]


class TestLocalOnly:
    async def test_what_either_policy_keeps_here_is_never_sent_away(
        self, under: House, upstream: Upstream, here_server: Upstream
    ) -> None:
        """``confidential`` is the control's rule and unknown to the arm, ``secret`` the other way round."""
        arms = await under.arms(SESSIONS)
        seen = upstream.total
        for session in SESSIONS:
            reply = await under.ask(session, f"mine alone, {session}", tags="confidential")
            assert reply.headers["x-gateway-policy"].startswith("default@")
            assert reply.headers["x-gateway-model"] == "local-small"
            if arms[session] == "cheap":
                kept = await under.ask(session, f"ours, {session}", tags="secret")
                assert kept.headers["x-gateway-route"] == "secret"
        assert upstream.total == seen
        assert here_server.total > 0
        rows = await under.rows()
        confidential = [row for row in rows if "confidential" in row.tags]
        assert {row.tags for row in confidential} == {("confidential",)}
        assert all(row.served in ("local", "cache") for row in rows if row.detail["local_only"])


class TestReport:
    async def test_it_is_right_to_the_nano_dollar(self, tmp_path: Path, upstream: Upstream) -> None:
        async with house(tmp_path, upstream) as under:
            sessions = [f"s{n}" for n in range(80)]
            arms = await under.arms(sessions)
            upstream.enqueue(Plan(status=400), model="small")
            failing = in_both(arms)[1]
            assert (await under.ask(failing, "this fails")).status_code == 400
            rated = (await under.ask(failing, "and this is rated")).headers["x-gateway-request-id"]
            score = await under.gate.http.post("/v1/feedback", json={"request_id": rated, "score": 0.5})
            assert score.status_code == 200
            await under.book()
            told = json.loads((await under.report("--json")).output)

            counts = Counter(arms.values())
            by_name = {arm["name"]: arm for arm in told["arms"]}
            assert list(by_name) == ["default", "cheap"]
            small = counts["cheap"] + 1
            expected = {"default": (counts["default"], BIG_NANO, 0), "cheap": (small, SMALL_NANO, 1)}
            for name, (answered, nano, failed) in expected.items():
                arm = by_name[name]
                assert arm["requests"] == answered + failed
                assert arm["errors"] == failed
                assert arm["units"] == counts[name]
                assert arm["cost_nano"] == answered * nano
                assert arm["saved_nano"] == answered * (BIG_NANO - nano)
                assert arm["cost_per_request_nano"] == answered * nano / (answered + failed)
            rows = [row for row in await under.rows() if row.tags]
            assert sum(arm["cost_nano"] for arm in told["arms"]) == sum(row.cost_nano for row in rows)
            assert (by_name["cheap"]["rated"], by_name["cheap"]["rating"]) == (1, 0.5)
            cost = by_name["cheap"]["compared"][0]
            assert (cost["metric"], cost["standing"]) == ("cost", "better")
            assert cost["low"] <= cost["estimate"] <= cost["high"] < -0.7
            assert "costs 8" in by_name["cheap"]["verdict"]
            assert "quality: not yet known (" in by_name["cheap"]["verdict"]
            assert told["mismatch"] > 0.001
            assert told["warnings"] == []

            shown = (await under.report()).output
            assert "cheaper: default against others, by session" in shown
            assert ", real" in shown

    async def test_shadows_are_in_no_arm(self, tmp_path: Path, upstream: Upstream) -> None:
        mirrored = {"name": "every", "use": ["small"], "shadow": {"use": ["big"], "usd_per_day": 1}}
        async with house(tmp_path, upstream, policies=(control(), cheap(rules=[mirrored]))) as under:
            session = in_both(await under.arms(SESSIONS))[1]
            await under.ask(session, "once more")

            async def shadowed() -> bool:
                return any(row.key_id == "shadow" for row in await under.rows())

            await until(shadowed)
            tags = [tag for row in await under.rows() if row.key_id == "shadow" for tag in row.tags]
            assert set(tags) == {"shadow"}

    async def test_what_is_not_there_is_said(self, tmp_path: Path, upstream: Upstream) -> None:
        async with house(tmp_path, upstream) as under:
            config = ["--config", str(under.gate.folder / "gateway.yaml")]
            listed = await asyncio.to_thread(CliRunner().invoke, app, ["experiment", "list", "--json", *config])
            (one,) = json.loads(listed.output)
            assert [(arm["name"], arm["share"]) for arm in one["arms"]] == [("default", 0.5), ("cheap", 0.5)]
            assert one["stop"] == {"errors": "+10%"}
            command = ["experiment", "report", "cheeper", *config]
            wrong = await asyncio.to_thread(CliRunner().invoke, app, command)
            assert wrong.exit_code == 1
            assert "did you mean 'cheaper'?" in str(wrong.exception)
            empty = json.loads((await under.report("--json")).output)
            assert [arm["requests"] for arm in empty["arms"]] == [0, 0]
            assert {one["standing"] for one in empty["arms"][1]["compared"]} == {"unknown"}


class TestStopping:
    @staticmethod
    async def lose(under: House, upstream: Upstream, sessions: int = 80) -> dict[str, str]:
        """The arm fails every request; the rule allows ten points more than the control."""
        upstream.plans["small"] = Plan(status=400)
        replies = {f"s{n}": await under.ask(f"s{n}") for n in range(sessions)}
        return {s: reply.headers["x-gateway-policy"].partition("@")[0] for s, reply in replies.items()}

    async def test_a_losing_arm_is_stopped_on_every_worker_and_after_a_restart(
        self, tmp_path: Path, upstream: Upstream
    ) -> None:
        with webhook() as inbox:
            async with house(tmp_path, upstream, alerts={"webhook": inbox.url}) as under:
                settings = under.gate.runtime.view.settings
                async with serving(build_runtime(settings)) as (_, second):
                    await until(lambda: second.pipeline.trials.known)
                    arms = await self.lose(under, upstream)
                    one, lost = in_both(arms)
                    assert share_of("cheap", under.gate.runtime) == SHARE
                    assert await under.look() == ["cheaper/cheap"]
                    await under.stopped_everywhere(second)
                    assert await under.look() == []
                reply = await under.ask(lost, "again")
                assert reply.headers["x-gateway-policy"].startswith("default@")
                assert (await under.ask(one, "again")).headers["x-gateway-policy"].startswith("default@")

                alerts = Alerts(under.gate.runtime.redis, under.gate.runtime.keys, under.store, _no_budgets)
                told = [found.title for found in await alerts.look(settings)]
                assert "Experiment cheaper: cheap was stopped" in told
                assert "Experiment cheaper: cheap was stopped" in inbox.titles

                async with serving(build_runtime(settings)) as (url, restarted), httpx.AsyncClient() as client:
                    await until(lambda: restarted.pipeline.trials.known)
                    body = {"model": "auto", "messages": [{"role": "user", "content": "after a restart"}]}
                    again = await client.post(
                        f"{url}/v1/chat/completions", json=body, headers={"x-gateway-session": lost}
                    )
                    assert again.headers["x-gateway-policy"].startswith("default@")

                await under.book()
                report = json.loads((await under.report("--json")).output)
                stopped = report["arms"][1]
                assert (stopped["share"], stopped["stopped"]["metric"]) == (0.0, "errors")
                assert stopped["verdict"].startswith("stopped: fails ")
                # What the control answers for the stopped arm is not counted as the control's.
                assert sum(arm["requests"] for arm in report["arms"]) == len(arms)

    async def test_the_background_process_does_it_by_itself(self, tmp_path: Path, upstream: Upstream) -> None:
        async with house(tmp_path, upstream) as under:
            await self.lose(under, upstream)
            stop = asyncio.Event()
            background = asyncio.create_task(Background(under.gate.runtime.view.settings, stop).run())
            await until(partial(nothing_for, "cheap", under.gate.runtime), within_s=60)
            stop.set()
            await background

    async def test_it_goes_on_when_an_admin_says_so_and_is_measured_anew(
        self, tmp_path: Path, upstream: Upstream
    ) -> None:
        async with house(tmp_path, upstream) as under:
            gate = under.gate
            assert (await gate.admin("POST", "/admin/experiments/cheaper/resume")).status_code == 404
            assert (await gate.admin("POST", "/admin/experiments/other/resume")).status_code == 404
            lost = in_both(await self.lose(under, upstream))[1]
            await under.look()
            await under.stopped_everywhere()
            (listed,) = (await gate.admin("GET", "/admin/experiments")).json()["data"]
            assert [arm["share"] for arm in listed["arms"]] == [1.0, 0.0]
            assert listed["arms"][1]["stopped"]["metric"] == "errors"
            assert listed["report"]["arms"][1]["requests"] > 0
            key = await gate.key()
            assert (await gate.http.post("/admin/experiments/cheaper/resume")).status_code == 401
            refused = await gate.http.post(
                "/admin/experiments/cheaper/resume", headers={"authorization": f"Bearer {key}"}
            )
            assert refused.status_code == 403

            upstream.plans["small"] = Plan(text="fine", prompt_tokens=1000, completion_tokens=100)
            resumed = await gate.admin("POST", "/admin/experiments/cheaper/resume")
            assert resumed.json()["arms"][1]["share"] == SHARE
            await until(lambda: share_of("cheap", gate.runtime) == SHARE, within_s=20)
            assert (await under.ask(lost, "once more")).headers["x-gateway-policy"].startswith("cheap@")
            under.watch = Watch(gate.runtime.redis, gate.runtime.keys, under.store)
            assert await under.look() == []  # what led to the stop is left behind
            reports = await state.kept_reports(gate.runtime.redis, gate.runtime.keys)
            assert [arm.requests for arm in reports["cheaper"].arms] == [0, 1]

    async def test_it_goes_on_when_the_file_is_edited(self, tmp_path: Path, upstream: Upstream) -> None:
        async with house(tmp_path, upstream) as under:
            lost = in_both(await self.lose(under, upstream))[1]
            await under.look()
            await under.stopped_everywhere()
            edited = EXPERIMENT | {"stop": {"errors": "+90%"}}
            write_policies(tmp_path, (control(edited), cheap()))
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("GATEWAY_ADMIN_KEY", "admin-secret-for-tests")
                environment.setenv("BIG_KEY", "upstream-secret")
                assert (await under.gate.admin("POST", "/admin/policies/reload")).status_code == 200
            assert share_of("cheap", under.gate.runtime) == SHARE
            assert (await under.ask(lost)).headers["x-gateway-policy"].startswith("cheap@")

    async def test_a_stop_never_undoes_what_an_admin_did_meanwhile(self, tmp_path: Path, upstream: Upstream) -> None:
        async with house(tmp_path, upstream) as under:
            runtime = under.gate.runtime
            (experiment,) = runtime.view.policies.experiments.values()
            before = experiment.state({})
            lost = {"cheap": Stopped(at_ms=1, metric="cost", reason="costs more")}
            assert await state.stop(runtime.redis, runtime.keys, experiment, before, lost)
            resumed = await state.resume(runtime.redis, runtime.keys, experiment)
            assert not await state.stop(runtime.redis, runtime.keys, experiment, before, lost)
            assert experiment.state(await state.states(runtime.redis, runtime.keys)) == resumed

    async def test_with_redis_away_everybody_gets_the_control(self, tmp_path: Path, upstream: Upstream) -> None:
        async with house(tmp_path, upstream) as under:
            arms = await under.arms(SESSIONS)
            gate, session = under.gate, in_both(arms)[1]
            gate.redis.kill()
            await until(lambda: not gate.runtime.pipeline.trials.known)
            reply = await under.ask(session, "without Redis")
            assert reply.status_code == 200
            assert reply.headers["x-gateway-policy"].startswith("default@")
            gate.redis.start()
            await until(lambda: gate.runtime.pipeline.trials.known)
            back = await under.ask(session, "with Redis")
            assert back.headers["x-gateway-policy"].startswith("cheap@")
            request_id = reply.headers["x-gateway-request-id"]

            async def replayed() -> list[LedgerEntry]:
                return [row for row in await under.rows() if row.request_id == request_id]

            await until(replayed)
            assert [row.tags for row in await replayed()] == [()]


async def _no_budgets() -> list[Any]:
    return []


async def test_the_dashboard_shows_the_arms_and_what_is_real(tmp_path: Path, upstream: Upstream) -> None:
    async with house(tmp_path, upstream) as under:
        first = (await under.gate.admin("GET", "/dashboard/policies.json")).json()
        assert [row["share"] for row in first["tables"]["experiments"]] == [SHARE, SHARE]
        await under.arms([f"s{n}" for n in range(80)])
        await under.look()
        await until(lambda: _shows(under), within_s=20)
        page = await under.gate.admin("GET", "/dashboard/policies")
        assert '<h2 id="experiments-heading">Experiments</h2>' in page.text
        assert ", real" in page.text


async def _shows(under: House) -> bool:
    rows = (await under.gate.admin("GET", "/dashboard/policies.json")).json()["tables"]["experiments"]
    return all(row["requests"] for row in rows)
