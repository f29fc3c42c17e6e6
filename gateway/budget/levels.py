"""Which budgets apply to a request: a worker's copy of all definitions, asked on the way of each request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.budget import windows
from gateway.budget.definitions import EACH, Budget, Scope
from gateway.types import Principal

FIELD = "budget:"

_PAIRS_MAX = 20_000


class Rate(NamedTuple):
    """Limits a minute and at a time, 0 where there is none. ``name`` is that of its counters."""

    name: str
    rpm: int
    tpm: int
    concurrency: int
    label: str


class Account(NamedTuple):
    """One budget's money in one window. ``name`` is that of its counters: the budget, the subject, the window.

    ``slice`` numbers the step of a rolling window, '' for others. ``alerts``: nano-dollars, comma-separated.
    ``limit_nano``: all of it; 0 where that does not matter.
    """

    name: str
    budget: str
    subject: str
    label: str
    hard: bool
    since_ms: int
    until_ms: int | None
    slice: str = ""
    slice_ms: int = 0
    alerts: str = ""
    limit_nano: int = 0


class Levels(NamedTuple):
    """Everything that applies to a request, before it is known which model answers."""

    rates: tuple[Rate, ...] = ()
    accounts: tuple[Account, ...] = ()


NOTHING = Levels()


class Tree:
    """All budgets of a deployment but those written on a key itself, which come with its principal.

    ``loaded`` is False until the definitions have been read for the first time.
    """

    def __init__(self) -> None:
        self.loaded = False
        self._found: dict[tuple[str, Scope, str], list[_Counted]] = {}
        self._owns: dict[Principal, Levels] = {}

    def load(self, fields: Mapping[bytes, bytes]) -> None:
        """Take over the definitions, as the hash ``Keys.definitions`` holds them.

        One that is deleted leaves an empty value, so an empty hash is one that Redis has lost: the copy is kept.
        """
        if not fields and self._found:
            return
        found: dict[tuple[str, Scope, str], list[_Counted]] = {}
        for field, value in fields.items():
            if value and field.startswith(FIELD.encode()):
                budget = msgspec.json.decode(value, type=Budget)
                found.setdefault((budget.organisation, budget.scope, budget.subject), []).append(_Counted(budget))
        self._found, self.loaded = found, True

    def knows(self, budget_id: str) -> bool:
        """Whether this worker has heard of a budget."""
        return any(one.budget.id == budget_id for found in self._found.values() for one in found)

    def levels(self, principal: Principal, user: str, tags: Iterable[str], at_ms: int) -> Levels:
        """What applies to a principal's request at a time."""
        own = self._owns.get(principal)
        if own is None:
            own = self._remember(principal)
        if not self._found:
            return own
        organisation = principal.organisation
        pairs: list[tuple[Scope, str]] = [("organisation", organisation), ("team", principal.team)]
        pairs += [("key", principal.key_id), ("user", user), *(("tag", tag) for tag in tags)]
        applying = self._applying(organisation, pairs)
        if not applying:
            return own
        rates = tuple(counted.rate(subject) for counted, subject in applying if counted.rated)
        accounts = tuple(counted.account(subject, at_ms) for counted, subject in applying if counted.limited)
        return Levels(own.rates + rates, own.accounts + accounts)

    def of_model(self, organisation: str, model: str, at_ms: int) -> tuple[Account, ...]:
        """The budgets of a model."""
        if not self._found:
            return ()
        applying = self._applying(organisation, [("model", model)])
        return tuple(counted.account(subject, at_ms) for counted, subject in applying if counted.limited)

    def _applying(self, organisation: str, pairs: Iterable[tuple[Scope, str]]) -> list[tuple[_Counted, str]]:
        found: list[tuple[_Counted, str]] = []
        for scope, subject in pairs:
            if subject:
                for named in (subject, EACH):
                    found += [(one, subject) for one in self._found.get((organisation, scope, named), ())]
        return found

    def _remember(self, principal: Principal) -> Levels:
        if len(self._owns) >= _PAIRS_MAX:
            self._owns.clear()
        made = self._owns[principal] = own(principal)
        return made


def own(principal: Principal) -> Levels:
    """What is written on the key itself: limits, and a budget that never resets, both counted under the key's id."""
    rpm, tpm, concurrency = principal.rpm or 0, principal.tpm or 0, principal.concurrency or 0
    label = f"key '{principal.name}'"
    rates = (Rate(principal.key_id, rpm, tpm, concurrency, label),) if rpm or tpm or concurrency else ()
    if principal.budget_nano is None:
        return Levels(rates)
    counted = _Counted(of_key(principal.key_id, principal.name, principal.organisation, principal.budget_nano))
    return Levels(rates, (counted.account(principal.key_id, 0),))


def of_key(key_id: str, name: str, organisation: str, limit_nano: int) -> Budget:
    """The budget that is written on a key, as one of the tree."""
    return Budget(id=key_id, scope="key", subject=key_id, name=name, organisation=organisation, limit_nano=limit_nano)


class _Counted:
    """A budget with the names of its counters; those of the present window are kept at hand."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.limited = budget.limit_nano is not None
        self.rated = bool(budget.rpm or budget.tpm or budget.concurrency)
        self._alerts = alerts(budget)
        self._rolling_ms = windows.rolling_ms(budget.window)
        self._span = windows.Span(0, 0)

    def rate(self, subject: str) -> Rate:
        budget = self.budget
        label = f"{budget.scope} '{subject}'"
        return Rate(self._name(subject), budget.rpm or 0, budget.tpm or 0, budget.concurrency or 0, label)

    def account(self, subject: str, at_ms: int) -> Account:
        """The counters of a subject in the window that holds a moment."""
        budget, name = self.budget, self._name(subject)
        label = budget.label if budget.subject != EACH else f"{budget.label} for '{subject}'"
        common: dict[str, Any] = {"budget": budget.id, "subject": subject, "label": label, "hard": budget.hard}
        common |= {"alerts": self._alerts, "limit_nano": budget.limit_nano or 0}
        if budget.window == windows.TOTAL:
            return Account(name, **common, since_ms=0, until_ms=None)
        if self._rolling_ms:
            width = windows.slice_ms(self._rolling_ms)
            since, number = at_ms - self._rolling_ms, str(at_ms // width)
            return Account(name, **common, since_ms=since, until_ms=None, slice=number, slice_ms=width)
        span = self._span
        if not span.since_ms <= at_ms < (span.until_ms or 0):
            span = self._span = windows.calendar(budget.window, budget.time_zone, at_ms)
        since = span.since_ms
        return Account(f"{name}@{since}", **common, since_ms=since, until_ms=span.until_ms)

    def _name(self, subject: str) -> str:
        """Safe in a list of names: ids are, what people call things need not be."""
        if self.budget.subject != EACH:
            return self.budget.id
        return f"{self.budget.id}.{hashlib.sha256(subject.encode()).hexdigest()[:20]}"


def alerts(budget: Budget) -> str:
    """The amounts at which an event is due."""
    return ",".join(str(int((budget.limit_nano or 0) * share)) for share in sorted(budget.alert_at))


def account_of(budget: Budget, subject: str, at_ms: int) -> Account:
    """The counters of a budget's subject at a time."""
    return _Counted(budget).account(subject, at_ms)
