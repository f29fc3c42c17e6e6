"""How the shipped mixture is made (``gateway router train``), with nothing but numpy.

Rows: MMLU-Pro's (Apache-2.0) and LLMRouter's (MIT) graded answers of small and large models, GSM8K's training problems
(MIT), whose number of steps stands for difficulty, and the requests of ``anchors.yaml``. An expert is a weighted ridge
regression, the gate a multinomial logistic regression. Nothing is drawn at random: the same rows make the same file.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from gateway.policy.learned import CLIP, KINDS, Words, softmax
from gateway.policy.signals import NAMES, WINDOW, signals, split_words
from gateway.types import Frozen

ANCHORS = Path(__file__).with_name("anchors.yaml")
DIMENSION = 64
_RIDGE = {"word-problem": 100.0, "examination": 300.0, "request": 30.0}
_FORM_ALONE = "word-problem"
_ANCHOR_WEIGHT = 4.0
_GATE_ROWS = 6_000
_GATE_ROUNDS, _GATE_RATE, _GATE_DECAY, _GATE_SHARPNESS = 300, 0.5, 1e-3, 4.0
_WORDS_MAX = 24_000

SMALL = frozenset((
    "Mistral-7B-Instruct-v0.2", "gemma-7b", "Qwen1.5-7B-Chat", "Mixtral-8x7B-Instruct-v0.1",
    "mistral-7b-instruct-v0.3", "codegemma-7b",
))  # fmt: skip
LARGE = frozenset((
    "Meta-Llama-3_1-70B-Instruct", "gemini-1.5-pro-002", "DeepSeek-Coder-V2",
    "llama-3.1-nemotron-51b-instruct", "llama-3.3-nemotron-super-49b-v1", "gemma-2-9b-it",
))  # fmt: skip
"""Which of the graded models stand for their class. gemma-2-9b answers as the large ones of its set do."""

_EXAMINATIONS = frozenset(("arc_challenge", "openbook_qa", "commonsense_qa", "math", "mmlu"))
_OPTIONS = re.compile(r"\n[A-J][.)] .*|\nAnswer:\s*$")

Values: TypeAlias = NDArray[np.float64]


class Row(Frozen, frozen=True, kw_only=True):
    """A prompt, which expert learns from it, and what a small model gets and loses there."""

    prompt: str
    source: str
    kind: str
    small: float
    lost: float


class _Graded(msgspec.Struct):
    prompt: str
    domain: str
    quality: dict[str, float]


class _Steps(msgspec.Struct):
    prompt: str
    steps: float


class _Anchor(msgspec.Struct, forbid_unknown_fields=True):
    small: float
    lost: float
    ask: list[str]
    fill: list[str | list[str]] = msgspec.field(name="with")


def rows_of(folder: Path) -> list[Row]:
    """All rows to train on. Raises OSError, msgspec.MsgspecError."""
    pro = [_graded(one, "mmlupro", "examination") for one in _read(folder / "mmlupro.jsonl.gz", _Graded)]
    routed = [_graded(one, one.domain, _kind(one.domain)) for one in _read(folder / "llmrouter.jsonl.gz", _Graded)]
    steps = _read(folder / "gsm8k_train_steps.jsonl.gz", _Steps)
    return [*pro, *map(_without_options, pro), *_levelled(routed), *_by_steps(steps), *anchors()]


def anchors() -> Iterator[Row]:
    """The requests written for this project."""
    for name, one in msgspec.convert(yaml.safe_load(ANCHORS.read_text("utf-8")), dict[str, _Anchor]).items():
        for ask in one.ask:
            for filling in one.fill:
                prompt = ask.format(*(filling if isinstance(filling, list) else [filling]))
                yield Row(prompt=prompt, source=f"anchor:{name}", kind="request", small=one.small, lost=one.lost)


_Kind = TypeVar("_Kind", _Graded, _Steps)


def _read(path: Path, kind: type[_Kind]) -> Iterator[_Kind]:
    with gzip.open(path, "rb") as lines:
        yield from msgspec.json.Decoder(kind).decode_lines(lines.read())


def _kind(task: str) -> str:
    return "word-problem" if task == "gsm8k" else "examination" if task in _EXAMINATIONS else "request"


def _graded(one: _Graded, source: str, kind: str) -> Row:
    small = _mean(value for model, value in one.quality.items() if model in SMALL)
    large = _mean(value for model, value in one.quality.items() if model in LARGE)
    return Row(prompt=one.prompt, source=source, kind=kind, small=small, lost=large - small)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _without_options(row: Row) -> Row:
    """As it is asked where the options are not part of the prompt."""
    return msgspec.structs.replace(row, prompt=_OPTIONS.sub("", row.prompt), source="mmlupro-open")


def _levelled(rows: list[Row]) -> Iterator[Row]:
    """Examinations of LLMRouter: within a task the differences count, between tasks the form of grading would."""
    level = {task: _mean(row.lost for row in rows if row.source == task) for task in {row.source for row in rows}}
    common = _mean(level[task] for task in _EXAMINATIONS if task in level)
    for row in rows:
        shift = common - level[row.source] if row.kind == "examination" else 0.0
        yield msgspec.structs.replace(row, lost=row.lost + shift)


def _by_steps(steps: Iterable[_Steps]) -> Iterator[Row]:
    """A step more, or a longer text, costs a small model about what it costs those that were graded."""
    for one in steps:
        away = min(8.0, one.steps) - 3.6 + 1.5 * (math.log1p(len(one.prompt)) - 5.4)
        yield Row(
            prompt=one.prompt, source="gsm8k", kind="word-problem", small=0.52 - 0.07 * away, lost=0.3 + 0.07 * away
        )


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
    """Signals (prompts, signals) and topics (prompts, dimension), as a :class:`Mixture` reads them."""
    pairs = [(signals(prompt), words.mean(split_words(prompt[:WINDOW].lower()))) for prompt in prompts]
    return np.array([form for form, _ in pairs], np.float64), np.array([topic for _, topic in pairs], np.float64)


def fit(rows: Sequence[Row], form: Values, topic: Values) -> dict[str, NDArray[np.float32]]:
    """The arrays of a :class:`Mixture`, but for its words, from described rows."""
    mean, spread = form.mean(axis=0), form.std(axis=0) + 1e-3
    x = np.hstack([np.clip((form - mean) / spread, -CLIP, CLIP), topic])
    weight = _weights([row.source for row in rows])
    kinds = np.array([KINDS.index(row.kind) for row in rows])
    small, lost = (np.array([getattr(row, what) for row in rows]) for what in ("small", "lost"))

    def each(y: Values) -> Values:
        own = [kinds == kind for kind in range(len(KINDS))]
        return np.stack([_expert(x[o], y[o], weight[o], kind) for o, kind in zip(own, KINDS, strict=True)])

    losses = each(lost)
    steps, examination = (KINDS.index(kind) for kind in ("word-problem", "examination"))
    losses[examination] += _leaned_on(losses[steps], losses[examination], x[kinds == examination])
    arrays = {"mean": mean, "spread": spread, "gates": gate(x, kinds, weight), "small": each(small), "lost": losses}
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def _leaned_on(known: Values, own: Values, x: Values) -> Values:
    """One expert's view with mean 0 and another's spread: the number of steps tells of any set."""
    says, spread = x @ known[1:], (x @ own[1:]).std()
    scale = spread / says.std()
    return np.asarray(np.concatenate(([-says.mean() * scale], known[1:] * scale)))


def _expert(x: Values, y: Values, weight: Values, kind: str) -> Values:
    """What a word problem is about says nothing of its steps."""
    seen = x if kind != _FORM_ALONE else x[:, : len(NAMES)]
    slopes = ridge(seen, y, weight, _RIDGE[kind])
    return np.concatenate((slopes, np.zeros(1 + x.shape[1] - len(slopes))))


def _weights(sources: list[str]) -> Values:
    """A source counts by the root of its size."""
    kinds = [source.split(":")[0] for source in sources]
    counts = Counter(kinds)
    weights = np.array([(_ANCHOR_WEIGHT if kind == "anchor" else 1.0) / np.sqrt(counts[kind]) for kind in kinds])
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


def train(data: Path, embedder: Path) -> dict[str, NDArray[np.generic]]:
    """The artefact's arrays from the rows in ``data`` and a MiniLM folder with its token vectors.

    Raises OSError, msgspec.MsgspecError.
    """
    rows = rows_of(data)
    arrays, words = vocabulary(rows, embedder)
    return {**arrays, **fit(rows, *described((row.prompt for row in rows), words))}
