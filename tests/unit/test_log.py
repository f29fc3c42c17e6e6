from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from gateway import log


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(*, json_lines: bool, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setenv("GATEWAY_LOG", "json" if json_lines else "")
    stream = io.StringIO()
    log.setup("worker", stream)
    return stream


def test_people_read_one_line_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written(json_lines=False, monkeypatch=monkeypatch)
    log.get("gateway.test").warning("target is cooling down", model="gpt 4", seconds=1.23456, empty="")
    log.get("gateway.test").debug("too much")
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert 'worker     warning  target is cooling down  model="gpt 4" seconds=1.235 empty=""' in line


def test_machines_read_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written(json_lines=True, monkeypatch=monkeypatch)
    log.get("gateway.test").info("started", port=8080)
    line = json.loads(stream.getvalue())
    assert (line["part"], line["level"], line["event"], line["port"]) == ("worker", "info", "started", 8080)
    assert line["logger"] == "gateway.test"


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_value_cannot_forge_a_line(monkeypatch: pytest.MonkeyPatch, json_lines: bool) -> None:
    stream = written(json_lines=json_lines, monkeypatch=monkeypatch)
    log.get("gateway.test").error("refused", name="x\n12:00:00 worker  error  everything is fine\x1b[2J")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("json_lines", [True, False])
@pytest.mark.parametrize(
    "secret",
    [
        "fg-1234567890abcdef",
        "sk-proj-AbCdEf123456",
        "Authorization: Bearer abc.def-ghi",
        "redis://user:hunter2hunter2@host:6379/0",
        'said "Bearer abcdefgh"',
    ],
)
def test_secrets_are_blotted_out(monkeypatch: pytest.MonkeyPatch, json_lines: bool, secret: str) -> None:
    stream = written(json_lines=json_lines, monkeypatch=monkeypatch)
    log.get("gateway.test").info("calling", what=secret, also="a@b")
    logging.getLogger("some.library").warning("failed with %s", secret)
    text = stream.getvalue()
    for part in ("1234567890abcdef", "AbCdEf123456", "abc.def-ghi", "hunter2", "abcdefgh"):
        assert part not in text
    if json_lines:
        assert all(json.loads(line) for line in text.splitlines())


@pytest.mark.parametrize("json_lines", [True, False])
def test_an_exception_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch, json_lines: bool) -> None:
    stream = written(json_lines=json_lines, monkeypatch=monkeypatch)
    try:
        raise ValueError("broken with sk-abcdef123456")
    except ValueError:
        log.get("gateway.test").exception("a chore failed", chore="sweep")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "ValueError: broken with sk-…" in text
    assert "test_log.py:" in text
    assert ("trace" in text) == json_lines


def test_setting_up_twice_writes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written(json_lines=False, monkeypatch=monkeypatch)
    stream = written(json_lines=False, monkeypatch=monkeypatch)
    log.get("gateway.test").info("once")
    assert stream.getvalue().count("once") == 1
