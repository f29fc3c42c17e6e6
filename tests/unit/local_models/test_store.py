"""Conversations on disk: found again by another process, bounded, and never believed when they are not whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from local_models.chat.prefix import Kept, as_tokens
from local_models.chat.store import LEAST, Store, fingerprint

MODEL = b"m" * 16
PROMPT = list(range(100))


def kept(*more: int, size: int = 1000) -> Kept:
    return Kept(as_tokens([*PROMPT, *more]), np.arange(size, dtype=np.uint8))


def written(folder: Path, *those: Kept, budget: int = 1 << 20) -> Store:
    store = Store(folder, budget, MODEL)
    for each in those:
        store.keep(each)
    store.close()
    return Store(folder, budget, MODEL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written(tmp_path, kept(1))
    (path,) = tmp_path.glob("*")
    return path


def test_another_process_finds_the_longest_beginning_and_reads_what_was_kept(tmp_path: Path) -> None:
    store = written(tmp_path, kept(1, 2), kept(1, 3, 4))
    found = store.match(as_tokens([*PROMPT, 1, 3, 9]))
    assert found is not None
    stored, length = found
    assert (length, stored.tokens.tolist()) == (102, [*PROMPT, 1, 3, 4])
    state = store.read(stored)
    assert state is not None
    assert np.array_equal(state, kept().state)
    assert store.match(as_tokens(PROMPT[: LEAST - 1] + [0] * 50)) is None


def test_only_the_owner_reads_what_is_kept(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_conversation_that_went_on_takes_the_place_of_its_beginning(tmp_path: Path) -> None:
    store = written(tmp_path, kept(1), kept(1, 2), kept(1, 2))
    assert len(store) == len(list(tmp_path.iterdir())) == 1


def test_the_folder_stays_within_its_bytes_and_what_was_used_last_goes_last(tmp_path: Path) -> None:
    first = written(tmp_path, kept(1), kept(2), budget=3500)
    found = first.match(kept(1).tokens)
    assert found is not None
    first.read(found[0])
    first.keep(kept(3))
    first.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert sum(sizes) == first.size <= 3500
    again = Store(tmp_path, 3500, MODEL)
    matches = [again.match(as_tokens([*PROMPT, last, 0])) for last in (1, 2, 3)]
    assert [match and match[1] for match in matches] == [101, 100, 101]


def test_more_than_the_budget_or_too_short_is_not_written(tmp_path: Path) -> None:
    assert len(written(tmp_path, kept(1), budget=1000)) == 0
    assert len(written(tmp_path, Kept(as_tokens([1, 2, 3]), np.zeros(8, np.uint8)))) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_file_is_a_miss_and_is_deleted(file: Path, damage: str) -> None:
    store = Store(file.parent, 1 << 20, MODEL)
    found = store.match(kept(1).tokens)
    assert found is not None
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes({"cut": data[:-5], "flipped": data, "empty": b""}[damage]))
    assert store.read(found[0]) is None
    assert store.match(kept(1).tokens) is None
    assert not file.exists()


@pytest.mark.parametrize("junk", [b"", b"FKV1", b"\0" * 4096])
def test_what_is_no_such_file_is_not_taken_up(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "0.kv").write_bytes(junk)
    (tmp_path / "1.new").write_bytes(junk)
    (tmp_path / "README").write_bytes(b"not ours")
    assert len(Store(tmp_path, 1 << 20, MODEL)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["README"]


def test_another_model_and_yesterdays_conversations_are_not_taken_up(file: Path) -> None:
    assert len(Store(file.parent, 1 << 20, b"n" * 16)) == 0
    assert not file.exists()
    written(file.parent, kept(1))
    os.utime(file, (1e9, 1e9))
    assert len(Store(file.parent, 1 << 20, MODEL)) == 0


def test_a_folder_that_was_deleted_is_made_again_and_one_that_cannot_be_is_survived(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    store = Store(folder, 1 << 20, MODEL)
    folder.rmdir()
    store.keep(kept(1))
    store.close()
    assert len(list(folder.iterdir())) == 1
    store = Store(folder, 1 << 20, MODEL)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    store.keep(kept(2))
    store.close()
    found = store.match(kept(2).tokens)
    assert found is not None
    assert store.read(found[0]) is None


def test_a_fingerprint_follows_the_models_content_not_its_name(tmp_path: Path) -> None:
    first, copy, other = (tmp_path / name for name in "abc")
    data = bytearray(os.urandom(1 << 20))
    first.write_bytes(data)
    copy.write_bytes(data)
    data[-1] ^= 1
    other.write_bytes(data)
    assert fingerprint(first, "q8_0") == fingerprint(copy, "q8_0")
    assert len({fingerprint(first, "q8_0"), fingerprint(first, "f16"), fingerprint(other, "q8_0")}) == 3
