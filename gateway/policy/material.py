"""What the shipped scorer is trained on, as its two stages read it: form, words and meaning of every prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.graded import Row, Story
from gateway.policy.learned import FULL_SCALE, Words
from gateway.policy.signals import WINDOW, signals, split_words, stem

DIMENSION = 64
_WORDS_MAX = 24_000

Values: TypeAlias = NDArray[np.float64]
Arrays: TypeAlias = dict[str, NDArray[np.generic]]
Embed: TypeAlias = Callable[[list[str]], NDArray[np.float32]]


class Material:
    """What is trained on, described: ``form`` (rows, signals) and its like of the stories, ``topic`` (rows, dimension)
    as the first stage reads it and ``meaning`` (rows, DIMENSION) as the second does.
    """

    def __init__(self, rows: Sequence[Row], stories: Sequence[Story], embedder: Path, embed: Embed) -> None:
        """``embedder``: a MiniLM folder with its token vectors, ``embed`` what embeds with it. Raises OSError."""
        self.rows, self.stories = list(rows), list(stories)
        prompts = [*(row.prompt for row in rows), *(story.prompt for story in stories)]
        self.vocabulary, words = vocabulary(prompts, embedder)
        self.form, self.topic = described((row.prompt for row in rows), words)
        self.story_form = np.array([signals(story.prompt) for story in stories], np.float64)
        self.meaning = embedded((row.prompt for row in rows), embed)


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


def vocabulary(prompts: Iterable[str], folder: Path) -> tuple[Arrays, Words]:
    """The words of a :class:`Mixture`, as arrays and ready. Raises OSError."""
    counted = Counter(word for prompt in prompts for word in split_words(prompt.lower()))
    words, vectors = word_vectors(folder, counted)
    weights = np.array([counted[word] + 1.0 for word in words])
    small = reduced(vectors, weights)
    peaks = np.abs(small).max(axis=1).clip(1e-9)
    coarse, scales = np.rint(small / peaks[:, None] * 127).astype(np.int8), (peaks / 127).astype(np.float32)
    arrays: Arrays = {"words": np.frombuffer("\n".join(words).encode(), np.uint8), "vectors": coarse, "scales": scales}
    return arrays, Words(words, coarse, scales)
