"""The shipped verifier, and that training makes one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.cache import verifier
from gateway.cache.training import diagram
from gateway.cache.training.pairs import generate
from gateway.cache.verifier import MEASURES, Measures, Model, Tree, Verifier, measure, shipped
from gateway.cache.words import read

STUMP = Tree([0, -1, -1], [0.9, 0.0, 0.0], [1, 0, 0], [2, 0, 0], [0.0, -2.0, 2.0])


def p(a: str, b: str, cosine: float) -> float:
    return shipped().p_same(read(a), read(b), cosine)


def test_paraphrases_are_likelier_than_look_alikes() -> None:
    paraphrase = p("How can I reset my password?", "How do I reset my password?", 0.98)
    assert paraphrase > 0.95
    assert p("Hwo can I resett my password?", "How do I reset my password?", 0.9) > 0.5
    for other in ("How do I reset my phone?", "Why should I reset my password?", "How do I share my password?"):
        assert p(other, "How do I reset my password?", 0.9) < 0.9 < paraphrase


def test_a_known_word_is_no_slip_of_another() -> None:
    slip, other = MEASURES.index("typos"), MEASURES.index("fewer_unmatched")
    known = measure(read("boiling point of ethanol"), read("boiling point of methanol"), 0.9)
    assert (known[slip], known[other]) == (0, 1)
    misspelt = measure(read("boiling point of ethanol"), read("boiling point of ethanl"), 0.9)
    assert (misspelt[slip], misspelt[other]) == (1, 0)


def test_texts_that_were_made_to_be_slow_are_not_compared_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long questions of which no word is in the other, each of them almost: a worker has other things to do."""
    compared: list[str] = []

    def slips(a: str, b: str) -> int:
        compared.append(a)
        return 3

    monkeypatch.setattr(verifier, "_slips", slips)
    words = [f"{first}{second}zzzz" for first in "abcdefgh" for second in "ijklmnop"]
    many, almost = (read(" ".join(word + last for word in words)) for last in ("qrst", "tsrq"))
    measure(many, almost, 0.9)
    long, alike = (read(" ".join(letter + "abcdefg" * 10 for letter in letters)) for letters in ("pqr", "stu"))
    measure(long, alike, 0.9)
    assert not compared
    measure(read("How do I recieve it?"), read("How do I receive it?"), 0.9)
    assert compared


def test_it_is_symmetric_and_takes_any_text() -> None:
    texts = ["", "?", "What is it?", "Где метро?", "😀 2 + 2", "the the the", "A" * 500]
    for a in texts:
        for b in texts:
            said = p(a, b, 0.5)
            assert 0 <= said <= 1
            assert said == pytest.approx(p(b, a, 0.5))


def test_trees_are_read_as_they_were_trained() -> None:
    model = Model(list(MEASURES), 0.5, 2.0, -1.0, [STUMP, STUMP], {})
    far, near = (measure(read("a"), read("a"), cosine) for cosine in (0.9, 0.91))
    assert Verifier(model).raw(far) == -3.5
    assert Verifier(model).raw(near) == 4.5
    assert Verifier(model).p_same(read("a"), read("a"), 0.91) == pytest.approx(1 / (1 + np.exp(-8)))


def test_each_tree_leads_to_the_leaf_that_its_nodes_lead_to() -> None:
    """Beside walking them one by one; also on what is just at a threshold, or no number."""
    model = msgspec.json.decode(Path(verifier.__file__).with_name("verifier.json").read_bytes(), type=Model)
    random, edges = np.random.default_rng(0), [tree.threshold[0] for tree in model.trees]

    def walked(tree: Tree, measures: Measures) -> float:
        node = 0
        while tree.feature[node] >= 0:
            left = measures[tree.feature[node]] <= tree.threshold[node]
            node = tree.left[node] if left else tree.right[node]
        return tree.value[node]

    for _ in range(50):
        measures = random.choice([*edges, *random.uniform(-1, 10, len(edges)), np.nan], len(MEASURES))
        expected = model.start + sum(walked(tree, measures) for tree in model.trees)
        assert shipped().raw(measures) == pytest.approx(expected, abs=1e-9)


def test_a_tree_with_too_many_leaves_is_refused() -> None:
    leaves = Tree([-1] * 65, [0.0] * 65, [0] * 65, [0] * 65, [0.0] * 65)
    with pytest.raises(ValueError, match="leaves"):
        Verifier(Model(list(MEASURES), 0.0, 1.0, 0.0, [leaves], {}))


def test_a_model_of_other_measures_is_refused() -> None:
    with pytest.raises(ValueError, match="other measures"):
        Verifier(Model(["cosine"], 0.0, 1.0, 0.0, [STUMP], {}))


def test_the_shipped_model_names_the_data_it_was_trained_on() -> None:
    raw = verifier.__file__.replace("verifier.py", "verifier.json")
    with open(raw, "rb") as file:
        model = msgspec.json.decode(file.read(), type=Model)
    assert "minimal_pairs.jsonl.gz" in model.data
    assert not any("qqp" in name or "quora" in name for name in model.data)
    assert all(len(digest) == 64 for digest in model.data.values())


def test_generated_pairs_are_many_different_and_the_same_each_time() -> None:
    real = ["How do I cook rice in the oven?", "Which country exports the most coffee?", "Is 20 more than 12?"]
    pairs = generate(2_000, 7, real)
    assert pairs == generate(2_000, 7, real)
    assert len({(pair.a, pair.b) for pair in pairs}) == 2_000
    assert 0.3 < sum(pair.label for pair in pairs) / 2_000 < 0.7
    assert len({pair.kind for pair in pairs}) > 15


def test_the_diagram_shows_what_was_said_against_what_was() -> None:
    said, was = np.array([0.05, 0.05, 0.92, 0.999]), np.array([0.0, 1.0, 1.0, 1.0])
    found = list(diagram.bins(said, was, np.array([3.0, 1.0, 1.0, 1.0])))
    assert [(each.low, each.pairs, each.was) for each in found] == [(0.0, 2, 0.25), (0.9, 1, 1.0), (0.995, 1, 1.0)]
    drawn = diagram.svg(found, "Reliability")
    assert drawn.count("<circle") == 3
    assert "Reliability" in drawn
