"""One chance of being right, from what is known of the prompt and how sure the model was of its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gateway.policy.calibration import errors, raw
from gateway.policy.competence import Asked, Competence, Likely, best, evidence, weighed
from gateway.policy.posterior import fit, held_out
from gateway.policy.profile import SUFFIX, Profile, fingerprint, write
from gateway.types import Signals
from tests.bench.routing import record

SHORT, THOROUGH = Asked.shipped(), Asked.shipped(thorough=True)


def known(of_skill: float, of_this: float = 0.4) -> Likely:
    return Likely(
        right=of_skill, at_least=of_skill, skill="s", sure=1.0, nearest=0.8, of_skill=of_skill, of_this=of_this
    )


def drawn(count: int = 600, *, evidence_counts: bool = True) -> tuple[list[Likely], list[Signals], list[bool]]:
    """Answers whose odds are those of the evidence times those of the signals."""
    draw = np.random.default_rng(3)
    likely, signals, right = [], [], []
    for _ in range(count):
        skill, mean = float(draw.uniform(0.1, 0.9)), -float(draw.exponential(0.5))
        odds = (math.log(skill / (1 - skill)) if evidence_counts else 0.0) + 1.5 + 3 * mean
        likely.append(known(skill))
        signals.append(Signals(mean, 2 * mean, min(1.0, -mean), 8))
        right.append(bool(draw.random() < 1 / (1 + math.exp(-odds))))
    return likely, signals, right


def test_both_count_and_neither_alone_is_enough() -> None:
    posterior = fit(*drawn())
    sure, unsure = Signals(-0.05, -0.1, 0.0, 8), Signals(-1.5, -3.0, 1.0, 8)

    grid = [posterior.right(known(skill), how) for skill in (0.1, 0.5, 0.9) for how in (unsure, sure)]
    assert grid[0] < grid[1] < grid[3] < grid[5]
    assert grid[0] < grid[2] < grid[4] < grid[5]
    assert grid[5] > 0.9 > max(grid[1], grid[4])
    assert posterior.expected(known(0.9)) > 0.6 > 0.4 > posterior.expected(known(0.1))


def test_it_is_calibrated_on_what_was_held_out() -> None:
    likely, signals, right = drawn()
    found, bare = held_out(likely, signals, right), errors(np.array([raw(one) for one in signals]), np.array(right))

    assert found.ece < 0.06 < bare.ece
    assert found.brier < bare.brier


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_gets_little_right_is_believed_to(seed: int) -> None:
    """All evidence says wrong and is right to: then it is the offset of a fit of the rest, and far from even odds."""
    draw = np.random.default_rng(seed)
    likely, right = [], []
    for _ in range(414):
        skill, this = draw.normal(-3.2, 1.0), draw.normal(-3.0, 1.0)
        likely.append(known(*(1 / (1 + math.exp(-odds)) for odds in (skill, this))))
        right.append(bool(draw.random() < 1 / (1 + math.exp(-2 * (skill + this + 6.2) + 3.2))))
    signals = [Signals(-float(draw.exponential(0.5)), -2.0, float(draw.random()), 8) for _ in right]

    posterior = fit(likely, signals, right)

    chances = [posterior.right(one, how) for one, how in zip(likely, signals, strict=True)]
    assert np.mean(chances) == pytest.approx(np.mean(right), abs=0.02)
    assert np.mean([posterior.expected(one) for one in likely]) == pytest.approx(np.mean(right), abs=0.02)


def test_evidence_that_tells_nothing_is_not_trusted() -> None:
    likely, signals, right = drawn(evidence_counts=False)
    posterior = fit(likely, signals, right)
    how = Signals(-0.3, -0.6, 0.3, 8)

    assert posterior.right(known(0.9), how) == pytest.approx(posterior.right(known(0.1), how), abs=0.12)


def test_a_few_questions_that_are_nearly_the_same_do_not_make_it_certain() -> None:
    """Among questions that hardly resemble each other the little that they do must not be blown up."""
    likely, signals, right = drawn(120)
    slightly = [known(one.of_skill, 0.4 + 0.02 * outcome) for one, outcome in zip(likely, right, strict=True)]
    posterior = fit(slightly, signals, right)

    assert all(0 <= slope <= 1 for slope in posterior.after.slopes[:2])
    assert posterior.right(known(0.5, 0.85), Signals(-2.0, -4.0, 1.0, 8)) < 0.5


@pytest.mark.parametrize("outcome", [True, False])
@pytest.mark.parametrize("value", [-math.inf, -1e9, 1e9])
def test_no_answer_is_too_odd(outcome: bool, value: float) -> None:
    likely, signals, _ = drawn(60)
    posterior = fit(likely, signals, [outcome] * 60)

    assert 0 <= posterior.right(known(0.0, 1.0), Signals(value, value, 1.0, 1)) <= 1


def profile(asked: Asked, right: Sequence[bool]) -> Profile:
    sure = tuple((-0.1, -0.2, 0.0, 6) if one else (-1.2, -3.0, 0.8, 12) for one in right)
    outcomes = "".join("01"[one] for one in right)
    return Profile(file="m.gguf", digest="d", questions=asked.id, right=outcomes, signals=sure)


def test_a_question_is_no_evidence_of_itself() -> None:
    right = np.zeros(len(SHORT.of), bool)
    right[0] = True
    found = evidence(profile(SHORT, right.tolist()))
    whole = Competence(profile(SHORT, right.tolist()), SHORT).likely(SHORT.vectors[0])

    assert found[0].of_this < 0.1 < whole.of_this
    assert found[0].nearest < whole.nearest


def test_a_profile_of_another_set_or_without_signals_has_no_posterior() -> None:
    plain = profile(SHORT, [True] * len(SHORT.of))

    other = Profile(file="m", digest="d", questions="other", right="1", signals=plain.signals[:1])
    assert weighed(other).posterior is None
    assert weighed(Profile(file="m", digest="d", questions=SHORT.id, right=plain.right)).posterior is None
    assert weighed(plain).posterior is not None


def test_a_thorough_profile_comes_before_a_short_one(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "m.gguf").write_bytes(b"GGUF" * 1000)
    digest = fingerprint(folder / "m.gguf")
    short = Profile(file="m.gguf", digest=digest, questions=SHORT.id, right="0" * len(SHORT.of))
    write(short, folder / f"m{SUFFIX}")
    assert best(folder, "m") == short

    thorough = Profile(file="m.gguf", digest=digest, questions=THOROUGH.id, right="1" * len(THOROUGH.of))
    write(thorough, folder / f"m{SUFFIX}")
    assert best(folder, "m") == thorough
    assert best(folder, "other") is None


def test_the_default_model_needs_no_probe_and_another_file_of_its_name_does(tmp_path: Path) -> None:
    found = record.shipped()
    assert max(found.likely(vector).expected for vector in THOROUGH.vectors[::20]) > 0.8

    (tmp_path / "smollm2-135m-instruct-Q4_0.gguf").write_bytes(b"another model")
    assert best(tmp_path, "smollm2-135m-instruct") is None
