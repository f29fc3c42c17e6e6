"""A graph comes back from disk as it was, without what had been removed; what is not whole is not believed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from gateway.cache import codes
from gateway.cache.codes import Vector
from gateway.cache.segment import Segment
from gateway.cache.snapshot import Snapshots, held, remove_all

ROWS = 300


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


def vectors(count: int = ROWS) -> Vector:
    rows = np.random.default_rng(1).normal(size=(count, 32)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def graph() -> Segment:
    built = Segment.graph(vectors())
    built.append([f"e{n}" for n in range(ROWS)], vectors())
    return built


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path, every_s=0.0)


async def test_a_graph_comes_back_as_it_was_and_grows_on(graph: Segment, snapshots: Snapshots) -> None:
    asked = vectors()[7]
    assert await snapshots.save({"p": graph}, yes)
    [(partition, again)] = (await snapshots.load()).items()
    assert partition == "p"
    assert again.nearest(asked, 5) == graph.nearest(asked, 5)
    again.append(["new"], -asked[None, :])
    assert again.nearest(-asked, 1)[0][0] == "new"


async def test_the_vectors_of_what_was_removed_are_not_in_the_file(
    graph: Segment, snapshots: Snapshots, tmp_path: Path
) -> None:
    storage: Any = faiss.downcast_index(graph.index.storage)
    held_codes = faiss.vector_to_array(storage.codes).reshape(-1, storage.code_size)
    erased, kept = held_codes[7].tobytes(), held_codes[8].tobytes()
    graph.remove("e7")
    assert await snapshots.save({"p": graph}, yes)
    written = b"".join(path.read_bytes() for path in sorted((tmp_path / "snapshots").iterdir()))
    assert kept in written
    assert erased not in written
    assert b"e7\n" not in written
    [again] = (await snapshots.load()).values()
    assert "e7" not in again
    assert len(again) == ROWS - 1
    found = {entry for n in range(ROWS) if n != 7 for entry, _ in again.nearest(vectors()[n], 1)}
    assert len(found) >= 0.97 * (ROWS - 1)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "manifest", "other"])
async def test_what_is_not_whole_is_not_believed(
    graph: Segment, snapshots: Snapshots, tmp_path: Path, damage: str
) -> None:
    assert await snapshots.save({"p": graph}, yes)
    [file] = (tmp_path / "snapshots").glob("*.graph")
    manifest = tmp_path / "snapshots" / "cache-index.json"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        os.truncate(file, 1000)
    elif damage == "missing":
        file.unlink()
    else:
        manifest.write_bytes(b"{" if damage == "manifest" else b'{"format": 999, "parts": []}')
    assert await snapshots.load() == {}


async def test_only_one_writes_and_only_now_and_then(graph: Segment, snapshots: Snapshots, tmp_path: Path) -> None:
    with held(tmp_path):
        assert not await snapshots.save({"p": graph}, yes)
    assert not await snapshots.save({"p": graph}, no)
    assert await snapshots.load() == {}
    assert await snapshots.save({"p": graph}, yes)
    assert not await Snapshots(tmp_path).save({"p": graph}, yes)
    assert await snapshots.save({"p": graph, "q": graph}, yes)
    assert set(await snapshots.load()) == {"p", "q"}
    assert len(list((tmp_path / "snapshots").glob("cache-index-*"))) == 4  # of the last one only


async def test_removing_waits_for_one_that_is_being_written(
    graph: Segment, snapshots: Snapshots, tmp_path: Path
) -> None:
    assert await snapshots.save({"p": graph}, yes)
    with held(tmp_path):
        removing = asyncio.create_task(asyncio.to_thread(remove_all, tmp_path))
        done, _ = await asyncio.wait({removing}, timeout=0.2)
        assert not done
        assert (tmp_path / "snapshots").exists()
    await removing
    assert not (tmp_path / "snapshots").exists()
    assert await snapshots.load() == {}
    remove_all(tmp_path / "nothing here")


async def test_nothing_to_hold_leaves_no_snapshot(graph: Segment, snapshots: Snapshots, tmp_path: Path) -> None:
    assert await snapshots.save({"p": graph}, yes)
    await snapshots.remove()
    await snapshots.remove()
    assert not (tmp_path / "snapshots").exists()


def test_codes_of_a_graph_are_close_to_the_vectors(graph: Segment) -> None:
    again = graph.vectors(0, ROWS)
    cosines = (again * vectors()).sum(axis=1) / np.linalg.norm(again, axis=1)
    assert cosines.min() > 0.9995
    assert codes.dimension_of(codes.encode(vectors()[0])) == graph.dimension
