"""The rule-based scorer: what is easy, what is hard, and why it says so."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from gateway.policy.scorer import RuleScorer
from gateway.types import Score
from tests.unit.policy.support import features

ARENA = Path(__file__).parents[4] / "shared" / "data" / "routing" / "arena_hard_prompts.jsonl.gz"

EASY = """
What is the capital of France?
what is the  capital of finland
Who wrote Hamlet?
How many days are in a week?
What is 7 times 8?
Hello!
Hi, how are you?
Thanks!
Translate 'good morning' into Spanish.
Give me a synonym for happy.
Define photosynthesis.
Fix the spelling: I recieved teh letter.
Which planet is closest to the sun?
Was ist die Hauptstadt von Frankreich?
¿Cuál es la capital de Francia?
What language do they speak in Brazil?
How many legs does a spider have?
What is the chemical symbol for gold?
Summarize in one sentence: The cat sat on the mat and looked at the birds outside.
""".strip().splitlines()

HARD = """
Prove that the square root of 2 is irrational.
Is every finite division ring commutative?
Which of the following has the highest pKa: phenol, acetic acid, p-nitrophenol, or cyclohexanol?
How many stereoisomers does 2,3,4-trihydroxypentanedioic acid have?
A patient presents with fever, rash and joint pain two weeks after a sore throat. Diagnosis?
What remedies does a buyer have under UCC Article 2 if goods are nonconforming?
Can a landlord be liable for a third party's crime in a common area?
Three gods are called True, False and Random. Determine their identities with three yes-no questions.
What is the spectrum of the Laplacian on the 2-sphere?
Is P equal to NP?
What is the hybridization of the central atom in XeF4?
Does every bounded sequence have a convergent subsequence?
What drug treats status epilepticus refractory to benzodiazepines?
Who has standing to sue under the Clean Water Act?
What is the fundamental group of the torus?
Who is liable?
Beweise, dass es unendlich viele Primzahlen gibt.
A bat and a ball cost $1.10; the bat costs a dollar more than the ball. How much is the ball?
""".strip().splitlines()


def score(prompt: str, **kwargs: object) -> Score:
    return RuleScorer().score(features(prompt, **kwargs))  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", EASY)
def test_easy(prompt: str) -> None:
    assert score(prompt).difficulty < 0.35


@pytest.mark.parametrize("prompt", HARD)
def test_hard_but_short(prompt: str) -> None:
    assert score(prompt).difficulty >= 0.35


@pytest.mark.parametrize(
    "prompt",
    [
        "Prove, step by step, that every compact metric space is separable, then give a counterexample.",
        "Write a Python function that merges k sorted linked lists and analyse its complexity.",
        "Debug this race condition in my Go code and rewrite it with channels.",
    ],
)
def test_proofs_and_coding_tasks_are_clearly_hard(prompt: str) -> None:
    assert score(prompt).difficulty > 0.6


def test_contributions_are_named_sorted_and_add_up() -> None:
    scored = score("Prove Lagrange's theorem.")
    parts = dict(scored.contributions)
    assert parts["base"] == 0.55
    assert "demanding" in parts
    assert scored.contributions == tuple(sorted(scored.contributions, key=lambda part: -abs(part[1])))
    assert scored.difficulty == pytest.approx(min(1.0, sum(parts.values())))
    assert scored.scorer == "rules"


def conversation(*turns: str) -> float:
    messages = [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return RuleScorer().score(features(messages=messages)).difficulty


def test_a_turn_that_continues_keeps_the_tier_of_its_conversation() -> None:
    plan = "Write a plan to migrate our billing from MySQL to Postgres with zero downtime, step by step."
    assert conversation(plan, "Shall I?", "yes, do that") >= 0.55
    assert conversation("What is the capital of France?", "Paris.", "and Germany?") < 0.35
    assert conversation(plan, "Done.", "What is the capital of France?") < 0.35


def test_nothing_at_all() -> None:
    assert 0.0 <= score("").difficulty <= 1.0
    assert 0.0 <= RuleScorer().score(features(messages=[])).difficulty <= 1.0


@pytest.mark.skipif(not ARENA.exists(), reason="the shared evaluation data are not here")
def test_hard_real_prompts_are_kept_from_the_local_tier() -> None:
    with gzip.open(ARENA, "rt") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    kept = sum(score(prompt).difficulty >= 0.35 for prompt in prompts)
    assert kept / len(prompts) >= 0.95
