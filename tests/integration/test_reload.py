"""Configuration changes while serving: what is wrong changes nothing, what is right is swapped in, on every worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.config import load
from gateway.http.worker import build_runtime
from tests.support.gateway import ADMIN, Gateway, events, gateway, hosted, said, serving
from tests.support.packet_drop import DropRelay
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

ENV = {"GATEWAY_ADMIN_KEY": ADMIN, "BIG_KEY": "upstream-secret"}
BAD = "name: default\nrules:\n  - name: all\n    when: 'difficultly < 0.5'\n    use: [big]\n"


def policy(rule: str) -> str:
    return yaml.safe_dump({"name": "default", "baseline": "big", "rules": [{"name": rule, "use": ["big"]}]})


def write(gate: Gateway, text: str) -> Path:
    file = gate.folder / "policies" / "default.yaml"
    file.write_text(text)
    return file


async def rule(gate: Gateway) -> str:
    return str((await gate.chat(headers={"x-gateway-cache": "no-cache"})).headers["x-gateway-route"])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload reads the process's environment, and these tests do not wait for the file watch."""
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("gateway.reload._POLL_S", 3600)


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream, environment: None) -> AsyncIterator[Gateway]:
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as running:
        yield running


async def reload(gate: Gateway) -> httpx.Response:
    return await gate.admin("POST", "/admin/policies/reload")


async def shown(gate: Gateway) -> dict[str, Any]:
    told: dict[str, Any] = (await gate.admin("GET", "/admin/policies")).json()
    return told


async def test_a_good_policy_is_swapped_in(gate: Gateway) -> None:
    before = await shown(gate)
    write(gate, policy("another"))

    reply = await reload(gate)

    assert reply.status_code == 200
    assert await rule(gate) == "another"
    after = await shown(gate)
    assert after["last_error"] is None
    assert after["policies"][0]["label"] != before["policies"][0]["label"]
    assert reply.json() == after


async def test_a_bad_one_is_refused_with_its_line_and_changes_nothing(gate: Gateway) -> None:
    file = write(gate, BAD)
    before = await shown(gate)

    reply = await reload(gate)

    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["file"], error["line"]) == (400, "invalid_config", str(file), 4)
    assert f"{file}:4" in error["message"]
    assert "difficultly" in error["message"]
    assert await rule(gate) == "all"
    after = await shown(gate)
    assert after["policies"] == before["policies"]
    assert after["last_error"] == error["message"]
    assert "gateway_config_rejected_total 1.0" in (await gate.get("/metrics")).text

    write(gate, policy("mended"))
    assert (await reload(gate)).status_code == 200
    assert ((await shown(gate))["last_error"], await rule(gate)) == (None, "mended")


@pytest.mark.parametrize("damage", ["not-text", "a-folder", "gone", "unreadable-yaml"])
async def test_a_file_that_cannot_be_read_is_refused_as_well(gate: Gateway, damage: str) -> None:
    file = gate.folder / "policies" / "default.yaml"
    if damage in ("gone", "a-folder"):
        file.unlink()
    if damage == "a-folder":
        file.mkdir()
    elif damage == "not-text":
        file.write_bytes(b"name: \xff\xfe\n")
    elif damage == "unreadable-yaml":
        file.write_text("name: {default\n")

    reply = await reload(gate)

    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_config")
    assert str(file.parent) in reply.json()["error"]["message"]
    assert await rule(gate) == "all"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: default\nextends: default\n", ":2: extends: extends itself"),
        ("name: default\nrules: &r [*r]\n", ":2: an alias names what it stands in"),
        (
            "a: &a [x]\n" + "".join(f"{n}: &{n} [" + f"*{b}, " * 20 + "]\n" for b, n in pairwise("abcdef")),
            ":5: with its",
        ),
        ('name: default\nrules: [{name: all, use: ["\\ud800"]}]\n', ":2: not valid YAML: half a character"),
        ("name: default\n# " + "x" * 2_000_000, ": is larger than 1,048,576 bytes"),
        (
            "name: default\nrules: [{name: a, use: [big], when: 'true" + ".a" * 9000 + "'}]",
            ":2: rules[0].when: Expected",
        ),
        (
            "name: default\nrules: [{name: a, use: [big], when: 'tags.all(a, tags.all(a, tags.all(a, true)))'}]",
            ":2: rules",
        ),
    ],
    ids=["circle", "endless", "laughs", "surrogate", "large", "deep", "loops"],
)
async def test_a_file_that_is_meant_to_break_things_breaks_nothing(gate: Gateway, text: str, told: str) -> None:
    before = await shown(gate)
    file = write(gate, text)

    reply = await reload(gate)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_config")
    assert (await gate.admin("POST", "/admin/policies/validate", json={"policy": text})).status_code in (400, 413)
    after = await shown(gate)
    assert after["policies"] == before["policies"]
    assert after["last_error"].startswith(f"{file}{told}")
    assert await rule(gate) == "all"


