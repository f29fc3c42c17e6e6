"""What the small model says to the easy prompts, and what the gateway knows of each before and after it is asked."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.features import extract
from gateway.policy.competence import Competence
from gateway.policy.probe import ANSWER_TOKENS, Question, right
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.types import ChatRequest, Features, Principal, Signals
from local_models.asking import answers
from local_models.embed.model import load
from tests.support.easy_prompts import easy_prompts
from tests.support.models import CHAT, chat_model, embed_model

FILE = Path(__file__).with_name("cascade.json.gz")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One easy prompt and the small model's answer to it.

    ``rules`` and ``scorer``: its difficulty, by the rules alone and by the profile. ``alone`` and ``both``: the chance
    that the answer is right, by its signals alone and also by what the profile says of prompts like this.
    """

    prompt: str
    right: bool
    signals: Signals
    rules: float
    scorer: float
    alone: float
    both: float


class Setting(NamedTuple):
    """A prompt is tried below ``difficulty``, its answer kept from ``confidence`` on."""

    difficulty: float
    confidence: float


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """``rows``: one for each of :func:`easy_prompts`. ``settings``: of scorer + cascade, by the large model's price
    (:mod:`tests.bench.routing.fitting`).
    """

    rows: list[Row]
    settings: dict[str, list[Setting]] = {}


def taken() -> list[Row]:
    """Put the easy prompts to the small model: two minutes."""
    asked = easy_prompts()
    prompts = [question.prompt for question in asked]
    said = answers(chat_model(), prompts, ANSWER_TOKENS)
    vectors = load(embed_model()).embed(prompts).vectors
    competence, rows = shipped(), []
    rules, scorer = RuleScorer(), ProfiledScorer(competence)
    for question, answer, vector in zip(asked, said, vectors, strict=True):
        signals = msgspec.convert(answer.confidence, Signals, from_attributes=True)
        features = features_of(question)
        embedded = vector if scorer.wants_embedding(features) else None
        rows.append(
            Row(
                prompt=question.prompt,
                right=right(question, answer.text),
                signals=signals,
                rules=rules.score(features).difficulty,
                scorer=scorer.score(features, embedded).difficulty,
                alone=competence.answered(signals, None) or 0.0,
                both=competence.answered(signals, embedded) or 0.0,
            )
        )
    return rows


def shipped() -> Competence:
    """What this project ships of the small model."""
    found = Competence.of_model(chat_model().parent, CHAT)
    assert found is not None, "the shipped profile is of another file"
    return found


def features_of(question: Question) -> Features:
    """Of a request that holds nothing else."""
    messages = [{"role": "user", "content": question.prompt}]
    request = ChatRequest(id="r", model="auto", messages=messages, fields={})
    return extract(request, Principal(key_id="bench"), default_max_tokens=ANSWER_TOKENS)


def write(recorded: Recorded) -> None:
    """For the next run and for the test."""
    FILE.write_bytes(gzip.compress(msgspec.json.encode(recorded), mtime=0))


def read() -> Recorded:
    """What the last run wrote."""
    return msgspec.json.decode(gzip.decompress(FILE.read_bytes()), type=Recorded)


def large_is_right(prompt: str) -> bool:
    """Whether the scripted large model gets it right: 97 of 100, always the same."""
    return zlib.crc32(prompt.encode()) % 100 >= 3


def prompt_tokens(row: Row) -> int:
    """Four characters a token, and what a chat template adds."""
    return len(row.prompt) // 4 + 8
