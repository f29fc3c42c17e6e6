"""How the shipped mixture is made (``gateway router train``) from the rows of :mod:`gateway.policy.graded`.

An expert is a weighted ridge regression, the gate a multinomial logistic regression, with nothing but numpy. Nothing is
drawn at random: the same rows and vectors make the same file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.graded import Row, rows_of
from gateway.policy.learned import CLIP, FULL, FULL_SCALE, KINDS, Words, softmax
from gateway.policy.signals import NAMES, WINDOW, signals, split_words, stem

DIMENSION = 64
_PENALTY, _FULL_PENALTY, _STEPS_PENALTY = 300.0, 3000.0, 100.0
_FORM_ALONE = "word-problem"
_WRITTEN_WEIGHT = {"anchor": 13.0, "subject": 10.0}
_STEPS_EVERY = 8
_GATE_ROWS = 6_000
_GATE_ROUNDS, _GATE_RATE, _GATE_DECAY, _GATE_SHARPNESS = 300, 0.5, 1e-3, 4.0
_WORDS_MAX = 24_000
_DUST = 1e-12

Values: TypeAlias = NDArray[np.float64]
Embed: TypeAlias = Callable[[list[str]], NDArray[np.float32]]


def word_vectors(folder: Path, counted: Counter[str]) -> tuple[list[str], NDArray[np.float32]]:
    """The model's own token vectors for whole words: (words, dimension of its table). Raises OSError."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with np.load(folder / "static.npz") as table:
        vectors, scales = table["vectors"], table["scales"]
    whole = {word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii()}
    often = [word for word, count in counted.most_common() if count >= 3 and word not in whole and word.isascii()]
    words = sorted({*whole, *often[: max(0, _WORDS_MAX - len(whole))]})
    pieces = [encoding.ids for encoding in tokenizer.encode_batch(words, add_special_tokens=False)]
    return words, np.stack([scales[ids] @ vectors[ids].astype(np.float32) for ids in pieces])


