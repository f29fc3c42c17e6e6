"""What is known of a target from its rounds of golden prompts, and when it has become another model. Pure.

Everything since the last change counts as one model: there is no learning phase of a fixed length, only rounds in which
there is little to compare with yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.types import Frozen
from gateway.watching import conformal
from gateway.watching.conformal import BETS, Bag
from gateway.watching.golden import CHANNELS, Observation

ROUNDS_PER_FALSE_ALARM = 100_000
"""At least so many clean rounds lie between two false alarms of a target on average; hourly, eleven years."""
ALARM = ROUNDS_PER_FALSE_ALARM * len(CHANNELS)
"""The evidence at which one of the channels tells of a change: each has its share of the false alarms."""
CHANGES_KEPT = 5


class Level(Frozen, frozen=True, kw_only=True):
    """How rounds went: the share of right answers (0 … 1), tokens and milliseconds an answer, what it said it is."""

    right: float
    tokens: float
    latency_ms: float
    reported: str


class Change(Frozen, frozen=True, kw_only=True):
    """A target that answers as another model: since when (epoch ms), what showed it, and after how many rounds that
    were like each other. ``prompts``: how many of its answers had not been seen before.
    """

    at_ms: int
    channels: tuple[str, ...]
    rounds: int
    prompts: int
    asked: int
    before: Level
    after: Level


class Standing(Frozen, frozen=True, kw_only=True):
    """One target. ``of`` says what it was when this was learned: model, address and prompts.

    ``bags[channel][prompt]`` counts categories; ``sums[channel]`` is the evidence of each bet; ``totals`` are those of
    all answers since ``since_ms``: answers, right ones, tokens, milliseconds. ``last``: the newest round.
    """

    of: str
    since_ms: int
    bags: dict[str, list[Bag]]
    sums: dict[str, list[float]]
    rounds: int = 0
    totals: tuple[int, int, int, float] = (0, 0, 0, 0.0)
    last: Level | None = None
    last_ms: int = 0
    changes: tuple[Change, ...] = ()
    all_changes: int = 0

    @property
    def evidence(self) -> float:
        """Of a change, as a share of what an alarm takes."""
        return max((conformal.evidence(sums) for sums in self.sums.values()), default=0.0) / ALARM

    @property
    def usual(self) -> Level | None:
        """The mean of its rounds; None before the first."""
        answers, right, tokens, ms = self.totals
        if not answers or self.last is None:
            return None
        return Level(
            right=right / answers, tokens=tokens / answers, latency_ms=ms / answers, reported=self.last.reported
        )


def begun(of: str, prompts: int, now_ms: int, before: Standing | None = None) -> Standing:
    """A target of which nothing is known; what changed ``before`` is still told."""
    return Standing(
        of=of,
        since_ms=now_ms,
        bags={channel: [{} for _ in range(prompts)] for channel in CHANNELS},
        sums={channel: [0.0] * len(BETS) for channel in CHANNELS},
        changes=before.changes if before else (),
        all_changes=before.all_changes if before else 0,
    )


def after_round(
    known: Standing, answers: Mapping[int, Observation], chance: Mapping[str, float], now_ms: int
) -> Standing:
    """What is known after one more round. ``answers`` by the number of the prompt: those that there were.
    ``chance``: a random number (0 … 1) for each channel, that breaks ties.
    """
    assert answers, "a round without an answer says nothing"
    bags = {channel: [dict(bag) for bag in each] for channel, each in known.bags.items()}
    shown = {number: answer.shown() for number, answer in answers.items()}
    for number, categories in shown.items():
        for channel, name in categories.items():
            conformal.count(bags[channel][number], (name,))
    sums = {channel: _after(bags[channel], shown, channel, known.sums[channel], chance[channel]) for channel in bags}
    level = _level(answers)
    told = tuple(channel for channel in CHANNELS if conformal.evidence(sums[channel]) >= ALARM)
    if told and known.usual is not None:
        return _changed(known, answers, told, level, chance, now_ms)
    answered, right, tokens, ms = known.totals
    return msgspec.structs.replace(
        known,
        rounds=known.rounds + 1,
        bags=bags,
        sums=sums,
        totals=(
            answered + len(answers),
            right + sum(answer.right for answer in answers.values()),
            tokens + sum(answer.tokens for answer in answers.values()),
            ms + sum(answer.latency_ms for answer in answers.values()),
        ),
        last=level,
        last_ms=now_ms,
    )


def _after(
    bags: list[Bag], shown: Mapping[int, Mapping[str, str]], channel: str, sums: list[float], chance: float
) -> list[float]:
    asked = sorted(shown)
    p = conformal.p_value([bags[number] for number in asked], [shown[number][channel] for number in asked], chance)
    return conformal.bet(sums, p)


def _changed(
    known: Standing,
    answers: Mapping[int, Observation],
    channels: tuple[str, ...],
    level: Level,
    chance: Mapping[str, float],
    now_ms: int,
) -> Standing:
    """The new model is learned from here on."""
    assert known.usual is not None
    new = [number for number, answer in answers.items() if answer.shown()["answer"] not in known.bags["answer"][number]]
    change = Change(
        at_ms=now_ms,
        channels=channels,
        rounds=known.rounds,
        prompts=len(new),
        asked=len(answers),
        before=known.usual,
        after=level,
    )
    fresh = msgspec.structs.replace(
        begun(known.of, len(known.bags["answer"]), now_ms, known),
        changes=(*known.changes, change)[-CHANGES_KEPT:],
        all_changes=known.all_changes + 1,
    )
    return after_round(fresh, answers, chance, now_ms)


def _level(answers: Mapping[int, Observation]) -> Level:
    each = list(answers.values())
    reported = [answer.reported for answer in each]
    return Level(
        right=sum(answer.right for answer in each) / len(each),
        tokens=sum(answer.tokens for answer in each) / len(each),
        latency_ms=sum(answer.latency_ms for answer in each) / len(each),
        reported=max(sorted(set(reported)), key=reported.count),
    )
