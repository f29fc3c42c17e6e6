"""``gateway router probe`` on the real model; in the soak, whether what it then answers is right."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.policy import probe
from gateway.policy.calibration import errors, raw
from gateway.policy.competence import Competence, Vectors
from gateway.policy.probe import ANSWER_TOKENS, Question, questions, right
from gateway.policy.profile import SUFFIX, fingerprint
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.types import Signals
from local_models.asking import answers
from local_models.embed.model import load
from local_models.prune import prune
from tests.support.easy_prompts import easy_prompts
from tests.support.models import chat_model, embed_model
from tests.unit.policy.support import features

pytestmark = pytest.mark.timeout(300)

EASY_BELOW, TRIED_BELOW, KEPT_FROM = 0.35, 0.5, 0.9  # the default policy's lines
TARGET = 0.9


def probed(folder: Path, source: Path, name: str) -> dict[str, object]:
    (folder / f"{name}.gguf").symlink_to(source)
    done = CliRunner().invoke(app, ["router", "probe", str(folder / f"{name}.gguf"), "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_a_profile_is_written_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(question for question in questions() if question.skill in ("small-talk", "upper-case"))
    monkeypatch.setattr(probe, "questions", lambda thorough=False: few)

    told = probed(tmp_path, chat_model(), "small")

    written = json.loads((tmp_path / f"small{SUFFIX}").read_text())
    assert told["path"] == str(tmp_path / f"small{SUFFIX}")
    assert (written["file"], written["digest"]) == ("small.gguf", fingerprint(chat_model()))
    assert len(written["right"]) == len(few)
    domains = told["domains"]
    assert isinstance(domains, dict)
    assert domains["languages"]["right"] >= 8, "it can say hello"
    assert domains["rewriting"]["right"] <= 2, "it cannot write capitals"
    assert len(written["signals"]) == len(few)
    assert set(written["calibration"]["skills"]) == {"small-talk", "upper-case"}
    confidence = told["confidence"]
    assert isinstance(confidence, dict)
    assert confidence["calibrated"]["brier"] < confidence["raw"]["brier"]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"no model")

    assert CliRunner().invoke(app, ["router", "probe", str(tmp_path / "m.gguf")]).exit_code == 1


def difficulties(scorer: ProfiledScorer | RuleScorer, asked: Sequence[Question], vectors: Vectors) -> Vectors:
    scores = [scorer.score(features(question.prompt), vector) for question, vector in zip(asked, vectors, strict=True)]
    return np.array([score.difficulty for score in scores])


def at_most(right: int, of: int) -> float:
    """The chance of no more right answers than these where each is right with TARGET: of three, two say nothing yet."""
    return sum(math.comb(of, k) * TARGET**k * (1 - TARGET) ** (of - k) for k in range(right + 1))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dropped", [frozenset[int](), frozenset((20, 22))], ids=["as it is", "two layers less"])
def test_what_stays_here_is_right(tmp_path: Path, dropped: frozenset[int]) -> None:
    """On prompts the probe does not ask; the rules alone keep far more here, most of it wrong."""
    model = prune(chat_model(), tmp_path / "pruned-model", dropped) if dropped else chat_model()
    probed(tmp_path, model, "probed")
    (tmp_path / f"probed{SUFFIX}").rename(tmp_path / f"it{SUFFIX}")
    competence = Competence.of_model(tmp_path, "it")
    assert competence is not None
    asked = easy_prompts()
    said = answers(model, [question.prompt for question in asked], ANSWER_TOKENS)
    correct = np.array([right(question, answer.text) for question, answer in zip(asked, said, strict=True)])
    vectors = load(embed_model()).embed([question.prompt for question in asked]).vectors
    signals = [msgspec.convert(answer.confidence, Signals, from_attributes=True) for answer in said]
    sure = np.array([competence.answered(one, vector) or 0.0 for one, vector in zip(signals, vectors, strict=True)])

    difficulty = difficulties(ProfiledScorer(competence), asked, vectors)
    tried = difficulty < TRIED_BELOW
    here = tried & (sure >= KEPT_FROM)
    by_rules = difficulties(RuleScorer(), asked, vectors) < EASY_BELOW
    bare = errors(np.array([raw(one) for one in signals]), correct)
    calibrated = errors(sure, correct)

    counted = [f"{name}: {correct[at].sum()} of {at.sum()}" for name, at in (("rules", by_rules),)]
    print(*counted, f"kept: {correct[here].sum()} of {here.sum()}, {tried.sum()} tried", bare, calibrated, sep="; ")
    assert len(asked) >= 300
    assert at_most(int(correct[here].sum()), int(here.sum())) > 0.05
    assert correct[by_rules].mean() < 0.7
    assert calibrated.brier < bare.brier
    assert calibrated.ece < bare.ece
    if not dropped:
        assert here.sum() >= 5
