"""What leaves is what consented to it, without who asked; encrypted contents stay where there is no key."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.app import app
from gateway.config import load
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from gateway.types import Content
from tests.support.ledger import entry
from tests.support.visits import settings

WHO = "planted-user-4711"


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    settings(tmp_path)
    chosen = load(tmp_path / "gateway.yaml", {})
    chosen.data_dir.mkdir()
    now = int(time.time() * 1000)
    store = SqlStore(ledger_url(chosen))
    await store.migrate()
    rows: list[Any] = [
        entry("told", ts_ms=now - 4000, consented=True, end_user=WHO, session=WHO, tags=("a", "b"), rule="=1+1"),
        entry("redacted", ts_ms=now - 3000, consented=True, cost_nano=1_500_000),
        entry("sealed", ts_ms=now - 2000, consented=True),
        entry("bare", ts_ms=now - 1000, consented=True),
        entry("private", ts_ms=now, end_user=WHO),
    ]
    await store.append(rows)
    messages = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]).encode()
    kept = [
        ("told", messages, b"Because.", "plain"),
        ("redacted", b"who is [name]?", b'{"role": "assistant", "content": "[name]"}', "redacted"),
        ("sealed", b"\x00\x01", b"\x02", "encrypted:1"),
        ("private", b"never to leave", b"nor this", "plain"),
    ]
    await store.put_contents(
        [
            Content(request_id=name, ts_ms=now, expires_ms=now + 10**9, prompt=asked, answer=said, form=form)
            for name, asked, said, form in kept
        ]
    )
    await store.close()
    return tmp_path


def run(folder: Path, *words: str) -> Result:
    result = CliRunner().invoke(app, ["export", "--config", str(folder / "gateway.yaml"), *words])
    assert result.exit_code == 0, result.output
    return result


def test_fine_tuning_gets_conversations_and_nothing_else(folder: Path) -> None:
    result = run(folder, "--format", "sft")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "Because."},
            ]
        },
        {"messages": [{"role": "user", "content": "who is [name]?"}, {"role": "assistant", "content": "[name]"}]},
    ]
    assert "2 rows, 2 without a whole, readable prompt and answer left out" in result.stderr
    assert "encrypted under key 1, and ledger.encryption_keys names no key" in result.stderr


def test_rows_as_json_lines_have_money_in_dollars_and_nobodys_name(folder: Path) -> None:
    run(folder, "--out", str(folder / "rows.jsonl"))
    text = (folder / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["request_id"] for row in rows] == ["told", "redacted", "sealed", "bare"]
    assert rows[1]["cost_usd"] == 0.0015
    assert "messages" in rows[0]
    assert "messages" not in rows[2]
    assert WHO not in text
    assert "never to leave" not in text


def test_a_spreadsheet_is_not_given_formulas(folder: Path) -> None:
    rows = list(csv.DictReader(run(folder, "--format", "csv").stdout.splitlines()))
    assert [row["request_id"] for row in rows] == ["told", "redacted", "sealed", "bare"]
    assert (rows[0]["rule"], rows[0]["tags"]) == ("'=1+1", "a,b")
    assert not {"end_user", "key_id", "session", "detail"} & rows[0].keys()


def test_wrong_words_are_wrong_usage(folder: Path) -> None:
    for words in (["--format", "xml"], ["--since", "yesterday"]):
        result = CliRunner().invoke(app, ["export", "--config", str(folder / "gateway.yaml"), *words])
        assert result.exit_code == 2