async def test_a_version_is_put_back_over_files_that_are_no_text(gate: Gateway) -> None:
    (version,) = (await gate.admin("GET", "/admin/policies/history")).json()["data"]
    file = gate.folder / "policies" / "default.yaml"
    file.write_bytes(b"\xff\xfe no text")
    (gate.folder / "policies" / "other.yaml").write_bytes(b"\xff")
    (gate.folder / "policies" / "link.yaml").symlink_to("nowhere.yaml")
    os.mkfifo(gate.folder / "policies" / "pipe.yaml")

    reply = await gate.admin("POST", "/admin/policies/rollback", json={"version": version["id"]})

    assert reply.status_code == 200, reply.text
    assert [path.name for path in sorted(file.parent.glob("*.yaml"))] == ["default.yaml"]
    assert file.read_text() == version["files"]["default.yaml"]


async def test_a_case_that_fails_is_a_bad_policy_too(gate: Gateway) -> None:
    cases = gate.folder / "policies" / "cases"
    cases.mkdir()
    request, expect = {"prompt": "hi"}, {"rule": "elsewhere"}
    model = {
        "name": "big",
        "provider": "openai_compatible",
        "base_url": "http://x/v1",
        "price": {"input": 1, "output": 1},
    }
    case = {"name": "hi goes elsewhere", "request": request, "expect": expect}
    (cases / "mine.yaml").write_text(yaml.safe_dump({"policy": "default", "models": [model], "cases": [case]}))

    reply = await reload(gate)

    assert reply.status_code == 400
    assert "hi goes elsewhere" in reply.json()["error"]["message"]
    assert reply.json()["error"]["file"] == str(cases / "mine.yaml")
    assert await rule(gate) == "all"


