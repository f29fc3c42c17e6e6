"""Looks at every running experiment and stops the arms that have surely lost. The background process does it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway import log
from gateway.experiments import state
from gateway.experiments.report import Arm, Books, Report, report
from gateway.policy.experiments import Declared, Reader, State, Stopped

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from gateway.redis_io import Keys

_REST = 20.0
"""So many times as long as a look took, the books are left alone: one of millions of rows takes seconds."""
_log = log.get(__name__)


class Watch:
    """``look`` is called every so often; it may find that it is too early to look again."""

    def __init__(self, redis: Redis, keys: Keys, books: Books) -> None:
        self._redis, self._keys, self._books = redis, keys, books
        self._reader = Reader()
        self._not_before = 0.0

    async def look(self, policies_dir: Path) -> list[str]:
        """Returns what was stopped, as ``experiment/arm``.

        Raises:
            LedgerAway, redis.RedisError: try again later.
        """
        began = time.monotonic()
        experiments = self._reader.read(policies_dir)
        if began < self._not_before or not experiments:
            return []
        try:
            return await self._look(list(experiments.values()))
        finally:
            took = time.monotonic() - began
            self._not_before = began + _REST * took

    async def _look(self, experiments: list[Declared]) -> list[str]:
        known = await state.states(self._redis, self._keys)
        reports, stopped = {}, []
        for one in experiments:
            before = one.state(known)
            found = await report(self._books, one, before, int(time.time() * 1000))
            lost = losses(found)
            if lost and await state.stop(self._redis, self._keys, one, before, lost):
                stopped += [_told(one, arm, why) for arm, why in lost.items()]
                found = await report(self._books, one, _with(before, lost), found.until_ms)
            reports[one.name] = found
        await state.keep_reports(self._redis, self._keys, reports)
        return stopped


def losses(of: Report) -> dict[str, Stopped]:
    """The arms that go on and have lost by the stopping rule."""
    found = {arm.name: _loss(arm, of.until_ms) for arm in of.arms if arm.stopped is None}
    return {name: lost for name, lost in found.items() if lost is not None}


def _loss(arm: Arm, now_ms: int) -> Stopped | None:
    lost = next((one for one in arm.compared if one.lost), None)
    return None if lost is None else Stopped(at_ms=now_ms, metric=lost.metric, reason=lost.text)


def _with(before: State, lost: dict[str, Stopped]) -> State:
    return State(run=before.run, round=before.round, stopped={**before.stopped, **lost})


def _told(of: Declared, arm: str, why: Stopped) -> str:
    _log.warning(
        "an arm was stopped: its requests go to the control",
        experiment=of.name,
        arm=arm,
        metric=why.metric,
        why=why.reason,
    )
    return f"{of.name}/{arm}"
