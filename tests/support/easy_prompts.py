"""Easy prompts with checkable answers, none of them in the probe: what a small model might be trusted with.

``plain_prompts.yaml`` was written after the thorough probe, ``easy_prompts.yaml`` before it.
"""

from __future__ import annotations

from pathlib import Path

from gateway.policy.probe import Question, arithmetic, questions, read

_SEED = 7_310
_ASKED = {
    "add-digits": ("{a} + {b} =", "Add {a} and {b}."),
    "add-tens": ("{a} + {b} = ?", "What do {a} and {b} add up to?"),
    "subtract": ("{a} - {b} =", "Take {b} from {a}: what is left?"),
    "times-table": ("{a} * {b} = ?", "Multiply {a} by {b}."),
    "divide": ("{a} / {b} = ?", "How often does {b} go into {a}?"),
    "larger": ("Is {a} or {b} the larger number?", "Pick the bigger number: {a}, {b}."),
    "story": (
        "{name} owned {a} {things}. A friend gives {name} {b}. How many does {name} own?",
        "A box holds {a} {things}. {b} are taken away. How many stay in the box?",
    ),
}


def easy_prompts() -> tuple[Question, ...]:
    """Some 700, always the same."""
    asked = {question.prompt for question in questions(thorough=True)}
    files = (Path(__file__).with_name(name) for name in ("easy_prompts.yaml", "plain_prompts.yaml"))
    written = (question for file in files for question in read(file))
    return tuple(one for one in (*written, *arithmetic(_SEED, _ASKED, 10)) if one.prompt not in asked)
