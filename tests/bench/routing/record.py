"""What the small model says to the easy prompts, and what the gateway knows of each before and after it is asked."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from pathlib import Path

import msgspec
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.features import extract
from gateway.policy.competence import Asked, Competence
from gateway.policy.probe import ANSWER_TOKENS, Question, right
from gateway.policy.profile import SUFFIX, Profile
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.types import ChatRequest, Features, Principal, Signals
from local_models.asking import answers
from local_models.embed.model import load
from tests.support.easy_prompts import easy_prompts
from tests.support.models import chat_model, embed_model

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


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """``profile``: the small model's. ``rows``: one for each of :func:`easy_prompts`."""

    profile: Profile
    rows: list[Row]


def taken() -> Recorded:
    """Probe the small model and put the easy prompts to it: two minutes."""
    with tempfile.TemporaryDirectory() as name:
        profile = probed(Path(name))
    asked = easy_prompts()
    prompts = [question.prompt for question in asked]
    said = answers(chat_model(), prompts, ANSWER_TOKENS)
    vectors = load(embed_model()).embed(prompts).vectors
    competence, rows = Competence(profile, Asked.shipped()), []
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
    return Recorded(profile=profile, rows=rows)


def probed(folder: Path) -> Profile:
    """The small model's profile, made afresh beside a link to it in ``folder``."""
    (folder / "it.gguf").symlink_to(chat_model())
    done = CliRunner().invoke(app, ["router", "probe", str(folder / "it.gguf"), "--json"])
    assert done.exit_code == 0, done.output
    return msgspec.json.decode((folder / f"it{SUFFIX}").read_bytes(), type=Profile)


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