def reduced(vectors: NDArray[np.float32], weights: Values, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """To the directions in which words, as often as they occur, differ most."""
    mean = (weights @ vectors) / weights.sum()
    _, directions = np.linalg.eigh((vectors * weights[:, None]).T @ vectors)
    return np.asarray((vectors - mean) @ directions[:, ::-1][:, :dimension], np.float32)


def described(prompts: Iterable[str], words: Words) -> tuple[Values, Values]:
    """Signals (prompts, signals) and topics (prompts, dimension), as a :class:`Mixture`'s first stage reads them."""
    pairs = [(signals(prompt), words.mean(split_words(prompt[:WINDOW].lower()))) for prompt in prompts]
    return np.array([form for form, _ in pairs], np.float64), np.array([topic for _, topic in pairs], np.float64)


def embedded(prompts: Iterable[str], embed: Embed) -> Values:
    """Topics (prompts, dimension) as the second stage reads them, one for all prompts of one stem."""
    stems = [stem(prompt) for prompt in prompts]
    once = list(dict.fromkeys(stems))
    at = {text: place for place, text in enumerate(once)}
    return np.asarray(embed(once)[[at[text] for text in stems]] * FULL_SCALE, np.float64)


def standardised(form: Values) -> tuple[Values, dict[str, Values]]:
    """The signals as an expert reads them, and what :class:`Mixture` needs to do the same."""
    mean, spread = form.mean(axis=0), form.std(axis=0) + 1e-3
    return np.clip((form - mean) / spread, -CLIP, CLIP), {"mean": mean, "spread": spread}


def fit(rows: Sequence[Row], x: Values, penalty: float) -> dict[str, Values]:
    """The gates and experts of one stage, from the standardised signals and the topics side by side."""
    kinds = np.array([KINDS.index(row.kind) for row in rows])
    sources = np.array([row.source.split(":")[0] for row in rows])
    weight = _weights(sources.tolist())
    sums = kinds == KINDS.index(_FORM_ALONE)

    def each(y: Values) -> Values:
        # What a word problem is about says nothing of its steps.
        steps = ridge(x[sums, : len(NAMES)], y[sums], weight[sums], _STEPS_PENALTY)
        steps = np.concatenate((steps, np.zeros(1 + x.shape[1] - len(steps))))
        rest = _within(x[~sums], y[~sums], weight[~sums], sources[~sums], penalty)
        return np.stack([steps if kind == _FORM_ALONE else rest for kind in KINDS])

    small, lost = (np.array([getattr(row, what) for row in rows]) for what in ("small", "lost"))
    return {"gates": gate(x, kinds, weight), "small": each(small), "lost": each(lost)}


def _within(x: Values, y: Values, weight: Values, sources: NDArray[np.str_], penalty: float) -> Values:
    """Of graded sets the differences within each count: between them the form of grading would. What was written for
    this project gives the level, and is one source.
    """
    written = np.isin(sources, list(_WRITTEN_WEIGHT))
    sources = np.where(written, "written", sources)
    away_x, away_y = x.copy(), y.copy()
    for source in np.unique(sources):
        own = sources == source
        away_x[own] -= x[own].mean(axis=0)
        away_y[own] -= y[own].mean()
    slopes = ridge(away_x, away_y, weight, penalty)[1:]
    return np.concatenate(([(y[written] - x[written] @ slopes).mean()], slopes))


def _weights(sources: list[str]) -> Values:
    """A source counts by the root of its size, what was written for this project more."""
    counts = Counter(sources)
    weights = np.array([_WRITTEN_WEIGHT.get(source, 1.0) / np.sqrt(counts[source]) for source in sources])
    return np.asarray(weights / weights.mean())


def ridge(x: Values, y: Values, weight: Values, penalty: float) -> Values:
    """Weighted ridge regression, the bias (first) not penalised."""
    total = weight.sum()
    centre, level = weight @ x / total, weight @ y / total
    away = x - centre
    normal = (away * weight[:, None]).T @ away
    normal[np.diag_indices_from(normal)] += penalty * weight.mean()
    slopes = np.linalg.solve(normal, (away * weight[:, None]).T @ (y - level))
    return np.asarray(np.concatenate(([level - centre @ slopes], slopes)))


def gate(x: Values, kinds: NDArray[np.int64], weight: Values) -> Values:
    """Multinomial logistic regression by gradient descent with momentum."""
    some = slice(None, None, max(1, len(x) // _GATE_ROWS))
    inputs = np.hstack([np.ones((len(x), 1)), x])[some]
    wanted, weight = np.eye(len(KINDS))[kinds[some]], weight[some] / weight[some].sum()
    found, moving = np.zeros((len(KINDS), inputs.shape[1])), np.zeros((len(KINDS), inputs.shape[1]))
    for _ in range(_GATE_ROUNDS):
        away = (softmax((inputs @ found.T).astype(np.float32)) - wanted) * weight[:, None]
        moving = 0.9 * moving - _GATE_RATE * (away.T @ inputs + _GATE_DECAY * found) * 0.2
        found = found + moving
    return found * _GATE_SHARPNESS


def vocabulary(rows: Iterable[Row], folder: Path) -> tuple[dict[str, NDArray[np.generic]], Words]:
    """The words of a :class:`Mixture`, as arrays and ready. Raises OSError."""
    counted = Counter(word for row in rows for word in split_words(row.prompt.lower()))
    words, vectors = word_vectors(folder, counted)
    weights = np.array([counted[word] + 1.0 for word in words])
    small = reduced(vectors, weights)
    peaks = np.abs(small).max(axis=1).clip(1e-9)
    coarse, scales = np.rint(small / peaks[:, None] * 127).astype(np.int8), (peaks / 127).astype(np.float32)
    arrays = {"words": np.frombuffer("\n".join(words).encode(), np.uint8), "vectors": coarse, "scales": scales}
    return arrays, Words(words, coarse, scales)


def train(data: Path, embedder: Path, embed: Embed) -> dict[str, NDArray[np.generic]]:
    """The artefact's arrays from the rows in ``data``, a MiniLM folder with its token vectors, and what embeds with it.

    Raises OSError, msgspec.MsgspecError.
    """
    rows = rows_of(data)
    arrays, words = vocabulary(rows, embedder)
    form, topic = described((row.prompt for row in rows), words)
    standard, moments = standardised(form)
    by_words = fit(rows, np.hstack([standard, topic]), _PENALTY)
    some = _to_embed(rows)
    few = [rows[place] for place in some]
    by_meaning = fit(few, np.hstack([standard[some], embedded((row.prompt for row in few), embed)]), _FULL_PENALTY)
    stages = {**moments, **by_words, **{FULL + name: array for name, array in by_meaning.items()}}
    return {**arrays, **{name: _without_dust(array) for name, array in stages.items()}}


def _without_dust(array: Values) -> NDArray[np.float32]:
    """What is zero but for rounding would hang on the number of threads."""
    return np.where(np.abs(array) < _DUST, 0.0, array).astype(np.float32)


def _to_embed(rows: Sequence[Row]) -> list[int]:
    """Places: an embedding says nothing of the steps of a word problem, so that of these a few will do."""
    by_steps = [place for place, row in enumerate(rows) if row.kind == _FORM_ALONE]
    left_out = set(by_steps) - set(by_steps[::_STEPS_EVERY])
    return [place for place in range(len(rows)) if place not in left_out]
