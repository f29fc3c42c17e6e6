"""A table of one vector a token: an embedding in microseconds, to tell what a text has nothing to do with.

What the model's own embedding layer makes of each token, without the layers above it: brought to the directions that
vary most, frequent tokens weighted down (Arora et al. 2017, "A simple but tough-to-beat baseline for sentence
embeddings"). No training data and no pass through the model is needed. Passing each token through the whole model, as
model2vec does, takes a minute and was not measurably better at what this is for, see docs/performance.md.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from local_models.embed.folder import BertFolder, UnknownModel, read
from local_models.embed.safetensors import NotSafetensors, Weights

NAME = "static.npz"
DIMENSION = 256
# Arora et al. weigh a word by a / (a + its frequency).
_SMOOTH = 1e-3
# A vocabulary is sorted by frequency, but for single characters, which come first: about where they belong.
_SIGN_RANK, _LETTER_RANK, _RARE_RANK = 1, 100, 20_000

Values = NDArray[np.float32]


class _Tokenizer(msgspec.Struct, frozen=True):
    class Model(msgspec.Struct, frozen=True):
        vocab: dict[str, int]

    class Added(msgspec.Struct, frozen=True):
        id: int

    model: Model
    added_tokens: list[Added] = []


def write(folder: Path) -> Path | None:
    """Write `static.npz` into a model folder, by a rename at the end; None where the model's kind is not known here.

    Arrays: `vectors` int8 (tokens, dimension), `scales` float32 (tokens), zero for special tokens; `max_tokens` int64
    (), what the model itself reads of a text, special tokens not counted. Raises OSError.
    """
    try:
        known = read(folder)
        vectors, scales = table(known)
    except (UnknownModel, NotSafetensors):
        return None
    target = folder / NAME
    staged = folder / f".{NAME}.{os.getpid()}.tmp"
    with staged.open("wb") as file:
        np.savez(file, vectors=vectors, scales=scales, max_tokens=np.int64(known.max_tokens - 2))
    os.replace(staged, target)
    return target


def table(folder: BertFolder) -> tuple[NDArray[np.int8], Values]:
    """Vectors int8 (tokens, dimension) and their scales, weights included. Raises NotSafetensors, UnknownModel."""
    layer = _embedding_layer(folder)
    weights = _token_weights(folder.path, len(layer))
    centred = layer - layer[weights > 0].mean(axis=0)
    reduced = centred @ _directions(centred[weights > 0], DIMENSION)
    peaks = np.abs(reduced).max(axis=1, keepdims=True).clip(1e-9)
    vectors = np.rint(reduced / peaks * 127).astype(np.int8)
    scales: Values = (peaks[:, 0] / 127 * weights).astype(np.float32)
    return vectors, scales


def _embedding_layer(folder: BertFolder) -> Values:
    weights = Weights(folder.path / "model.safetensors")
    place = "embeddings." if "embeddings.LayerNorm.weight" in weights else "bert.embeddings."
    first = weights[place + "token_type_embeddings.weight"][0] + weights[place + "position_embeddings.weight"][1]
    summed = weights[place + "word_embeddings.weight"] + first
    summed -= summed.mean(axis=1, keepdims=True)
    summed /= np.sqrt(summed.var(axis=1, keepdims=True) + folder.config.layer_norm_eps)
    normed: Values = summed * weights[place + "LayerNorm.weight"] + weights[place + "LayerNorm.bias"]
    return normed


def _token_weights(folder: Path, size: int) -> NDArray[np.float64]:
    try:
        tokenizer = msgspec.json.decode((folder / "tokenizer.json").read_bytes(), type=_Tokenizer)
    except msgspec.DecodeError as error:
        raise UnknownModel(f"tokenizer.json: {error}") from error
    special = {added.id for added in tokenizer.added_tokens}
    tokens = {number: token for token, number in tokenizer.model.vocab.items() if number < size}
    words = [number for number, token in tokens.items() if number not in special and _is_word(token)]
    first = min(words, default=0)
    ranks = np.full(size, np.inf)
    for number, token in tokens.items():
        if number not in special and not token.startswith("[unused"):
            ranks[number] = _rank(token, number - first + 1)
    frequencies = 1 / (np.arange(1, size + 1) + 2.7)
    weights = _SMOOTH / (_SMOOTH + 1 / (ranks + 2.7) / frequencies.sum())
    return np.where(np.isinf(ranks), 0.0, weights)


def _is_word(token: str) -> bool:
    return len(token) > 1 and token.isalpha()


def _rank(token: str, place: int) -> int:
    character = token.removeprefix("##")
    if len(character) > 1:
        return max(1, place)
    if not character.isascii():
        return _RARE_RANK
    return _LETTER_RANK if character.isalnum() else _SIGN_RANK


def _directions(rows: Values, most: int) -> Values:
    """The `most` directions along which the rows vary most, as columns."""
    _, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    kept: Values = vectors[:, ::-1][:, :most].astype(np.float32)
    return kept
