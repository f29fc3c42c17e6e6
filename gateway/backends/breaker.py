"""A circuit breaker: whether a target may be asked, from what became of the calls before. No I/O.

Closed → open on what says "not now" → half-open, one trial at a time → closed. The pattern is Nygard's (Release It!).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from gateway.backends import translate
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable

FAILURES_TO_OPEN = 3
COOLDOWN_S, MAX_COOLDOWN_S = 5.0, 60.0
CREDENTIAL_COOLDOWN_S = 60.0
MAX_RETRY_AFTER_S = 600.0

State = Literal["closed", "open", "half-open"]


class Breaker:
    """The state of one target. Every method is instant; ``clock`` gives seconds.

    ``unreachable`` is True while only a successful `recovered` closes it (somebody probes), however long that takes.
    """

    def __init__(self, *, probed: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._probed, self._clock = probed, clock
        self._failures = 0
        self._opened = 0
        self._until: float | None = None
        self._trial = False
        self._error: UpstreamError | None = None
        self.unreachable = False

    @property
    def state(self) -> State:
        if self._error is None:
            return "closed"
        return "open" if self.unreachable or self._left() > 0 else "half-open"

    def reason(self) -> str | None:
        """Why the target is not to be asked now, None if it may be."""
        if self._error is None:
            return None
        state = self.state
        if state == "closed" or (state == "half-open" and not self._trial):
            return None
        left = f" for {self._left():.1f} s" if self._left() > 0 else ""
        return f"cooling down{left}: {_cause(self._error)}"

    def enter(self) -> bool:
        """A call is about to be made; one of `answered`, `failed` and `left` must follow. Whether it is a trial.

        Raises:
            UpstreamUnavailable: it must not be made; ``retry_after`` and the status are those of what opened this.
        """
        reason = self.reason()
        if reason is not None:
            raise UpstreamUnavailable(
                reason,
                connect=True,
                code=self._error.code if self._error else None,
                upstream_status=self._error.upstream_status if self._error else None,
                retry_after=self._left() or None,
            )
        self._trial = self._error is not None and self.state == "half-open"
        return self._trial

    def answered(self, trial: bool) -> None:
        """Upstream began to answer: a trial has done its work."""
        if trial:
            self._close()

    def succeeded(self) -> None:
        """An answer came to its end. One that began before this opened says nothing about now."""
        if self._error is None:
            self._close()

    def left(self, trial: bool) -> None:
        """The call ended without saying anything about the target: the caller left, or its deadline passed."""
        if trial:
            self._trial = False

    def recovered(self) -> None:
        """A probe reached the target."""
        if self.unreachable:
            self._close()

    def failed(self, error: UpstreamError, trial: bool) -> None:
        """The call was given up."""
        self.left(trial)
        if isinstance(error, UpstreamRefused):
            self.answered(trial)
        elif error.code == translate.DEADLINE:
            return
        elif error.code == translate.UNREACHABLE or (isinstance(error, UpstreamUnavailable) and error.connect):
            self.unreachable = self._probed
            self._open(error, COOLDOWN_S)
        elif error.code == translate.AUTH:
            self._open(error, CREDENTIAL_COOLDOWN_S)
        elif error.retry_after:
            self._open(error, min(error.retry_after, MAX_RETRY_AFTER_S))
        elif trial or self._error is None:
            self._count(error, trial)

    def _count(self, error: UpstreamError, trial: bool) -> None:
        self._failures += 1
        if trial or self._failures >= FAILURES_TO_OPEN:
            self._open(error, min(COOLDOWN_S * 2**self._opened, MAX_COOLDOWN_S))
            self._opened += 1

    def _close(self) -> None:
        self._failures = self._opened = 0
        self._error, self._until, self._trial, self.unreachable = None, None, False, False

    def _open(self, error: UpstreamError, for_s: float) -> None:
        self._error, self._until = error, self._clock() + for_s

    def _left(self) -> float:
        if self.unreachable or self._until is None:
            return 0.0
        return max(0.0, self._until - self._clock())


def _cause(error: UpstreamError | None) -> str:
    """Without upstream's own words: they may quote a prompt, and this is told to everybody who asks next."""
    if isinstance(error, UpstreamTimeout) or (isinstance(error, UpstreamUnavailable) and error.connect):
        return str(error)
    if error is not None and error.code in (translate.AUTH, translate.UNREACHABLE):
        return str(error)
    if error is not None and error.upstream_status is not None:
        return f"upstream answered {error.upstream_status}"
    return "upstream breaks off its replies" if isinstance(error, UpstreamBroken) else "upstream fails"
