"""The int8 route: as near to float32 as promised, under an id of its own, and given up where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from local_models.cli import main
from local_models.embed import int8
from local_models.embed.app import identified
from local_models.embed.bert import Bert
from local_models.embed.folder import read
from local_models.embed.model import load
from tests.support.models import EMBED, embed_model

# None of it is in the text that the ranges come from.
TEXTS = [
    "hi",
    "What is the capital of France?",
    "Ünïcode, naïve café, Straße, 東京 and Москва 🙂 \u200b\x00 [SEP] [MASK]",
    "SELECT name, COUNT(*) FROM orders WHERE total > 1e3 GROUP BY name; -- \\frac{\\partial f}{\\partial x}",
    "}{][)(;;;" * 40,
    "A sentence that is much longer than the model reads. " * 60,
]


def copied(folder: Path) -> Path:
    """The default model's folder, without what is made of it."""
    folder.mkdir()
    for file in embed_model().rglob("*"):
        if file.is_file() and file.suffix != ".npz":
            (folder / file.relative_to(embed_model())).parent.mkdir(exist_ok=True)
            (folder / file.relative_to(embed_model())).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(tmp_path_factory.mktemp("models") / EMBED)
    assert (int8.write(folder) or 0) >= int8.LEAST_COSINE
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed does not depend on the processor, only whether it is worth it."""
    monkeypatch.setattr(int8, "quick_int8", lambda: True)


def test_vectors_are_nearly_those_of_float32_and_say_so(folder: Path) -> None:
    quick, exact = load(folder, 1), Bert(read(folder), 1)
    cosines = np.sum(quick.embed(TEXTS).vectors * exact.embed(TEXTS).vectors, axis=1)
    assert cosines.min() >= 0.99
    assert cosines.min() < 1 - 1e-6
    # Rounding evens out over different tokens: the worst there is has but one.
    assert (quick.embed(["word " * 254]).vectors @ exact.embed(["word " * 254]).vectors.T).item() > 0.97
    assert identified("mine", quick) == "mine/mean/384/int8"
    assert identified("mine", exact) == "mine/mean/384"


def test_a_vector_does_not_depend_on_its_neighbours(folder: Path) -> None:
    model = load(folder, 1)
    together = model.embed([*TEXTS, *TEXTS[:3] * 10]).vectors[: len(TEXTS)]
    alone = np.concatenate([model.embed([text]).vectors for text in TEXTS])
    # A sum in another order may round one of its inputs to the next of 256 steps.
    assert np.sum(together * alone, axis=1).min() > 0.9995


def test_a_processor_without_vnni_stays_with_float32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "quick_int8", lambda: False)
    assert load(folder, 1).precision == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_a_file_that_cannot_be_read_stays_with_float32(content: bytes, tmp_path: Path) -> None:
    folder = copied(tmp_path / EMBED)
    (folder / int8.NAME).write_bytes(content)
    assert load(folder, 1).precision == ""


def test_a_model_that_loses_too_much_stays_with_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(tmp_path / EMBED)
    monkeypatch.setattr(int8, "LEAST_COSINE", 1.1)
    assert main(["int8", str(folder)]) == 0
    assert "not used" in capsys.readouterr().out
    assert load(folder, 1).precision == ""
    assert sorted(file.name for file in folder.glob("*.npz")) == [int8.NAME]
