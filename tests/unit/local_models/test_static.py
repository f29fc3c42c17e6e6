"""The table of token vectors: what it says of texts, and how it gets beside its model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from local_models import fetch
from local_models.cli import main
from local_models.embed import static
from tests.support.models import EMBED, embed_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The default model's folder without its table, in a models folder of its own."""
    copy = tmp_path / EMBED
    copy.mkdir()
    for file in embed_model().rglob("*"):
        if file.is_file() and file.name != static.NAME:
            (copy / file.relative_to(embed_model())).parent.mkdir(exist_ok=True)
            (copy / file.relative_to(embed_model())).symlink_to(file)
    return copy


def embedded(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    """As a reader of the file does it, see docs/architecture.md."""
    table = np.load(folder / static.NAME, allow_pickle=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids[: int(table["max_tokens"])]
        rows.append((table["vectors"][ids] * table["scales"][ids, None]).sum(axis=0))
    found = np.array(rows, np.float32)
    unit: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def test_the_same_question_asked_otherwise_is_near_and_another_is_far(folder: Path) -> None:
    static.write(folder)
    asked, otherwise, another = embedded(
        folder,
        [
            "How do I reset the password of my account?",
            "how can I reset my account's password",
            "What is the boiling point of water at sea level?",
        ],
    )
    assert asked @ otherwise > 0.8
    assert asked @ another < 0.4
    assert otherwise @ another < 0.4


def test_small_words_weigh_less_than_the_ones_a_question_is_about(folder: Path) -> None:
    static.write(folder)
    table = np.load(folder / static.NAME)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def weight(token: str) -> float:
        number = tokenizer.token_to_id(token)
        return float(np.linalg.norm(table["vectors"][number].astype(float)) * table["scales"][number])

    assert weight("the") < 0.3 * weight("password")
    assert weight("?") < 0.3 * weight("password")
    assert [weight(token) for token in ("[CLS]", "[SEP]", "[PAD]", "[unused5]")] == [0, 0, 0, 0]


def test_the_table_has_a_row_for_every_token_and_stays_small(folder: Path) -> None:
    assert static.write(folder) == folder / static.NAME
    table = np.load(folder / static.NAME, allow_pickle=False)
    assert (table["vectors"].shape, table["vectors"].dtype) == ((30522, static.DIMENSION), np.int8)
    assert (table["scales"].shape, table["scales"].dtype) == ((30522,), np.float32)
    assert int(table["max_tokens"]) == 254
    assert (folder / static.NAME).stat().st_size < 9e6
    vectors = table["vectors"]
    static.write(folder)
    assert np.array_equal(np.load(folder / static.NAME)["vectors"], vectors)


def test_a_model_on_this_machine_gets_its_table(folder: Path) -> None:
    assert fetch.ensure(EMBED, folder.parent) == folder
    written = (folder / static.NAME).stat().st_mtime_ns
    assert fetch.ensure(EMBED, folder.parent) == folder
    assert (folder / static.NAME).stat().st_mtime_ns == written
    assert not list(folder.glob(".*"))


def test_a_models_folder_that_cannot_be_written_to_is_served_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    # Whoever runs the tests as root could write anywhere.
    monkeypatch.setattr(os, "replace", refuse)
    assert fetch.ensure(EMBED, folder.parent) == folder


def test_a_model_of_another_kind_has_no_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    assert static.write(folder) is None
    assert main(["static", str(folder)]) == 1
    assert "not known" in capsys.readouterr().err
    assert not (folder / static.NAME).exists()


def test_the_command_writes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["static", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / static.NAME)
