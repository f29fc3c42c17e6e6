"""Prompts and answers that a policy has kept encrypted: no byte of them anywhere; back for who has the key."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import yaml
from sqlalchemy import text
from typer.testing import CliRunner, Result

from gateway.cli.app import app
from gateway.config import load
from gateway.erase import Eraser
from gateway.ledger.store import SqlStore
from gateway.ledger.stream import Drain
from gateway.reload import Reloader
from gateway.sealing import key_id, seal_of
from gateway.types import Content
from tests.support.gateway import ADMIN, EVERYTHING_BIG, Gateway, gateway, hosted
from tests.support.postgres import emptied
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER, ASKED, TOLD = "planted-user-4711", "planted question: who is Alice of Lisbon?", "planted answer: she sells tiles"
OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
KEYS = {"OLD_KEY": OLD, "NEW_KEY": NEW}
SEALED: dict[str, Any] = EVERYTHING_BIG | {
    "name": "sealed",
    "cache": {"exact": False, "semantic": False},
    "contents": {"keep": "encrypted", "retention": "7d", "export": True},
}
MESSAGES = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": TOLD}]
Served = tuple[Gateway, SqlStore, Callable[[], Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream
) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "data").mkdir()
    url = f"sqlite+aiosqlite:///{folder}/data/ledger.sqlite3"
    if request.param == "postgresql":
        url = await emptied(request.getfixturevalue("postgres"))
    store = SqlStore(url)
    await store.migrate()
    ledger = {"url": url, "encryption_keys": ["${OLD_KEY}"]}
    models = [hosted("big", upstream_server.base_url)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "GATEWAY_ADMIN_KEY": ADMIN, "BIG_KEY": "x"}.items():
            patch.setenv(name, value)  # what reloads and commands read
        async with gateway(folder, models, (EVERYTHING_BIG, SEALED), env=KEYS, ledger=ledger) as running:
            yield running, store, lambda: _everything(folder, store)
    await store.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def fresh(served: Served) -> None:
    gate, store, _ = served
    await keyed(gate, ["${OLD_KEY}"])
    await gate.fresh()
    await store.erase(end_user=USER)


async def keyed(gate: Gateway, keys: list[str]) -> None:
    """Have gateway.yaml name these, and the worker read it."""
    file = gate.folder / "gateway.yaml"
    written = yaml.safe_load(file.read_text())
    written["ledger"]["encryption_keys"] = keys
    file.write_text(yaml.safe_dump(written))
    await Reloader(gate.runtime).reload()


async def asked(gate: Gateway, upstream: Upstream, **body: Any) -> str:
    """A conversation that is kept encrypted. Returns the request's id."""
    upstream.enqueue(Plan(text=TOLD))
    reply = await gate.chat(ASKED, model="auto:sealed", user=USER, **body)
    assert reply.status_code == 200
    await gate.runtime.books.drain()
    return str(reply.headers["x-gateway-request-id"])


async def moved(gate: Gateway, store: SqlStore, request_id: str) -> Content:
    await Drain(gate.runtime.redis, store).catch_up()
    content = await store.content(request_id)
    assert content is not None
    return content


async def run(gate: Gateway, *words: str) -> Result:
    arguments = [words[0], "--config", str(gate.folder / "gateway.yaml"), *words[1:]]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


def _files(folder: Path) -> bytes:
    found = b""
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # Redis and SQLite make and remove some meanwhile
            found += path.read_bytes() if path.is_file() else b""
    return found


async def _everything(folder: Path, store: SqlStore) -> bytes:
    """Every file of the gateway's, Redis' and SQLite's among them, and what PostgreSQL's tables hold."""
    found = await asyncio.to_thread(_files, folder)
    if store._engine.dialect.name == "postgresql":
        async with store._engine.connect() as connection:
            for table in ("contents", "ledger"):
                for row in await connection.execute(text(f"SELECT * FROM {table}")):
                    found += b"".join(
                        bytes(value) if isinstance(value, bytes) else str(value).encode() for value in row
                    )
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_no_byte_of_it_is_anywhere_and_an_export_has_all_of_it(
    served: Served, upstream: Upstream, stream: bool
) -> None:
    gate, store, everything = served
    request_id = await asked(gate, upstream, stream=stream)
    on_its_way = await everything()
    content = await moved(gate, store, request_id)
    assert content.form == f"encrypted:{key_id(base64.b64decode(OLD))}"
    for held in (on_its_way, await everything()):
        assert request_id.encode() in held
        assert b"planted question" not in held
        assert b"planted answer" not in held
        assert OLD.encode() not in held
        assert base64.b64decode(OLD) not in held

    result = await run(gate, "export", "--format", "sft")
    assert json.loads(result.stdout) == {"messages": MESSAGES}


async def test_the_spool_holds_no_byte_of_it_either(served: Served, upstream: Upstream) -> None:
    gate, store, everything = served
    upstream.enqueue(Plan(text=TOLD))
    async with gate.open(ASKED, model="auto:sealed", user=USER) as reply:
        gate.redis.kill()
        await reply.aread()
    request_id = reply.headers["x-gateway-request-id"]
    await gate.runtime.books.drain()
    try:
        assert gate.runtime.books.spool.waiting == 1
        spooled = b"".join(path.read_bytes() for path in (gate.folder / "data" / "spool").glob("*.jsonl"))
        assert request_id.encode() in spooled
        assert b"planted question" not in await everything()
    finally:
        gate.redis.start()
    await gate.rows(1)
    assert (await moved(gate, store, request_id)).form.startswith("encrypted:")


