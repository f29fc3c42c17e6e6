"""How the shipped scorer is made, from a handful of rows: what counts in them, what does not, and no chance."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from gateway.policy.graded import LARGE, SMALL, rows_of
from gateway.policy.learned import DIMENSION, Mixture
from gateway.policy.train import train

TOPICS = ("rivers", "engines", "poems", "orbits", "taxes", "acids")
OPTIONS = "\nA. one\nB. two\nC. three\nAnswer:"


def embed(texts: list[str]) -> NDArray[np.float32]:
    """A direction for each topic, and a little of each text's own."""
    rows = []
    for text in texts:
        own = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])).normal(size=DIMENSION)
        row = own * 0.01
        row[[place for place, topic in enumerate(TOPICS) if topic in text]] += 1.0
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32)


def graded(count: int, level: float = 0.0) -> list[dict[str, object]]:
    """Small models fail on the second half of the topics; ``level`` is how much less they get on all of them."""
    small, large = min(SMALL), min(LARGE)
    return [
        {
            "prompt": f"What does number {place} of the book say about {TOPICS[place % 6]}?{OPTIONS}",
            "domain": "arc_challenge",
            "quality": {small: (0.8 if place % 6 < 3 else 0.3) - level, large: 0.9},
        }
        for place in range(count)
    ]


def written(folder: Path, **files: list[dict[str, object]]) -> Path:
    folder.mkdir()
    for name, rows in files.items():
        lines = b"\n".join(msgspec.json.encode(row) for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines))
    return folder


def sums() -> list[dict[str, object]]:
    then = "Then she buys 3 more and gives 2 away. "
    return [{"prompt": f"Ann has {n} pens. {then * (n % 7)}How many are left?", "steps": 1 + n % 7} for n in range(80)]


@pytest.fixture(scope="module")
def token_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    words = sorted(
        {*TOPICS, *(f"word{chr(97 + place // 26)}{chr(97 + place % 26)}" for place in range(200)), "unknown"}
    )
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="unknown"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.random.default_rng(0).integers(-100, 100, (len(words), 96)).astype(np.int8)
    np.savez(folder / "static.npz", vectors=vectors, scales=np.full(len(words), 0.01, np.float32))
    return folder


def made(folder: Path, token_vectors: Path, *, level: float = 0.0) -> dict[str, NDArray[np.generic]]:
    data = written(folder, mmlupro=graded(60), llmrouter=graded(60, level), gsm8k_train_steps=sums())
    return train(data, token_vectors, embed)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, token_vectors: Path) -> dict[str, NDArray[np.generic]]:
    return made(tmp_path_factory.mktemp("rows") / "first", token_vectors)


def test_the_same_rows_make_the_same_scorer(
    first: dict[str, NDArray[np.generic]], tmp_path: Path, token_vectors: Path
) -> None:
    again = made(tmp_path / "again", token_vectors)

    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_what_was_graded_is_learned(first: dict[str, NDArray[np.generic]]) -> None:
    asked = "What does number 7 of the book say about {}?"
    easy, hard = asked.format("rivers"), asked.format("acids")
    mixture = Mixture(first)
    assert mixture.estimate(easy, embed([easy])[0]).lost < mixture.estimate(hard, embed([hard])[0]).lost


def test_how_strictly_a_whole_set_is_graded_does_not_count(
    first: dict[str, NDArray[np.generic]], tmp_path: Path, token_vectors: Path
) -> None:
    strict = made(tmp_path / "strict", token_vectors, level=0.2)

    for name in ("lost", "small", "full_lost", "full_small"):
        assert np.allclose(first[name], strict[name], atol=1e-5), name


def test_a_question_is_learned_from_with_its_options_and_without(tmp_path: Path) -> None:
    rows = rows_of(written(tmp_path / "data", mmlupro=graded(3), llmrouter=[], gsm8k_train_steps=[]))

    asked = [row for row in rows if row.source.startswith("mmlupro")]
    assert [row.prompt.endswith("Answer:") for row in asked] == [True] * 3 + [False] * 3
    assert all(row.lost == pytest.approx(0.1) for row in asked)
