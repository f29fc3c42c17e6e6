"""Training from files to a verifier that can be loaded; the embeddings are the test's own."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.cache.training import __main__ as training
from gateway.cache.training.pairs import Pair
from gateway.cache.verifier import Model, Verifier, measure
from gateway.cache.words import read


def test_training_writes_a_verifier_its_data_and_a_diagram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, pairs = tmp_path / "questions.jsonl", tmp_path / "pairs.jsonl.gz"
    questions.write_text(json.dumps({"prompt": "Which country exports the most coffee? A) Brazil"}) + "\n")
    rows = [{"a": f"How do I cook {n}?", "b": f"How do I eat {n}?", "label": 0} for n in range(20)]
    pairs.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))

    def matrix(given: Sequence[Pair], _folder: str) -> Any:
        return np.array([measure(read(pair.a), read(pair.b), 0.6 + 0.3 * pair.label) for pair in given])

    monkeypatch.setattr(training, "_matrix", matrix)
    out, drawn = tmp_path / "verifier.json", tmp_path / "diagram.svg"
    files = ("--questions", str(questions), "--pairs", f"{pairs}=0.5", "--out", str(out), "--diagram", str(drawn))
    monkeypatch.setattr(sys, "argv", ["training", "--embedder", "none", "--generate", "300", *files])
    training.main()

    model = msgspec.json.decode(out.read_bytes(), type=Model)
    assert set(model.data) == {"questions.jsonl", "pairs.jsonl.gz", "phrases.yaml"}
    verifier, a, b = Verifier(model), read("What is the capital of Peru?"), read("What's the capital of Peru?")
    assert verifier.p_same(a, b, 0.9) > 0.8 > 0.2 > verifier.p_same(a, b, 0.6)
    assert "320 pairs, AUC held out" in capsys.readouterr().out
    assert "<svg" in drawn.read_text()
