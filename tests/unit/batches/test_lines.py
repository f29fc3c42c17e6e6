"""Lines of input files, rubbish included: each is judged, none makes the judge fall over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.batches import lines
from tests.support.batches import CHAT, jsonl, line

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["custom_id", "method", "url", "body", "other"])
ODD = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(FIELDS, JSON | st.sampled_from(["POST", CHAT])).map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 5_000),
    st.just(b"\r"),
)


def known(model: str) -> bool:
    return model == "auto"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.lists(ODD.map(lambda data: data.replace(b"\n", b" ")), max_size=6))
def test_rubbish_beside_good_lines(tmp_path: Path, odd: list[bytes]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl([line(1), *odd, line(2)]))
    total, problems = lines.check(path, CHAT, 1_000_000, known)
    empty = sum(not each.strip() for each in odd)
    assert total == len(odd) - empty + 2
    assert {problem.line for problem in problems} <= set(range(2, len(odd) + 2))
    for raw in lines.read(path, 1_000_000):
        if raw.number not in {problem.line for problem in problems}:
            assert raw.data is not None
            assert lines.decode(raw.data).url == CHAT


def test_numbers_are_those_of_an_editor_whatever_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([json.dumps(line(1)).encode(), b"", b"{", b"  "]))
    total, problems = lines.check(path, CHAT, 10_000, known)
    assert (total, [(problem.line, problem.code) for problem in problems]) == (2, [(3, "invalid_json_line")])


@pytest.mark.parametrize("ends", [b"\n", b""])
def test_a_line_that_is_too_long_is_told_and_the_next_one_read(tmp_path: Path, ends: bytes) -> None:
    path = tmp_path / "in.jsonl"
    long, good = b"x" * 5_000, json.dumps(line(1)).encode()
    path.write_bytes(long + b"\n" + good + b"\n" + long[:1_001] + ends)
    total, problems = lines.check(path, CHAT, 1_000, known)
    assert (total, [(problem.line, problem.code) for problem in problems]) == (
        3,
        [(1, "line_too_long"), (3, "line_too_long")],
    )
    assert [raw.number for raw in lines.read(path, 1_000) if raw.data] == [2]


def test_no_more_lines_or_problems_than_can_be_dealt_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINES_MAX", 200)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"{\n" * 200)
    assert len(lines.check(path, CHAT, 1_000, known)[1]) == lines.PROBLEMS_MAX
    path.write_bytes(jsonl([line(number) for number in range(201)]))
    assert [problem.code for problem in lines.check(path, CHAT, 1_000, known)[1]] == ["too_many_tasks"]
