"""llama.cpp's cells: what is moved, saved and shared keeps its bits."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from local_models.chat import prefix
from local_models.chat.context import Context, Logits, Piece, Shape, Share
from local_models.chat.model import Model
from tests.support.models import chat_model

FIRST, SECOND, THIRD = [[1 + start, *range(40, 70), start, *range(80, 100)] for start in (3, 5, 7)]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    made = Model(chat_model())
    yield made
    made.close()


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    made = Context(model, Shape(cells=512, sequences=6, batch=128, outputs=8, threads=2))
    yield made
    made.close()


def computed(context: Context, sequence: int, tokens: list[int]) -> Logits:
    """The logits after these tokens, which the sequence has all but the last of, or none."""
    begin = context.held(sequence)
    logits: Logits = context.decode([Piece(sequence, begin, tokens[begin:], 1)])[0].copy()
    return logits


def alone(context: Context, tokens: list[int]) -> Logits:
    context.clear()
    logits = computed(context, 0, tokens)
    context.clear()
    return logits


def test_what_is_moved_together_keeps_its_bits_and_what_was_buried_is_gone(context: Context) -> None:
    assert context.invariant
    expected = {2: alone(context, SECOND), 4: alone(context, [*SECOND[:30], *THIRD])}
    # Two sequences grow by turns, beside one that is dropped; one shares the other's beginning.
    context.decode([Piece(1, 0, FIRST, 0), Piece(2, 0, SECOND[:30], 0)])
    context.copy(2, 4, 30)
    context.decode([Piece(2, 30, SECOND[30:40], 0), Piece(4, 30, THIRD[:20], 0), Piece(1, len(FIRST), FIRST, 0)])
    context.bury(1, 0)
    held = [(2, prefix.as_tokens(SECOND[:40])), (4, prefix.as_tokens([*SECOND[:30], *THIRD[:20]]))]
    shares = prefix.shares(held)
    assert [(each.source, each.length) for each in shares] == [(-1, 0), (2, 30)]
    context.rebuild(shares)
    assert (context.dead, context.held(1), context.held(2), context.held(4)) == (0, 0, 40, 50)
    assert np.array_equal(computed(context, 2, SECOND), expected[2])
    assert np.array_equal(computed(context, 4, [*SECOND[:30], *THIRD]), expected[4])


def test_moving_frees_cells_for_others(context: Context) -> None:
    for _ in range(20):
        context.decode([Piece(0, context.held(0), [9], 0), Piece(1, 0, FIRST, 0)])
        context.bury(1, 0)
        context.rebuild([Share(0)])
    assert context.held(0) == 20


@pytest.mark.parametrize("seed", range(3))
def test_every_token_has_the_logits_it_has_alone_whatever_happens_to_its_sequence_meanwhile(
    context: Context, seed: int
) -> None:
    """Pieces of any size beside any others, on any number of threads; given away and taken up again, dropped and begun
    anew, moved, shared."""
    assert context.steady
    pick = random.Random(seed)
    texts = [[*FIRST[: pick.randint(1, 40)], *(pick.randint(2, 900) for _ in range(30))] for _ in range(5)]
    expected = []
    for text in texts:
        expected.append(context.decode([Piece(0, 0, text[:-8], 0), Piece(0, len(text) - 8, text[-8:], 8)]).copy())
        context.clear()
    seen = 0
    for turn in range(40):
        context.use(pick.choice((1, 2)))
        pieces, at = [], pick.sample(range(5), pick.randint(1, 5))
        for sequence in at:
            text, done = texts[sequence], context.held(sequence)
            count = min(len(text) - done, pick.choice((1, 1, 3, 20)))
            outputs = max(0, min(count, 1 if done + count > len(text) - 8 else 0))
            pieces += [Piece(sequence, done, text[done : done + count], outputs)] if count else []
        logits = list(context.decode(pieces)) if pieces else []
        for piece in pieces:
            place = piece.position + len(piece.tokens) - len(texts[piece.sequence]) + 7
            if piece.outputs:
                assert np.array_equal(logits.pop(0), expected[piece.sequence][place])
                seen += 1
        sequence = pick.randrange(5)
        if turn % 3 == 0:
            state = context.save(sequence) if context.held(sequence) else None
            context.bury(sequence, 0)
            if state is not None and pick.random() < 0.7:
                assert context.restore(sequence, state)
        else:
            context.bury(sequence, pick.randint(0, max(1, context.held(sequence))))
        if turn % 5 == 4:
            held = [(each, prefix.as_tokens(texts[each][: context.held(each)])) for each in range(5)]
            context.rebuild(prefix.shares([each for each in held if each[1].size]))
    assert seen > 10


def test_what_is_saved_and_given_back_also_elsewhere_and_beside_others_keeps_its_bits(context: Context) -> None:
    expected = alone(context, FIRST)
    context.decode([Piece(0, 0, FIRST[:40], 0)])
    state = context.save(0)
    context.clear()
    context.decode([Piece(1, 0, SECOND, 0)])
    assert context.restore(3, state)
    assert np.array_equal(computed(context, 3, FIRST), expected)
    context.bury(3, 20)
    assert np.array_equal(computed(context, 3, FIRST), expected)


def test_what_does_not_fit_is_not_given_back_and_harms_nobody(context: Context) -> None:
    expected = alone(context, FIRST)
    context.decode([Piece(0, 0, THIRD, 0)])
    state = context.save(0)
    context.clear()
    for sequence in range(1, 5):
        context.decode([Piece(sequence, 0, list(range(2, 122)), 0)])
    assert not context.restore(0, state)
    assert context.held(0) == 0
    context.bury(1, 0)
    context.rebuild([Share(sequence) for sequence in range(2, 5)])
    assert np.array_equal(computed(context, 0, FIRST), expected)
