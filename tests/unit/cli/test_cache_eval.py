"""``gateway cache simulate`` and ``pairs`` as typed; vectors are counts of words, so that no model is needed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from gateway.cli import cache_eval
from gateway.cli.app import app

QUESTIONS = [
    ("How do I reset my password?", 1),
    ("How do I reset my  password?", 1),
    ("How can I reset my password?", 1),
    ("How do I not reset my password?", 2),
    ("Which bird is that?", 3),
]


def embedded(texts: Sequence[str], _config: object) -> NDArray[np.float32]:
    if not texts:
        return np.empty((0, 1), dtype=np.float32)
    words = sorted({word.strip("?") for text in texts for word in text.lower().split()} - {"do", "can"})
    counts = np.array([[word in text.lower() for word in words] for text in texts], dtype=np.float32)
    lengths: NDArray[np.float32] = np.linalg.norm(counts, axis=1, keepdims=True)
    return counts / lengths


@pytest.fixture(autouse=True)
def _vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_eval, "_embedded", embedded)


def typed(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["cache", *map(str, arguments)])


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def simulated(tmp_path: Path, *options: str, name: str = "s.jsonl") -> list[int | None]:
    stream = written(tmp_path / name, [{"prompt": text, "class_id": c} for text, c in QUESTIONS])
    result = typed("simulate", stream, "--out", tmp_path / "d.jsonl", *options)
    assert result.exit_code == 0, result.output
    return [json.loads(line)["hit_of"] for line in (tmp_path / "d.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz"])
def test_a_line_for_each_request_names_the_answer_served(tmp_path: Path, name: str) -> None:
    assert simulated(tmp_path, name=name) == [None, 0, 0, None, None]


def test_a_static_threshold_serves_what_the_guard_would_not(tmp_path: Path) -> None:
    assert simulated(tmp_path, "--baseline", "cosine:0.8") == [None, 0, 0, 0, None]


def test_in_faq_mode_a_cache_that_knows_nothing_serves_nothing(tmp_path: Path) -> None:
    assert simulated(tmp_path, "--mode", "faq") == [None, 0, None, None, None]


def test_pairs_tell_the_guards_reason_and_how_likely_it_is(tmp_path: Path) -> None:
    pairs = written(
        tmp_path / "p.jsonl",
        [{"a": QUESTIONS[2][0], "b": QUESTIONS[0][0]}, {"a": QUESTIONS[3][0], "b": QUESTIONS[0][0], "label": 0}],
    )
    result = typed("pairs", pairs, "--json")
    yes, no = (json.loads(line) for line in result.output.splitlines())
    assert (yes["guard"], yes["accept"]) == (None, True)
    assert (no["guard"], no["accept"]) == ("negation", False)
    assert 0 <= no["p_same"] < yes["p_same"] <= 1
    strict = typed("pairs", pairs, "--json", "--max-wrong-rate", "0.0001")
    assert '"accept":true' not in strict.output
    assert "negation" in typed("pairs", pairs).output


FOLLOW_UP = "What else can I see there?"


def test_a_follow_up_is_only_answered_within_its_own_conversation(tmp_path: Path) -> None:
    paris, rome = ([{"role": "user", "content": f"Tell me about {city}"}] for city in ("Paris", "Rome"))
    asked = [(FOLLOW_UP, paris, 1), (FOLLOW_UP, rome, 2), (FOLLOW_UP, paris, 1), (FOLLOW_UP, None, 3)]
    rows = [{"prompt": text, "history": history, "class_id": c} for text, history, c in asked]
    stream = written(tmp_path / "s.jsonl", rows)
    assert typed("simulate", stream, "--out", tmp_path / "d.jsonl").exit_code == 0
    served = [json.loads(line)["hit_of"] for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert served == [None, None, 0, None]

    pair = {"a": FOLLOW_UP, "b": FOLLOW_UP, "a_history": paris}
    pairs = written(tmp_path / "p.jsonl", [{**pair, "b_history": rome}, {**pair, "b_history": paris}])
    apart, together = (json.loads(line) for line in typed("pairs", pairs, "--json").output.splitlines())
    assert (apart["guard"], apart["accept"]) == ("history", False)
    assert (together["guard"], together["accept"]) == (None, True)


def test_what_cannot_be_read_is_said_with_its_line(tmp_path: Path) -> None:
    broken = tmp_path / "p.jsonl"
    broken.write_text('{"a": "x", "b": "y"}\n{"a": 1}\n')
    result = typed("pairs", broken)
    assert result.exit_code == 1
    assert "p.jsonl:2" in str(result.exception)
    assert typed("pairs", tmp_path / "nothing.jsonl").exit_code == 1
    empty = written(tmp_path / "e.jsonl", [])
    assert typed("pairs", empty).output == ""
    assert typed("simulate", empty, "--out", tmp_path / "d").exit_code == 0
    assert typed("simulate", empty, "--out", tmp_path / "d", "--baseline", "cosine:x").exit_code == 2
