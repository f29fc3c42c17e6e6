"""When has something changed that is noisy itself: a sequential test whose false alarms are bounded whatever the noise.

Each round shows one category for each of some prompts (which answer, right or wrong, how long). As long as the model is
the same, the categories of one prompt are exchangeable: any order of them was as likely. The strangeness of a round is
the sum over its prompts of −log of how often the prompt showed that category, this time included. Had each prompt's
newest category been any other one it ever showed, that sum would have been another: how rarely it would have been as
large is a conformal p-value, exactly uniform and independent of those before (Vovk, Gammerman & Shafer, Algorithmic
Learning in a Random World, 2005, ch. 8). Nothing is assumed of the noise, and nothing is estimated beforehand.

Bets against these p-values (ε p^(ε−1), some ε) are added up as a Shiryaev–Roberts e-detector (Shin, Ramdas & Rinaldo,
arXiv 2203.03532): the sum R has the mean t after t clean rounds, so that by Ville's inequality an alarm at R ≥ c comes
in T clean rounds with a chance of at most T ÷ c, and c rounds or more pass between two false alarms on average.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

BETS = (0.02, 0.1, 0.3, 0.6)
"""The ε of the bets: a small one wins by one round that is all new, a large one by many that are a little strange."""
BUCKETS = 256
"""Categories kept of a prompt: beyond them two may count as one, which costs power and nothing else."""
_GRAIN = 4
_TINY = 1e-300

Bag = dict[str, int]
"""How often each category was seen."""


def category(text: str) -> str:
    """A short name of a text that may be of any length; others may share it."""
    return f"{zlib.crc32(text.encode()) % BUCKETS:02x}"


def p_value(bags: Sequence[Mapping[str, int]], shown: Sequence[str], u: float) -> float:
    """Of the round that showed ``shown``, each prompt's category, which its bag counts already. ``u``: random, 0 … 1,
    for what is exactly as strange.
    """
    seen, observed = {0: 1.0}, 0
    for bag, name in zip(bags, shown, strict=True):
        chances = _chances(bag)
        grains = {times: round(-_GRAIN * math.log(chance)) for times, chance in chances.items()}
        observed += grains[bag[name]]
        seen = _summed(seen, [(grains[times], chance) for times, chance in chances.items()])
    above = math.fsum(chance for score, chance in seen.items() if score > observed)
    return min(1.0, max(_TINY, above + u * seen[observed]))


def _chances(bag: Mapping[str, int]) -> dict[int, float]:
    """How likely it is to show one of the categories that were seen so many times. They count together: where new
    answers are common, one more of them is nothing strange.
    """
    total = sum(bag.values())
    often = Counter(bag.values())
    return {times: times * kinds / total for times, kinds in often.items()}


def _summed(sums: Mapping[int, float], next_: Sequence[tuple[int, float]]) -> dict[int, float]:
    """The distribution of the sum of independent numbers, after one more of them."""
    if len(next_) == 1:
        return {score + next_[0][0]: chance for score, chance in sums.items()}
    found: dict[int, float] = defaultdict(float)
    for score, chance in sums.items():
        for more, weight in next_:
            found[score + more] += chance * weight
    return found


def bet(sums: Sequence[float], p: float) -> list[float]:
    """The Shiryaev–Roberts sums, one for each of ``BETS``, after one more p-value. They begin at 0."""
    return [min((before + 1) * epsilon * p ** (epsilon - 1), 1e300) for before, epsilon in zip(sums, BETS, strict=True)]


def evidence(sums: Sequence[float]) -> float:
    """Of a change: the mean of the bets' sums, itself such a sum."""
    return math.fsum(sum_ / len(sums) for sum_ in sums)


def count(bag: Bag, names: Iterable[str]) -> None:
    """Add what was seen."""
    for name in names:
        bag[name] = bag.get(name, 0) + 1