async def test_only_an_admin_may_reload(gate: Gateway) -> None:
    write(gate, policy("sneaky"))

    for key, status in (("", 401), ("fg-nobody", 401), (await gate.key(), 403)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        assert (await gate.http.post("/admin/policies/reload", headers=headers)).status_code == status
    assert await rule(gate) == "all"


async def test_models_may_change_too_but_not_where_the_data_are(gate: Gateway, upstream: Upstream) -> None:
    file = gate.folder / "gateway.yaml"
    config = yaml.safe_load(file.read_text())
    config["models"].append(hosted("new", upstream.base_url))
    file.write_text(yaml.safe_dump(config))
    assert (await reload(gate)).status_code == 200
    assert (await gate.chat(model="new")).status_code == 200

    file.write_text(yaml.safe_dump(config | {"data_dir": str(gate.folder / "elsewhere")}))
    refused = await reload(gate)
    assert refused.status_code == 400
    assert "data_dir" in refused.json()["error"]["message"]
    assert (await gate.chat(model="new")).status_code == 200


async def test_a_stream_that_has_begun_ends_under_the_policy_it_began_with(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="one two three four", chunks=4, chunk_delay_s=0.2)
    async with gate.open() as reply:
        lines = reply.aiter_text()
        text = await anext(lines)
        write(gate, policy("next"))
        assert (await reload(gate)).status_code == 200
        assert await rule(gate) == "next"
        text += "".join([part async for part in lines])

    assert said(events(text)) == "one two three four"
    rows = {row.rule: row for row in await gate.rows(2)}
    assert rows["all"].status == "ok"
    assert rows["all"].policy == reply.headers["x-gateway-policy"] != rows["next"].policy


async def test_a_target_that_was_away_stays_away_over_a_reload_and_comes_back(
    tmp_path: Path, upstream: Upstream, environment: None
) -> None:
    async with (
        DropRelay(upstream.port) as relay,
        gateway(tmp_path, [hosted("big", relay.base_url, connect_timeout=0.3)]) as gate,
    ):
        relay.drop()
        assert (await gate.chat()).status_code == 502
        write(gate, policy("next"))

        assert (await reload(gate)).status_code == 200

        assert (await gate.chat()).json()["error"]["code"] == "no_target_available"
        relay.restore()
        await until(lambda: gate.runtime.view.fleet.unavailable("big") is None)
        assert await rule(gate) == "next"


async def test_every_worker_reloads(gate: Gateway) -> None:
    other = build_runtime(load(gate.folder / "gateway.yaml"))
    async with serving(other) as (url, _):
        write(gate, policy("everywhere"))
        assert (await reload(gate)).status_code == 200
        await until(lambda: other.view.policies.policies["default"].rules[0].name == "everywhere")
        write(gate, BAD)
        assert (await reload(gate)).status_code == 400

        async with httpx.AsyncClient(base_url=url, timeout=60.0) as client:
            body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
            reply = await client.post("/v1/chat/completions", json=body)
            assert reply.headers["x-gateway-route"] == "everywhere"


async def test_a_changed_file_is_noticed(gate: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gateway.reload._POLL_S", 0.05)
    other = build_runtime(load(gate.folder / "gateway.yaml"))
    async with serving(other) as (url, _), httpx.AsyncClient(base_url=url, timeout=60.0) as client:
        headers = {"authorization": f"Bearer {ADMIN}"}

        async def told() -> dict[str, Any]:
            answer: dict[str, Any] = (await client.get("/admin/policies", headers=headers)).json()
            return answer

        async def refused() -> bool:
            return bool((await told())["last_error"])

        write(gate, policy("first"))
        await until(lambda: other.view.policies.policies["default"].rules[0].name == "first")
        file = write(gate, BAD)
        await until(refused)
        assert f"{file}:4" in (await told())["last_error"]
        write(gate, policy("second"))
        await until(lambda: other.view.policies.policies["default"].rules[0].name == "second")
        assert not await refused()


@pytest.mark.parametrize(
    ("file", "text", "line", "reason"),
    [
        ("policies/default.yaml", BAD, 4, "difficultly"),
        ("policies/default.yaml", "name: default\nrules: []\n", 2, "rules"),
        ("policies/default.yaml", "name: default\nrulez: 1\n", 2, "rulez"),
        ("policies/default.yaml", "name: [default\n", 2, ""),
        ("gateway.yaml", "server: {prot: 1}\n", 1, "prot"),
    ],
)
def test_a_bad_configuration_at_start_exits_with_its_line(
    tmp_path: Path, file: str, text: str, line: int, reason: str
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "gateway.yaml").write_text(
        yaml.safe_dump({"data_dir": "data", "models": [hosted("big", "http://x/v1")]})
    )
    (tmp_path / file).write_text(text)

    with worker(tmp_path) as process:
        _, said_ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert f"{tmp_path / file}:{line}" in said_
    assert reason in said_
    assert "Traceback" not in said_


def worker(folder: Path) -> subprocess.Popen[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        command = [sys.executable, "-m", "gateway.http.worker", "--fd", str(fd), "--config", f"{folder}/gateway.yaml"]
        return subprocess.Popen(
            command, pass_fds=[fd], env=os.environ | ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


class TestHistory:
    async def versions(self, gate: Gateway) -> list[dict[str, Any]]:
        reply = await gate.admin("GET", "/admin/policies/history")
        listed: list[dict[str, Any]] = reply.json()["data"]
        return listed

    async def test_an_earlier_version_is_put_back_with_its_files(self, gate: Gateway) -> None:
        file = write(gate, policy("good"))
        assert (await reload(gate)).status_code == 200
        good = (await self.versions(gate))[0]
        write(gate, policy("worse"))
        assert (await reload(gate)).status_code == 200
        assert await rule(gate) == "worse"
        reply = await gate.admin("POST", "/admin/policies/rollback", json={"version": good["id"]})
        assert reply.status_code == 200
        assert await rule(gate) == "good"
        assert file.read_text() == policy("good")
        assert (await self.versions(gate))[0]["id"] == good["id"]

    async def test_a_version_that_no_longer_fits_changes_nothing(self, gate: Gateway) -> None:
        write(gate, policy("first"))
        await reload(gate)
        first = (await self.versions(gate))[0]
        write(gate, policy("second"))
        await reload(gate)
        cases = gate.folder / "policies" / "cases"
        history = gate.folder / "data" / "policies-history" / f"{first['id']}.json"
        history.write_text(history.read_text().replace("first", "fi rst"))
        reply = await gate.admin("POST", "/admin/policies/rollback", json={"version": first["id"]})
        assert reply.status_code == 400
        assert not cases.exists()
        assert (gate.folder / "policies" / "default.yaml").read_text() == policy("second")
        assert await rule(gate) == "second"

    async def test_an_unknown_version_is_404(self, gate: Gateway) -> None:
        reply = await gate.admin("POST", "/admin/policies/rollback", json={"version": "0" * 12})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_version")
        assert (await gate.admin("POST", "/admin/policies/rollback", json={})).status_code == 400


class TestValidate:
    async def test_a_right_policy_is_named_and_nothing_changes(self, gate: Gateway) -> None:
        text = "name: default\nbaseline: nobody\nrules:\n  - {name: other, use: [big]}\n"
        reply = await gate.admin("POST", "/admin/policies/validate", json={"policy": text})
        assert reply.json()["policy"].startswith("default@")
        assert "baseline 'nobody' is not a model of gateway.yaml" in reply.json()["warnings"][0]
        assert await rule(gate) != "other"

    async def test_a_wrong_one_is_told_with_its_line(self, gate: Gateway) -> None:
        reply = await gate.admin("POST", "/admin/policies/validate", json={"policy": BAD})
        assert reply.status_code == 400
        assert reply.json()["error"]["line"] == 4
        assert (await gate.admin("POST", "/admin/policies/validate", json={"policy": 3})).status_code == 400

    async def test_it_may_extend_what_is_there(self, gate: Gateway) -> None:
        text = "name: child\nextends: default\ncache: {ttl: 1h}\n"
        assert (await gate.admin("POST", "/admin/policies/validate", json={"policy": text})).status_code == 200
