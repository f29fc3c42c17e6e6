"""What the shipped scorer learns from: graded answers of small and large models, and prompts written for this project.

MMLU-Pro's rows (Apache-2.0) and LLMRouter's (MIT) have the graded answers of ten and nine models, GSM8K's training
problems (MIT) the number of steps of their solutions; ``anchors.yaml`` and ``subjects.yaml`` are our own.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import yaml

from gateway.types import Frozen

ANCHORS = Path(__file__).with_name("anchors.yaml")
SUBJECTS = Path(__file__).with_name("subjects.yaml")

SMALL = frozenset((
    "Mistral-7B-Instruct-v0.2", "gemma-7b", "Qwen1.5-7B-Chat", "Mixtral-8x7B-Instruct-v0.1",
    "mistral-7b-instruct-v0.3", "codegemma-7b",
))  # fmt: skip
LARGE = frozenset((
    "Meta-Llama-3_1-70B-Instruct", "gemini-1.5-pro-002", "DeepSeek-Coder-V2",
    "llama-3.1-nemotron-51b-instruct", "llama-3.3-nemotron-super-49b-v1", "gemma-2-9b-it",
))  # fmt: skip
"""Which of the graded models stand for their class. gemma-2-9b answers as the large ones of its set do."""

_TASKS = frozenset(("arc_challenge", "openbook_qa", "commonsense_qa", "math", "mbpp", "human_eval"))
_PASSAGES = "mmlu"
"""Of LLMRouter's tasks; the latter are texts to read. Of the rest, GSM8K's problems are among the stories, and how the
others are graded says little of how good an answer is: half of trivia is marked wrong.
"""

_OPTIONS = re.compile(r"\n[A-J][.)] .*|\nAnswer:\s*$")


class Row(Frozen, frozen=True, kw_only=True):
    """A prompt, and what a small model gets and loses there. ``passage``: a text to read, told like a story."""

    prompt: str
    source: str
    small: float
    lost: float
    passage: bool = False


class Story(Frozen, frozen=True, kw_only=True):
    """A word problem, and how many steps its solution has."""

    prompt: str
    steps: float


class _Graded(msgspec.Struct):
    prompt: str
    domain: str
    quality: dict[str, float]


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    small: float
    lost: float
    ask: list[str]
    fill: list[str | list[str]] = msgspec.field(name="with", default_factory=list)


def rows_of(folder: Path) -> list[Row]:
    """All graded rows, and those that were written for this project. Raises OSError, msgspec.MsgspecError."""
    pro = [_graded(one, "mmlupro") for one in _read(folder / "mmlupro.jsonl.gz", _Graded)]
    routed = _read(folder / "llmrouter.jsonl.gz", _Graded)
    asked = [_graded(one, one.domain) for one in routed if one.domain in _TASKS or one.domain == _PASSAGES]
    return [*pro, *map(_without_options, pro), *asked, *anchors(), *subjects()]


def stories_of(folder: Path) -> list[Story]:
    """The word problems. Raises OSError, msgspec.MsgspecError."""
    return _read(folder / "gsm8k_train_steps.jsonl.gz", Story)


def anchors() -> Iterator[Row]:
    """The requests written for this project."""
    for name, one in _written(ANCHORS):
        for ask in one.ask:
            for filling in one.fill:
                prompt = ask.format(*(filling if isinstance(filling, list) else [filling]))
                yield Row(prompt=prompt, source=f"anchor:{name}", small=one.small, lost=one.lost)


def subjects() -> Iterator[Row]:
    """The examination questions written for this project."""
    for name, one in _written(SUBJECTS):
        for ask in one.ask:
            yield Row(prompt=ask, source=f"subject:{name}", small=one.small, lost=one.lost)


def _written(file: Path) -> Iterable[tuple[str, _Written]]:
    return msgspec.convert(yaml.safe_load(file.read_text("utf-8")), dict[str, _Written]).items()


_Kind = TypeVar("_Kind", _Graded, Story)


def _read(path: Path, kind: type[_Kind]) -> list[_Kind]:
    with gzip.open(path, "rb") as lines:
        return msgspec.json.Decoder(kind).decode_lines(lines.read())


def _graded(one: _Graded, source: str) -> Row:
    small, large = (_mean(value for model, value in one.quality.items() if model in of) for of in (SMALL, LARGE))
    return Row(prompt=one.prompt, source=source, small=small, lost=large - small, passage=source == _PASSAGES)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _without_options(row: Row) -> Row:
    """As it is asked where the options are not part of the prompt."""
    return msgspec.structs.replace(row, prompt=_OPTIONS.sub("", row.prompt), source="mmlupro-open")
