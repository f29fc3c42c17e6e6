"""What is ruled out before an embedding is computed, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gateway.cache import prefilter as module
from gateway.cache.index import FLAT_FROM
from gateway.cache.prefilter import MARK_BYTES, Marker, Marks
from gateway.cache.static_embedding import StaticEmbedding
from tests.support.models import embed_model

STORED = "How do I learn to play the guitar by myself?"


@pytest.fixture(scope="module")
def marker() -> Marker:
    """With the default model's own token vectors."""
    made = Marker.at(embed_model())
    assert made.whole
    return made


def stored(marker: Marker, *questions: str) -> Marks:
    marks = Marks()
    for question in questions:
        marks.add(question, marker.of(question))
    return marks


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        (STORED, True),
        ("how do i learn to play guitar by myself", True),
        ("How can I learn playing the guitar by myself?", True),
        ("What is the boiling point of nitrogen?", False),
        ("How do I learn to play the guitar by myself in 30 days?", False),
        ("Tell me about anchor basket candle desert 4fa2c81", False),
    ],
)
def test_what_is_near_may_hit_and_what_is_far_or_has_other_numbers_cannot(
    marker: Marker, asked: str, may: bool
) -> None:
    assert stored(marker, STORED).may_hit(marker.of(asked)) is may


def test_where_distant_questions_count_only_numbers_rule_out(marker: Marker) -> None:
    marks = stored(marker, STORED)
    assert marks.may_hit(marker.of("What is the boiling point of nitrogen?"), words=False)
    assert not marks.may_hit(marker.of("What is 2 and 2?"), words=False)


def test_without_token_vectors_nothing_but_numbers_rules_out(marker: Marker, tmp_path: Path) -> None:
    poor = Marker.at(tmp_path)
    assert not poor.whole
    assert not Marker.at(None).whole
    for marks, asking in ((stored(poor, STORED), marker), (stored(marker, STORED), poor), (stored(poor, STORED), poor)):
        assert marks.may_hit(asking.of("What is the boiling point of nitrogen?"))
        assert not marks.may_hit(asking.of("What is 2 and 2?"))


def test_what_goes_no_longer_counts_and_what_stays_does(marker: Marker) -> None:
    questions = [f"What happened in the year {year}?" for year in range(1900, 1920)]
    marks = stored(marker, *questions, *questions)
    assert len(marks) == 20
    for gone in (*questions[::2], "unknown"):
        marks.remove(gone)
    assert [marks.may_hit(marker.of(question)) for question in questions] == [False, True] * 10
    for gone in questions:
        marks.remove(gone)
    assert not marks.may_hit(marker.of(questions[1]))
    assert len(marks) == 0


def test_a_near_one_is_found_among_thousands_and_its_going_noticed(marker: Marker) -> None:
    random, numbers = np.random.default_rng(0), marker.of(STORED)[:8]
    marks = stored(marker, STORED)
    for number in range(FLAT_FROM):
        marks.add(str(number), numbers + random.bytes(MARK_BYTES - 8))
    near, far = (
        marker.of("how do i learn to play guitar by myself"),
        marker.of("What is the boiling point of nitrogen?"),
    )
    assert marks.may_hit(near)
    assert not marks.may_hit(far)
    assert not marks.may_hit(marker.of("How do I learn to play the guitar by myself in 30 days?"))
    marks.remove(STORED)
    assert not marks.may_hit(near)


def test_what_has_no_sketch_is_near_until_it_goes(marker: Marker) -> None:
    marks = stored(marker, STORED)
    marks.add("old", Marker().of(STORED))
    assert marks.may_hit(marker.of("What is the boiling point of nitrogen?"))
    marks.remove("old")
    assert not marks.may_hit(marker.of("What is the boiling point of nitrogen?"))


def test_bits_that_differ_are_counted_alike_in_few_and_in_many_rows() -> None:
    random = np.random.default_rng(1)
    few, asked = random.bytes(64 * 50), random.bytes(64)
    counted = module._differing(bytearray(few), asked)
    assert counted.tolist() == [
        (int.from_bytes(few[n : n + 64]) ^ int.from_bytes(asked)).bit_count() for n in range(0, len(few), 64)
    ]
    many = module._differing(bytearray(few * (FLAT_FROM // 50)), asked)
    assert many.tolist() == counted.tolist() * (FLAT_FROM // 50)


def test_too_many_are_not_looked_through(marker: Marker, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = stored(marker, STORED, "Why is the sky blue?")
    monkeypatch.setattr(module, "_MOST_ROWS", 1)
    assert marks.may_hit(marker.of("What is the boiling point of nitrogen?"))


def test_marks_are_the_same_wherever_they_are_made(marker: Marker) -> None:
    again = Marker.at(embed_model())
    assert again.of(STORED) == marker.of(STORED)
    assert len(marker.of(STORED)) == len(Marker().of("")) == MARK_BYTES


def test_a_text_without_known_tokens_has_no_sketch(marker: Marker) -> None:
    assert marker.of("")[8:] == bytes(MARK_BYTES - 8)


def test_the_static_embedding_is_the_documented_sum(marker: Marker) -> None:
    static = StaticEmbedding(embed_model())
    vector = static.embed(STORED)
    assert vector.shape == (static.dimension,)
    assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=1e-5)
    near, far = static.embed(STORED.upper()), static.embed("the boiling point of nitrogen")
    assert float(vector @ near) == pytest.approx(1.0, abs=1e-5)
    assert float(vector @ far) < 0.5


def test_what_is_no_table_is_not_used(tmp_path: Path) -> None:
    tokenizer = (embed_model() / "tokenizer.json").read_text()
    for name, table, text in (
        ("garbage", None, tokenizer),
        ("shape", {"vectors": np.zeros((3, 2)), "scales": np.zeros(2), "max_tokens": np.int64(9)}, tokenizer),
        ("missing", {"vectors": np.zeros((3, 2))}, tokenizer),
        ("tokenizer", {"vectors": np.zeros((3, 2)), "scales": np.zeros(3), "max_tokens": np.int64(9)}, json.dumps({})),
    ):
        folder = tmp_path / name
        folder.mkdir()
        if table is None:
            (folder / "static.npz").write_bytes(b"PK not a zip")
        else:
            np.savez(folder / "static.npz", **table)
        (folder / "tokenizer.json").write_text(text)
        assert not Marker.at(folder).whole
