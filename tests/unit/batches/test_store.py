"""What stands on disk: holders do not write over each other, and nothing that is there is overlooked."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.batches import disk
from gateway.batches.files import KEPT_S
from gateway.batches.records import Asked, Progress
from gateway.batches.store import BatchStore
from gateway.types import Principal


def asked(**more: object) -> Asked:
    now = int(time.time())
    given = {
        "id": disk.new_id("batch_"),
        "owner": "a" * 24,
        "key_id": "key_1",
        "key_hash": "",
        "endpoint": "/v1/chat/completions",
        "input_file_id": disk.new_id("file-"),
        "created_at": now,
        "expires_at": now + 100,
        "output_s": 100,
        **more,
    }
    return Asked(**given)  # type: ignore[arg-type]


def test_a_holder_that_was_taken_for_dead_changes_nothing(tmp_path: Path) -> None:
    store, batch = BatchStore(tmp_path), asked()
    store.create(batch)
    before = store.hold(batch)
    before.save(Progress(status="in_progress"))
    after = store.hold(batch)
    assert store.progress(batch).status == "in_progress"  # until the new one says something
    after.save(Progress(status="completed", ended_at=1))
    before.save(Progress(status="in_progress"))  # it was only asleep
    found = store.find(batch.id, None)
    assert found is not None
    assert found.status == "completed"
    assert [path.name for path in store.parts(batch)] == ["000001.results", "000002.results"]


def test_two_that_take_their_place_at_once_get_two(tmp_path: Path) -> None:
    store, batch = BatchStore(tmp_path), asked()
    store.create(batch)
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda: numbers.append(store.hold(batch).number)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 17))


def test_waiting_is_what_is_not_over(tmp_path: Path) -> None:
    store, (first, second) = BatchStore(tmp_path), sorted((asked(), asked()), key=lambda each: each.id)
    assert store.waiting() == []
    store.create(first)
    store.create(second)
    assert store.waiting() == [first, second]
    store.over(first)
    assert store.waiting() == [second]
    half = tmp_path / "batches" / "pending" / disk.new_id("batch_")
    half.write_text("b" * 24)  # who made it died before it was there
    assert store.waiting() == [second]
    os.utime(half, (1, 1))
    assert store.waiting() == [second]
    assert not half.exists()


def test_batches_expire_as_files_do(tmp_path: Path) -> None:
    store, old, young = BatchStore(tmp_path), asked(), asked()
    for batch, ended in ((old, time.time() - KEPT_S - 10), (young, time.time())):
        store.create(batch)
        store.hold(batch).save(Progress(status="completed", ended_at=int(ended)))
    store.expire()
    assert [path.name for path in store.all(None)] == [young.id]


def test_an_owner_is_a_team_or_else_a_key() -> None:
    def owner(**more: Any) -> str:
        return disk.owner_of(Principal(**{"key_id": "k1", **more}))

    assert owner(team="red") == owner(team="red", key_id="k2")
    assert len({owner(), owner(key_id="k2"), owner(team="k1"), owner(organisation="x"), owner(team="red")}) == 5
    assert disk.seen_by(Principal(key_id="admin", admin=True)) is None


@pytest.mark.parametrize("name", ["", "file-", "../x", "file-" + "g" * 24, "file-" + "0" * 24 + "\n", "pending"])
def test_what_is_no_id(name: str) -> None:
    assert not disk.is_id(name)
    assert disk.is_id(disk.new_id("file-"))
    assert disk.is_id(disk.new_id("batch_"))
