"""The nearest stored question, against brute force over the same vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache import index as module
from gateway.cache.index import PartitionIndex, Vector

DIMENSION = 8
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.integers(0, 1000)),
        st.tuples(st.just("remove"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("nearest"), st.integers(1, 6), st.integers(0, 1000)),
    ),
    max_size=120,
)


def unit(seed: int, dimension: int = DIMENSION) -> Vector:
    vector = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def brute_force(model: dict[str, Vector], wanted: Vector, count: int) -> list[tuple[str, float]]:
    scored = [(name, float(vector @ wanted)) for name, vector in model.items()]
    return sorted(scored, key=lambda pair: -pair[1])[:count]


def check(found: list[tuple[str, float]], model: dict[str, Vector], wanted: Vector, count: int) -> None:
    expected = brute_force(model, wanted, count)
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert len({name for name, _ in found}) == len(found)
    for name, score in found:
        assert float(model[name] @ wanted) == pytest.approx(score, abs=1e-5)


@given(steps=STEPS, rows=st.sampled_from([1000, 12, 1]))
@settings(deadline=None, max_examples=80)
def test_any_history_of_changes_leaves_the_live_entries(steps: list[tuple[str, int, int]], rows: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FAISS_ROWS", rows)
        index, model = PartitionIndex(DIMENSION), dict[str, Vector]()
        for what, number, seed in steps:
            if what == "add":
                index.add(f"e{number}", unit(seed))
                model[f"e{number}"] = unit(seed)
            elif what == "remove":
                index.remove(f"e{number}")
                model.pop(f"e{number}", None)
            else:
                check(index.nearest(unit(seed), number), model, unit(seed), number)
            assert len(index) == len(model)


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
    assert score == pytest.approx(1.0)


def test_thousands_of_rows_before_and_after_faiss_and_compaction() -> None:
    index, model = PartitionIndex(384), dict[str, Vector]()
    for n in range(1_300):
        model[f"e{n}"] = unit(n, 384)
        index.add(f"e{n}", model[f"e{n}"])
        if n in {998, 999, 1_000, 1_299}:
            check(index.nearest(unit(5_000, 384)), model, unit(5_000, 384), 4)
    for n in range(0, 1_300, 3):  # a third of them: compacted on the way
        index.remove(f"e{n}")
        del model[f"e{n}"]
    check(index.nearest(unit(6_000, 384), 10), model, unit(6_000, 384), 10)
    [(name, score)] = index.nearest(model["e1"], 1)
    assert name == "e1"
    assert score == pytest.approx(1.0)
    index.add("new", unit(7_000, 384))
    model["new"] = unit(7_000, 384)
    assert index.nearest(unit(7_000, 384), 1)[0][0] == "new"
    check(index.nearest(unit(8_000, 384)), model, unit(8_000, 384), 4)


def test_the_memory_of_removed_rows_is_given_back() -> None:
    index = PartitionIndex(DIMENSION)
    for n in range(2_000):
        index.add(f"e{n}", unit(n))
        if n >= 10:
            index.remove(f"e{n - 10}")
    assert len(index) == 10
    assert len(index._rows) < 64