async def test_a_new_key_goes_first_and_the_old_one_still_opens(served: Served, upstream: Upstream) -> None:
    gate, store, _ = served
    before = await asked(gate, upstream)
    await keyed(gate, ["${NEW_KEY}", "${OLD_KEY}"])
    after = await asked(gate, upstream)
    forms = [(await moved(gate, store, request_id)).form for request_id in (before, after)]
    assert forms == [f"encrypted:{key_id(base64.b64decode(key))}" for key in (OLD, NEW)]
    lines = (await run(gate, "export", "--format", "sft")).stdout.splitlines()
    assert [json.loads(line)["messages"] for line in lines] == [MESSAGES, MESSAGES]

    await keyed(gate, ["${NEW_KEY}"])  # the old one is let go of
    result = await run(gate, "export", "--format", "sft")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    assert f"1 conversations not read: encrypted under key {key_id(base64.b64decode(OLD))}" in result.stderr


async def test_an_admin_reads_it_on_the_dashboard_and_nobody_else_does(served: Served, upstream: Upstream) -> None:
    gate, store, _ = served
    key = await gate.key("reader")
    request_id = await asked(gate, upstream, key=key)
    await moved(gate, store, request_id)
    admin, html = {"authorization": f"Bearer {ADMIN}"}, {"accept": "text/html"}

    async def shown(headers: dict[str, str], form: str = "") -> httpx.Response:
        reply = await gate.http.get(f"/dashboard/requests/{request_id}{form}", headers=headers)
        assert reply.status_code == 200
        return reply

    assert "planted answer" in (await shown(admin | html)).text
    assert (await shown(admin, ".json")).json()["messages"] == MESSAGES
    for who in ({"authorization": f"Bearer {key}"}, {}):  # its owner, and the anonymous visitor of this machine
        for form, accepted in (("", html), (".json", {})):
            assert "planted" not in (await shown(who | accepted, form)).text.replace(USER, "")

    await keyed(gate, ["${NEW_KEY}"])
    reply = await shown(admin | html | {"cache-control": "no-cache"}, "?again=1")
    assert "cannot be read: encrypted under key" in reply.text
    assert "planted answer" not in reply.text


async def test_what_was_changed_or_moved_is_told_and_never_shown(served: Served, upstream: Upstream) -> None:
    gate, store, _ = served
    first, second = [await moved(gate, store, await asked(gate, upstream)) for _ in range(2)]
    await store.erase(end_user=USER)
    broken = msgspec.structs.replace(first, answer=first.answer[:-1] + bytes([first.answer[-1] ^ 1]))
    swapped = msgspec.structs.replace(second, prompt=first.prompt, answer=first.answer)
    await store.put_contents([broken, swapped])
    result = await run(gate, "export", "--format", "sft")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "2 conversations not read" in result.stderr
    assert "not what was stored" in result.stderr


async def test_erasing_somebody_leaves_nothing_that_a_key_could_open(served: Served, upstream: Upstream) -> None:
    gate, store, everything = served
    request_id = await asked(gate, upstream)
    content = await moved(gate, store, request_id)
    report = await Eraser(gate.runtime.redis, store, gate.folder / "data").erase("user", USER)
    assert (report.contents, report.left) == (1, ())
    held = await everything()
    assert not any(part in held for part in (content.prompt, content.answer, USER.encode()))


@pytest.mark.parametrize("keys", [[], ["${NOT_SET}"]])
async def test_without_a_key_nothing_is_kept_and_check_says_so(
    served: Served, upstream: Upstream, keys: list[str]
) -> None:
    gate, store, everything = served
    await keyed(gate, keys)
    request_id = await asked(gate, upstream)
    await Drain(gate.runtime.redis, store).catch_up()
    assert await store.content(request_id) is None
    assert b"planted question" not in await everything()
    result = await run(gate, "check")
    assert result.exit_code == 1
    assert "policy 'sealed' keeps contents encrypted, and ledger.encryption_keys has no key" in result.stderr
    told = (await gate.admin("GET", "/admin/policies")).json()
    assert "ledger.encryption_keys" in json.dumps(told)


async def test_check_is_content_with_a_key_and_not_with_one_that_is_none(served: Served) -> None:
    gate, _, _ = served
    assert (await run(gate, "check")).exit_code == 0
    file = gate.folder / "gateway.yaml"
    for written, complaint in (
        ("${BIG_KEY}", "ledger.encryption_keys[0]: not 32 bytes in base64"),
        (OLD, "encryption_keys is written out"),
    ):
        file.write_text(file.read_text().replace("${OLD_KEY}", written))
        result = await run(gate, "check")
        assert result.exit_code == 1
        assert complaint in result.stderr.replace("\n", "")
        file.write_text(file.read_text().replace(written, "${OLD_KEY}"))


async def test_keys_are_read_in_either_alphabet(tmp_path: Path) -> None:
    key = bytes(range(224, 256))
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        (tmp_path / "gateway.yaml").write_text("ledger: {encryption_keys: ['${KEY}']}\n")
        settings = load(tmp_path / "gateway.yaml", {"KEY": encode(key).decode()})
        seal = seal_of(settings)
        assert seal is not None
        content = Content(request_id="r", ts_ms=1, expires_ms=2, prompt=b"p", answer=b"a")
        assert seal.open(seal.close(content)) == content
        assert seal.close(content).prompt != seal.close(content).prompt
