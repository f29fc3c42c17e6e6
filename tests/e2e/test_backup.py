"""``deploy/backup.sh`` and ``deploy/restore.sh``: what was answered before a backup is in the books that come back."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from tests.support.ledger import NOON, entry, key_record
from tests.support.postgres import postgres_url
from tests.support.serving import environment, serving, until, write_config
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
ADMIN = "admin-of-the-backup"


def run(script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = os.environ | {"PYTHON": sys.executable, "LEDGER_URL": ""} | env
    command = ["sh", str(ROOT / "deploy" / script), *arguments]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)


def typed(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """As somebody types it who is in ``home``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "LEDGER_URL"))}
    env = kept | {"HOME": str(home)}
    return subprocess.run(command, shell=True, cwd=home, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        server.default = Plan(text="fine")
        yield server


def test_a_running_gateway_is_backed_up_and_comes_back_elsewhere(tmp_path: Path, upstream: Upstream) -> None:
    model = {"name": "big", "provider": "openai_compatible", "base_url": upstream.base_url, "api_key": "k"}
    config = {"models": [{**model, "price": {"input": 2.5, "output": 10}}]}
    policy = "name: default\ncache: {exact: false, semantic: false}\nrules: [{name: all, use: [big]}]\n"
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(policy)
    env = environment(tmp_path, GATEWAY_ADMIN_KEY=ADMIN)
    first, second, file = tmp_path / "data", tmp_path / "elsewhere", str(tmp_path / "backup.tar.gz")

    with (
        serving(write_config(tmp_path, **config), env) as gateway,
        httpx.Client(base_url=gateway.url, timeout=60.0) as client,
    ):
        admin = {"authorization": f"Bearer {ADMIN}"}
        key = client.post("/admin/keys", json={"name": "kept"}, headers=admin).json()["key"]
        before = [ask(client, key) for _ in range(30)]
        over = threading.Event()
        busy = threading.Thread(target=keep_asking, args=(gateway.url, key, over))
        busy.start()
        done = run("backup.sh", file, GATEWAY_DATA_DIR=str(first))
        over.set()
        busy.join()
    assert done.returncode == 0, done.stderr
    assert Path(file).stat().st_mode & 0o077 == 0

    restored = run("restore.sh", file, GATEWAY_DATA_DIR=str(second))
    assert restored.returncode == 0, restored.stderr
    again = run("restore.sh", file, GATEWAY_DATA_DIR=str(second))
    assert (again.returncode, "not empty" in again.stderr) == (1, True)

    moved = write_config(tmp_path, **config, data_dir=str(second))
    with serving(moved, env) as gateway, httpx.Client(base_url=gateway.url, timeout=60.0) as client:
        after = ask(client, key)
        until(lambda: {*before, after} <= rows(second))


async def test_the_commands_of_the_handbook_work_as_they_stand_there(tmp_path: Path) -> None:
    block = (ROOT / "docs" / "operations.md").read_text().partition("```sh")[2].partition("```")[0]
    commands = re.findall(r"^.*deploy/(?:backup|restore)\.sh .*$", block, re.MULTILINE)
    data = tmp_path / ".local" / "share" / "farthing"
    data.mkdir(parents=True)
    store = SqlStore(f"sqlite+aiosqlite:///{data / 'ledger.sqlite3'}")
    await store.migrate()
    await store.append([entry("kept")])
    await store.close()
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    done = [typed(command, tmp_path) for command in commands]
    assert [each.returncode for each in done] == [0, 0], done
    assert rows(tmp_path / "farthing-restored") == {"kept"}


def ask(client: httpx.Client, key: str) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    reply = client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-gateway-request-id"]


def keep_asking(url: str, key: str, over: threading.Event) -> None:
    with httpx.Client(base_url=url, timeout=60.0) as client:
        while not over.is_set():
            ask(client, key)


def rows(folder: Path) -> set[str]:
    with sqlite3.connect(folder / "ledger.sqlite3", timeout=10) as books:
        return {row[0] for row in books.execute("select request_id from ledger")}


async def test_postgresql_is_dumped_and_restored(tmp_path: Path) -> None:
    data, file = tmp_path / "data", str(tmp_path / "backup.tar.gz")
    data.mkdir()
    with postgres_url() as url:
        tools = programs()
        store = SqlStore(url)
        await store.migrate()
        await store.append([entry(f"r{n}", ts_ms=NOON + n * 86_400_000) for n in range(60)])
        await store.put_key(key_record("k1"))
        done = run("backup.sh", file, GATEWAY_DATA_DIR=str(data), LEDGER_URL=url, PATH=tools)
        assert done.returncode == 0, done.stderr
        await store.append([entry("too late")])
        refused = run("restore.sh", file, GATEWAY_DATA_DIR=str(tmp_path / "one"), LEDGER_URL=url, PATH=tools)
        assert refused.returncode == 1
        assert await store.get("too late") is not None
        async with store._engine.begin() as connection:
            for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
                await connection.execute(text(statement))
        await store.close()
        done = run("restore.sh", file, GATEWAY_DATA_DIR=str(tmp_path / "two"), LEDGER_URL=url, PATH=tools)
        assert done.returncode == 0, done.stderr
        store = SqlStore(url)
        assert (await store.totals(Period(0, 2**41))).requests == 60
        assert await store.get("too late") is None
        assert [record["id"] for record in await store.keys()] == ["k1"]
        assert await store.verify() == []
        await store.append([entry("next")])
        await store.close()


def programs() -> str:
    """A PATH on which the server's own pg_dump comes first."""
    import pgserver  # the wheel that the test's server is from

    own = next(Path(pgserver.__file__).parent.rglob("bin/pg_dump"), None)
    if own is None and not shutil.which("pg_dump"):
        pytest.skip("no pg_dump here")
    return f"{own.parent}:{os.environ['PATH']}" if own else os.environ["PATH"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    missing = run("backup.sh", str(tmp_path / "x.tar.gz"), GATEWAY_DATA_DIR=str(tmp_path / "none"))
    assert (missing.returncode, "no data folder" in missing.stderr) == (1, True)
    assert run("backup.sh").returncode == 2
    assert run("restore.sh").returncode == 2
