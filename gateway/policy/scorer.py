"""A difficulty that can be read: additive contributions with names, no model.

Keyword scorers mistake topic words for difficulty and rate a short proof as simple. This one turns the burden round: a
prompt is taken to need a large model (0.55) until something shows that it is easy: a short look-up, small talk, one
sum, a mechanical edit of a short text. Proof, design, diagnosis, specialists' vocabulary, symbols, several steps,
constraints, code and length add to it, and any of the first few also takes the easy reading away. A turn that only
continues a conversation is scored by the task it continues (:mod:`gateway.features`). It is the baseline that a
learned scorer has to beat.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.policy.everyday import WORDS, is_everyday
from gateway.types import Features, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BASE = 0.55
WINDOW = 1_500
MOST_VOCABULARY = 0.3

_WORD = re.compile(r"[^\W\d_]+")
_LETTERS = "".join(char if char.isalpha() else " " for char in map(chr, range(128)))
_SUM = re.compile(
    r"(?:what(?:'s| is)|how much is|calculate|compute)?\s{0,3}[0-9]{1,4}\s{0,3}"
    r"(?:[-+*/x×÷]|plus|minus|times|multiplied by|divided by|and)\s{0,3}[0-9]{1,4}\s{0,3}(?:=\s?)?\??"
)
# What is rare comes first, and the alternatives look back from there: the search then skips from one to the next.
_SYMBOL = re.compile(
    r"[A-Z\^\\∀∃∫∑√≡≤≥↔∧∨](?:(?<=[a-z][A-Z])\d|(?<=p[KH])a?\b|(?<=[B-HJ-NP-Z])(?<![\w'].)(?![\w'.])|(?<![A-Z]))"
)
_OPTION = re.compile(r"^\s*\(?[A-Da-d][.)] ", re.MULTILINE)
_TWO_NUMBERS = re.compile(r"\d\D+\d")
_STEP_WORDS = {
    "then",
    "finally",
    "next",
    "respectively",
    "assuming",
    "suppose",
    "detailed",
    "comprehensive",
    "tradeoffs",
}
_STEP_PHRASES = (
    "step by step", "step-by-step", "given that", "such that", "if and only if", "in detail", "pros and cons",
    "for each", "as well as", "trade-off",
)  # fmt: skip
_LOOK_UP = {
    "what", "who", "whom", "whose", "where", "when", "which", "was", "wer", "wo", "wann", "welche", "welcher",
    "welches", "quel", "quelle", "quels", "qui", "où", "quand", "combien", "qué", "cuál", "quién", "dónde",
    "cuándo", "cuánto", "cuántos", "cuántas", "qual", "quem", "onde", "quando", "quantos", "quantas", "che",
    "chi", "dove", "quanto", "quanti", "wat", "waar", "wanneer", "hoeveel", "is", "are", "were", "do",
    "does", "did", "can", "has", "have",
}  # fmt: skip
_AMOUNTS = {
    "many",
    "much",
    "old",
    "tall",
    "long",
    "far",
    "big",
    "high",
    "deep",
    "fast",
    "viele",
    "viel",
    "alt",
}
_SMALL_TALK = {
    "hi", "hello", "hey", "thanks", "thank", "bye", "goodbye", "morning", "evening", "goodnight", "hallo",
    "danke", "bonjour", "merci", "hola", "gracias", "ciao", "grazie", "olá", "obrigado",
}  # fmt: skip
_MECHANICAL = {
    "translate", "spell", "spelling", "capitalize", "capitalise", "uppercase", "lowercase", "rephrase",
    "paraphrase", "summarize", "summarise", "shorten", "correct", "proofread", "name", "list", "define",
    "synonym", "antonym", "opposite", "repeat", "say", "sort", "convert", "extract", "classify", "joke",
    "plural", "übersetze", "traduis", "traduce", "traduci", "traduza",
}  # fmt: skip
_FROM_MEMORY = {"define", "name", "list"}
_DEMANDING = {
    "prove", "proof", "disprove", "derive", "derivation", "show", "design", "architect", "architecture",
    "implement", "optimize", "optimise", "refactor", "debug", "diagnose", "diagnosis", "analyze", "analyse",
    "evaluate", "critique", "argue", "justify", "assess", "strategy", "strategies", "algorithm", "theorem",
    "lemma", "conjecture", "deduce", "infer", "determine", "integrate", "integral", "differentiate",
    "differential", "liable", "liability", "remedies", "remedy", "statute", "jurisdiction", "plaintiff",
    "defendant", "tort", "estoppel", "breach", "negligence", "patient", "prognosis", "symptoms", "enthalpy",
    "equilibrium", "eigenvalues", "laplacian", "hamiltonian", "quantum", "relativistic", "asymptotic",
    "complexity", "concurrency", "distributed", "compiler", "simulate", "puzzle", "paradox", "counterfeit",
    "stereoisomers", "beweise", "beweisen", "démontre", "démontrer", "prouve", "demuestra", "dimostra",
    "demonstre",
}  # fmt: skip
_MAKING = {
    "write", "create", "build", "generate", "explain", "discuss", "review", "compare", "contrast", "plan",
    "develop", "describe", "why", "how", "solve", "find", "calculate", "compute", "code", "script", "program",
    "function", "essay", "story", "poem", "if", "suppose", "imagine", "you", "should", "would", "best",
    "better", "way", "warum", "erkläre", "schreibe", "pourquoi", "explique", "écris", "porque", "explica",
    "escribe", "perché", "spiega", "scrivi",
}  # fmt: skip


class RuleScorer:
    """The transparent scorer: :class:`gateway.protocols.Scorer`."""

    def wants_embedding(self, features: Features) -> bool:
        """Never: words and form are all that is looked at."""
        return False

    def score(self, features: Features, embedding: NDArray[np.float32] | None = None) -> Score:
        """Pure, tens of microseconds; the first 1,500 characters are looked at, the embedding is not used."""
        text = features.last_user_text[:WINDOW]
        lowered = text.lower()
        words = _words(lowered)
        known = set(words)
        hard = _hard(features, text, lowered, words, known)
        parts = {"base": BASE, **hard, **_easy(features, lowered, words, known, hard)}
        shown = [(name, round(part, 3)) for name, part in parts.items() if part]
        shown.sort(key=lambda part: -abs(part[1]))
        return Score(difficulty=round(min(1.0, max(0.0, sum(parts.values()))), 3), contributions=tuple(shown))


def _words(text: str) -> list[str]:
    """Runs of letters."""
    return text.translate(_LETTERS).split() if text.isascii() else _WORD.findall(text)


def _hard(features: Features, text: str, lowered: str, words: list[str], known: set[str]) -> dict[str, float]:
    """What speaks for a large model, each bounded."""
    parts = {
        "demanding": 0.15 * min(2, len(known & _DEMANDING)),
        "vocabulary": _vocabulary(features, words if text.isupper() else _words(text)),
        "symbols": 0.2 if _SYMBOL.search(text) else 0.0,
        "options": 0.1 if _has_options(text) else 0.0,
        "code": 0.15 * features.code,
        "maths": 0.12 * features.maths,
        "steps": 0.05 * min(3, len(known & _STEP_WORDS) + sum([phrase in lowered for phrase in _STEP_PHRASES])),
        "constraints": 0.03 * min(5, features.constraints),
        "numbers": 0.08 if features.words > 12 and _TWO_NUMBERS.search(text) else 0.0,
        "length": 0.15 if features.words > 400 else 0.1 if features.words > 120 else 0.05 * (features.words > 50),
        "conversation": 0.05 * (features.turns > 3),
    }
    return {name: part for name, part in parts.items() if part}


def _has_options(text: str) -> bool:
    if "which of the following" in text:
        return True
    return (". " in text or ") " in text) and _OPTION.search(text) is not None


def _vocabulary(features: Features, words: list[str]) -> float:
    """0.1 for each word that is not everyday English, 0.15 for a very long one; names (capitals) do not count."""
    if features.language not in ("en", "und"):
        return 0.0
    total = 0.0
    for word in [word for word in dict.fromkeys(words) if word not in WORDS]:
        if word[0].isupper() and word != words[0]:
            continue
        lowered = word.lower()
        if not is_everyday(lowered) and lowered not in _MECHANICAL:
            total += 0.15 if len(word) >= 14 else 0.1
            if total >= MOST_VOCABULARY:
                return MOST_VOCABULARY
    return total


def _easy(
    features: Features, lowered: str, words: list[str], known: set[str], hard: dict[str, float]
) -> dict[str, float]:
    """What speaks for a small model: at most one of these."""
    if _SUM.fullmatch(lowered.strip()):
        return {"one-sum": -0.3 - hard.get("maths", 0.0)}
    if features.turns > 1 and len(words) < features.words:
        small = features.words <= 12 and not hard.keys() & {"code", "maths", "constraints"}
        return {"continues-a-short-task": -0.25} if small else {}
    if hard.keys() & {"demanding", "code", "maths", "options"} or not features.words:
        return {}
    count = features.words
    if count <= 6 and known & _SMALL_TALK:
        return {"small-talk": -0.45}
    if count <= 40 and not known.isdisjoint(_MECHANICAL) and not known & _MAKING - {"how", "you", "do"}:
        of_the_text = 0.0 if known & _FROM_MEMORY else hard.get("vocabulary", 0.0)
        return {"mechanical": (-0.4 if count <= 8 else -0.35 if count <= 15 else -0.25) - of_the_text}
    if _looks_up(words):
        return {"short-look-up": -0.4 if count <= 8 else -0.3 if count <= 14 else -0.15 if count <= 20 else 0.0}
    if count <= 4 and features.language == "en" and _MAKING.isdisjoint(known):
        return {"short": -0.3}
    return {}


def _looks_up(words: list[str]) -> bool:
    """A question for a fact: it begins with a question word that asks for one, and asks for nothing to be made."""
    asks = not _LOOK_UP.isdisjoint(words[:2])
    amount = len(words) > 1 and words[0] in ("how", "wie") and words[1] in _AMOUNTS
    return amount or words[:4] == ["how", "do", "you", "say"] or (asks and _MAKING.isdisjoint(words))
