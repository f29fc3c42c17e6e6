"""Whatever happens in whatever order: every account's left + reserved + spent = limit, and each request counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.budget.accounts import open_accounts, set_limit
from gateway.budget.levels import Account, Levels
from gateway.budget.limits import Hold, admit
from gateway.budget.reservations import Settlement, charged_to, reserve, settle, sweep
from gateway.redis_io import RedisLink, client
from tests.support.accounts import KEYS, budget, intent, ledger, settlement
from tests.support.ledger import NOON
from tests.support.redis_server import RedisServer

T = TypeVar("T")
# Far above 2**53, from where on a double no longer holds every integer.
LIMITS = st.integers(0, 9_000_000_000 * 10**9)
AMOUNTS = st.one_of(st.integers(0, 2**55), st.integers(2**53 + 1, 2**55), st.sampled_from([0, 1, 2**53 + 1]))
PICK = st.integers(0, 1 << 30)
SLICE_MS = 1000


class Model:
    """What an account must hold, in plain Python: ``slices`` are what was spent, by step of a rolling window."""

    def __init__(self, limit: int, *, hard: bool = True, rolling: bool = False) -> None:
        self.limit, self.hard, self.rolling = limit, hard, rolling
        self.reserved = 0
        self.slices: dict[int, int] = {}

    @property
    def spent(self) -> int:
        return sum(self.slices.values())

    @property
    def left(self) -> int:
        return self.limit - self.reserved - self.spent

    def charge(self, slice_: int, amount: int) -> None:
        self.slices[slice_ if self.rolling else 0] = self.slices.get(slice_ if self.rolling else 0, 0) + amount

    def roll(self, now: int) -> None:
        if self.rolling:
            self.slices = {number: spent for number, spent in self.slices.items() if number >= now - 60}


class Asked:
    """A request: when it came, what it holds of each account, and the model it was last reserved for."""

    def __init__(self, slice_: int) -> None:
        self.slice = slice_
        self.total = 0
        self.parts: dict[str, int] = {}


class Budgets(RuleBasedStateMachine):
    """An organisation, a team and a key with hard budgets, a soft one, a rolling one, and one of a model.

    ``unit`` divides every amount: without it they are too long for Lua's numbers, with it they are not.
    """

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = client(self.url)
        self.link = RedisLink(self.url, timeout_s=5)
        self.run(self.redis.flushall())
        self.run(self.link.start(5))
        self.models = {
            "organisation": Model(10**18 + 7),
            "team": Model(5 * 10**17 + 1),
            "key": Model(9 * 10**18),
            "soft": Model(10**15, hard=False),
            "rolling": Model(10**18, rolling=True),
            "model": Model(3 * 10**17 + 3),
        }
        for name, model in self.models.items():
            self.run(self.redis.hset(KEYS.ceilings, name, str(model.limit)))
        self.unit = 1
        self.names = 0
        self.clock = NOON - NOON % SLICE_MS
        self.held: dict[str, Asked] = {}
        self.crashed: dict[str, Asked] = {}
        self.counted: list[str] = []
        self.costs: dict[str, tuple[int, Asked]] = {}
        assert self.run(open_accounts(self.link, KEYS, [*self.common(), self.account("model")], self.clock))

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.link.close())
        self.run(self.redis.aclose())
        self.loop.close()

    def account(self, name: str, slice_: int | None = None) -> Account:
        model = self.models[name]
        number = str(self.clock // SLICE_MS if slice_ is None else slice_) if model.rolling else ""
        return Account(name, name, name, name, model.hard, 0, None, slice=number, slice_ms=SLICE_MS)

    def common(self, slice_: int | None = None) -> tuple[Account, ...]:
        return tuple(self.account(name, slice_) for name in self.models if name != "model")

    def name(self) -> str:
        self.names += 1
        return f"r{self.names}"

    def known(self, pick: int, among: Mapping[str, object]) -> str:
        return sorted(among)[pick % len(among)]

    def charges(self, asked: Asked) -> tuple[tuple[str, str, str], ...]:
        return charged_to(*self.common(asked.slice), self.account("model"))

    @initialize(unit=st.sampled_from([1, 10**6]))
    def begin(self, unit: int) -> None:
        self.unit = unit
        for name, model in self.models.items():
            model.limit //= unit
            self.run(set_limit(self.redis, KEYS, name, model.limit))

    @rule(amount=AMOUNTS, foreseen=st.booleans())
    def admit(self, amount: int, foreseen: bool) -> None:
        name, asked = self.name(), Asked(self.clock // SLICE_MS)
        about = intent(ts_ms=self.clock, charges=self.charges(asked))
        hold = self.wanted(amount // self.unit, of_model=True) if foreseen else None
        told = self.run(admit(self.link, KEYS, Levels((), self.common()), name, about, tokens=1, hold=hold))
        assert told.refused == ""
        for model in self.models.values():
            model.roll(asked.slice)
        self.held[name] = asked
        if hold is None:
            hard = {name: model.left for name, model in self.models.items() if model.hard and name != "model"}
            assert {account.name: left for account, left in told.left} == hard
        else:
            self.taken(asked, hold, granted=bool(told.reserved))

    def wanted(self, amount: int, *, of_model: bool) -> Hold:
        accounts = [account for account in self.common() if account.hard]
        if of_model:
            accounts.append(self.account("model"))
        return Hold(amount, tuple((account, amount) for account in accounts))

    def taken(self, asked: Asked, hold: Hold, *, granted: bool) -> None:
        """All accounts have it left, and all hold it; or one has not, and none does."""
        assert granted == all(not amount or self.models[one.name].left >= amount for one, amount in hold.parts)
        if granted:
            asked.total += hold.total_nano
            for account, amount in hold.parts:
                self.models[account.name].reserved += amount
                asked.parts[account.name] = asked.parts.get(account.name, 0) + amount

    @precondition(lambda self: self.held)
    @rule(pick=PICK, amount=AMOUNTS, of_model=st.booleans())
    def reserve(self, pick: int, amount: int, of_model: bool) -> None:
        name = self.known(pick, self.held)
        amount //= self.unit
        asked, add = self.held[name], self.wanted(amount, of_model=of_model)
        before = Hold(asked.total, tuple((self.account(one), nano) for one, nano in asked.parts.items()))
        about = intent(ts_ms=asked.slice * SLICE_MS, charges=self.charges(asked))
        short = self.run(reserve(self.link, KEYS, name, about, add=add, total=before.more(add)))
        for model in self.models.values():
            model.roll(self.clock // SLICE_MS)
        self.taken(asked, add, granted=short is None)
        if short is not None:
            assert short.account is not None
            assert {one.name: left for one, left in short.left} == {
                one.name: self.models[one.name].left for one, _ in add.parts
            }
            assert self.models[short.account.name].left < amount

    @precondition(lambda self: self.held)
    @rule(pick=PICK, cost=AMOUNTS)
    def settle(self, pick: int, cost: int) -> None:
        name = self.known(pick, self.held)
        asked, cost = self.held.pop(name), cost // self.unit
        assert self.run(settle(self.link, KEYS, self.settlement(name, cost, asked)))
        self.release(asked)
        self.count(name, cost, asked)

    @precondition(lambda self: self.crashed)
    @rule(pick=PICK, cost=AMOUNTS)
    def settle_after_the_sweep(self, pick: int, cost: int) -> None:
        name = self.known(pick, self.crashed)
        asked, cost = self.crashed.pop(name), cost // self.unit
        assert self.run(settle(self.link, KEYS, self.settlement(name, cost, asked)))
        for model in self.models.values():
            model.charge(asked.slice, -asked.total)
        self.count(name, cost, asked)

    @rule(cost=AMOUNTS)
    def settle_what_was_never_admitted(self, cost: int) -> None:
        name, asked, cost = self.name(), Asked(self.clock // SLICE_MS), cost // self.unit
        assert self.run(settle(self.link, KEYS, self.settlement(name, cost, asked, admitted=False)))
        self.count(name, cost, asked, admitted=False)

    @precondition(lambda self: self.costs)
    @rule(pick=PICK, again=AMOUNTS)
    def replay(self, pick: int, again: int) -> None:
        name = self.known(pick, self.costs)
        _, asked = self.costs[name]
        late = self.settlement(name.rstrip("!"), again, asked, admitted=not name.endswith("!"))
        assert not self.run(settle(self.link, KEYS, late))

    @rule()
    def sweep(self) -> None:
        self.run(sweep(self.redis, self.clock))
        assert self.run(sweep(self.redis, self.clock + 5_000)) in {0, len(self.held)}
        for name, asked in self.held.items():
            self.release(asked)
            for model in self.models.values():
                model.charge(asked.slice, asked.total)
            self.crashed[name] = asked
            self.counted.append(name)
        self.held = {}

    @rule(name=st.sampled_from(["organisation", "team", "key", "rolling", "model"]), limit=LIMITS)
    def change_a_limit(self, name: str, limit: int) -> None:
        self.run(set_limit(self.redis, KEYS, name, limit // self.unit))
        self.models[name].limit = limit // self.unit

    @rule(steps=st.sampled_from([1, 3, 30, 59, 61]))
    def time_passes(self, steps: int) -> None:
        if not self.crashed:  # else a correction may come for what has left the window
            self.clock += steps * SLICE_MS

    def settlement(self, name: str, cost: int, asked: Asked, *, admitted: bool = True) -> Settlement:
        return settlement(name, cost, intent=admitted, charges=self.charges(asked), rates=())

    def release(self, asked: Asked) -> None:
        for name, amount in asked.parts.items():
            self.models[name].reserved -= amount

    def count(self, name: str, cost: int, asked: Asked, *, admitted: bool = True) -> None:
        for model in self.models.values():
            model.charge(asked.slice, cost)
        self.counted.append(name)
        self.costs[name if admitted else f"{name}!"] = (cost, asked)

    @invariant()
    def the_books_agree(self) -> None:
        for name, model in self.models.items():
            held = self.run(budget(self.redis, name))
            assert held["left"] + held["reserved"] + held["spent"] == held["limit"] == model.limit
            assert held["reserved"] == model.reserved
            if not model.rolling:
                assert held["spent"] == model.spent
        assert sorted(row.request_id for row in self.run(ledger(self.redis))) == sorted(self.counted)

    @invariant()
    def nothing_held_is_forgotten(self) -> None:
        assert self.run(self.redis.hlen(KEYS.intents)) == len(self.held)


def check(url: str, examples: int, steps: int) -> None:
    Budgets.url = url
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Budgets,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks
        ),
    )


def test_the_books_agree_for_any_interleaving(shared_redis: RedisServer) -> None:
    check(shared_redis.url, 8, 20)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_books_agree_for_many_interleavings(shared_redis: RedisServer) -> None:
    check(shared_redis.url, 400, 50)
