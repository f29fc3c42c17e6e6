"""The nearest stored question, against brute force over the same vectors, in every stage of a partition's life."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache import codes
from gateway.cache import index as module
from gateway.cache.index import FaissThread, PartitionIndex, Vector

DIMENSION = 96
CLOSE = 0.008
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 60), st.integers(0, 1000)),
        st.tuples(st.just("remove"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("nearest"), st.integers(1, 6), st.integers(0, 1000)),
        st.tuples(st.just("tend"), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@pytest.fixture
def thread() -> Iterator[FaissThread]:
    one = FaissThread()
    yield one
    one.close()


def unit(seed: int, dimension: int = DIMENSION) -> Vector:
    vector = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def units(count: int, dimension: int = 32, seed: int = 0) -> Vector:
    """In groups, as questions are."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, count // 20), dimension))
    vectors = centres[random.integers(0, len(centres), count)] + 0.5 * random.normal(size=(count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def check(found: list[tuple[str, float]], model: dict[str, Vector], wanted: Vector, count: int) -> None:
    scored = sorted((float(vector @ wanted) for vector in model.values()), reverse=True)[:count]
    assert [score for _, score in found] == pytest.approx(scored, abs=CLOSE)
    assert len({name for name, _ in found}) == len(found)
    for name, score in found:
        assert float(model[name] @ wanted) == pytest.approx(score, abs=CLOSE)


def recall(index: PartitionIndex, model: dict[str, Vector], asked: Vector, count: int = 5) -> float:
    names, matrix = list(model), np.array(list(model.values()))
    hits = 0
    for wanted in asked:
        best = np.argsort(-(matrix @ wanted))[:count]
        hits += len({names[place] for place in best} & {name for name, _ in index.nearest(wanted, count)})
    return hits / (count * len(asked))


@given(steps=STEPS, stages=st.sampled_from([(1000, 10_000), (8, 1000), (4, 12), (1, 2)]))
@settings(deadline=None, max_examples=30)
def test_any_history_of_changes_leaves_the_live_entries(
    steps: list[tuple[str, int, int]], stages: tuple[int, int]
) -> None:
    async def live() -> None:
        thread, index, model = FaissThread(), PartitionIndex(DIMENSION), dict[str, Vector]()
        for what, number, seed in steps:
            if what == "add":
                index.add(f"e{number}", unit(seed))
                model[f"e{number}"] = unit(seed)
            elif what == "remove":
                index.remove(f"e{number}")
                model.pop(f"e{number}", None)
            elif what == "tend":
                await index.tend(thread)
            else:
                check(index.nearest(unit(seed), number), model, unit(seed), number)
                assert await index.search(unit(seed), number, thread) == index.nearest(unit(seed), number)
            assert len(index) == len(model)
            assert set(index) == set(model)
        thread.close()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("FLAT_FROM", "GRAPH_FROM"), stages, strict=True):
            patch.setattr(module, name, value)
        patch.setattr(module, "_FRESH_MOST", max(1, stages[0] // 3))
        patch.setattr(module, "_MERGED_FROM", max(1, stages[0] // 2))
        asyncio.run(live())


def test_an_empty_index_finds_nothing() -> None:
    index = PartitionIndex(DIMENSION)
    assert index.nearest(unit(1)) == []
    index.add("a", unit(1))
    index.remove("a")
    index.remove("a")
    assert (len(index), index.nearest(unit(1))) == (0, [])


def test_a_second_vector_under_an_id_replaces_the_first() -> None:
    index = PartitionIndex(DIMENSION)
    index.add("a", unit(1))
    index.add("a", unit(2))
    assert len(index) == 1
    [(name, score)] = index.nearest(unit(2))
    assert name == "a"
    assert score == pytest.approx(1.0, abs=CLOSE)


def test_a_flat_partition_finds_what_an_exact_search_finds() -> None:
    index = PartitionIndex(32)
    model = {f"e{n}": vector for n, vector in enumerate(units(3_000))}
    for name, vector in model.items():
        index.add(name, vector)
    for n in range(0, 3_000, 3):  # a third of them: compacted on the way
        index.remove(f"e{n}")
        del model[f"e{n}"]
    assert index.graph is None
    assert recall(index, model, units(50, seed=1)) >= 0.95
    assert sum(each.rows for each in index._segments) < 2_600


async def test_a_graph_is_built_beside_the_searches_and_finds_nearly_all(
    thread: FaissThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRAPH_FROM", 3_000)
    index = PartitionIndex(32)
    model = {f"e{n}": vector for n, vector in enumerate(units(3_500))}
    for name, vector in model.items():
        index.add(name, vector)
    building = asyncio.create_task(index.tend(thread))
    extra, answered = units(600, seed=2), 0
    while not building.done():
        if answered < 600:  # what comes and goes meanwhile counts
            index.add(f"x{answered}", extra[answered])
            model[f"x{answered}"] = extra[answered]
            index.remove(f"e{answered}")
            del model[f"e{answered}"]
        assert [name for name, _ in await index.search(extra[0], 1, thread)] == ["x0"]
        answered += 1
        await asyncio.sleep(0)
    assert await building
    assert answered > 3
    assert index.graph is not None
    assert recall(index, model, units(50, seed=1)) >= 0.9
    assert len(index) == len(model)


async def test_new_rows_are_merged_into_the_graph_and_dead_ones_leave_it(
    thread: FaissThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRAPH_FROM", 1_200)
    monkeypatch.setattr(module, "_MERGED_FROM", 300)
    index, vectors = PartitionIndex(32), units(2_400)
    for n in range(1_500):
        index.add(f"e{n}", vectors[n])
    assert await index.tend(thread)
    graph = index.graph
    assert graph is not None
    for n in range(1_500, 2_400):
        index.add(f"e{n}", vectors[n])
    assert await index.tend(thread)
    assert index.graph is graph
    assert graph.rows > 2_000
    for n in range(0, 2_400, 3):
        index.remove(f"e{n}")
    model = {f"e{n}": vectors[n] for n in range(2_400) if n % 3}
    assert recall(index, model, units(50, seed=1)) >= 0.9
    assert await index.tend(thread)  # past a fifth dead: another graph
    assert index.graph is not None
    assert index.graph is not graph
    assert (index.graph.rows > 1_400, index.graph.dead_share) == (True, 0.0)
    assert recall(index, model, units(50, seed=1)) >= 0.9
    assert not await index.tend(thread)


def test_the_memory_of_removed_rows_is_given_back() -> None:
    index = PartitionIndex(DIMENSION)
    for n in range(2_000):
        index.add(f"e{n}", unit(n))
        if n >= 10:
            index.remove(f"e{n - 10}")
    assert len(index) == 10
    assert len(index._fresh._codes) == 10 * (DIMENSION + codes.SCALE_BYTES)


@pytest.mark.parametrize("dimension", [2, 384, 1536])
def test_a_code_keeps_the_direction(dimension: int) -> None:
    vector = unit(3, dimension)
    code = codes.encode(vector)
    assert len(code) == dimension + 4
    again = codes.decode(code, dimension)[0]
    assert float(again @ vector / np.linalg.norm(again)) > 0.9995
    assert np.linalg.norm(again) == pytest.approx(1.0, abs=0.01)


def test_what_is_no_number_has_a_code_that_is_near_nothing() -> None:
    for odd in (np.full(4, np.nan), np.zeros(4), np.array([np.inf, 0, 0, 0])):
        code = codes.encode(odd.astype(np.float32))
        assert np.isfinite(codes.decode(code, 4)).all()
