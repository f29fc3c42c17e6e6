"""Whatever happens in whatever order: left + reserved + spent = limit, and every request is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.budget.limits import admit
from gateway.budget.reservations import reserve, settle, sweep
from gateway.redis_io import RedisLink, client
from tests.support.accounts import KEYS, budget, intent, ledger, principal, settlement
from tests.support.ledger import NOON
from tests.support.redis_server import RedisServer

T = TypeVar("T")
# Far above 2**53, from where on a double no longer holds every integer.
LIMITS = st.integers(0, 9_000_000_000 * 10**9)
AMOUNTS = st.one_of(st.integers(0, 2**57), st.integers(2**53 + 1, 2**57), st.sampled_from([0, 1, 2**53 + 1]))
PICK = st.integers(0, 1 << 30)


class Budget(RuleBasedStateMachine):
    """One key, the requests of workers that are all dead, and a plain model of what its budget must hold."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = client(self.url)
        self.link = RedisLink(self.url, timeout_s=5)
        self.run(self.redis.flushall())
        self.run(self.link.start(5))
        self.limit, self.left, self.spent = 10**18 + 7, 10**18 + 7, 0
        self.opened = False
        self.names = 0
        self.clock = NOON
        self.held: dict[str, int] = {}
        self.crashed: dict[str, int] = {}
        self.counted: list[str] = []
        self.costs: dict[str, int] = {}

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.link.close())
        self.run(self.redis.aclose())
        self.loop.close()

    def name(self) -> str:
        self.names += 1
        return f"r{self.names}"

    def known(self, pick: int, among: Mapping[str, int]) -> str:
        return sorted(among)[pick % len(among)]

    @rule()
    def admit(self) -> None:
        who, name = principal(budget_nano=self.limit), self.name()
        admission = self.run(admit(self.link, KEYS, who, name, intent(ts_ms=self.clock), tokens=1))
        assert admission.budget_left == (self.left if self.opened else self.limit)
        self.held[name] = 0

    @precondition(lambda self: self.held)
    @rule(pick=PICK, amount=AMOUNTS)
    def reserve(self, pick: int, amount: int) -> None:
        name = self.known(pick, self.held)
        who, total = principal(budget_nano=self.limit), self.held[name] + amount
        granted = self.run(
            reserve(self.link, KEYS, who, name, intent(ts_ms=self.clock), add_nano=amount, total_nano=total)
        )
        self.opened = True
        assert granted == (amount == 0 or self.left >= amount)
        if granted:
            self.left -= amount
            self.held[name] = total

    @precondition(lambda self: self.held)
    @rule(pick=PICK, cost=AMOUNTS)
    def settle(self, pick: int, cost: int) -> None:
        name = self.known(pick, self.held)
        assert self.run(settle(self.link, KEYS, settlement(name, cost)))
        self.count(name, self.held.pop(name), cost)

    @precondition(lambda self: self.crashed)
    @rule(pick=PICK, cost=AMOUNTS)
    def settle_after_the_sweep(self, pick: int, cost: int) -> None:
        name = self.known(pick, self.crashed)
        assert self.run(settle(self.link, KEYS, settlement(name, cost)))
        charged = self.crashed.pop(name)
        self.spent -= charged
        self.count(name, charged, cost)

    @rule(cost=AMOUNTS)
    def settle_what_was_never_admitted(self, cost: int) -> None:
        name = self.name()
        assert self.run(settle(self.link, KEYS, settlement(name, cost, intent=False)))
        self.count(name, 0, cost, admitted=False)

    @precondition(lambda self: self.costs)
    @rule(pick=PICK, again=AMOUNTS)
    def replay(self, pick: int, again: int) -> None:
        name = self.known(pick, self.costs)
        admitted = not name.endswith("!")
        assert not self.run(settle(self.link, KEYS, settlement(name.rstrip("!"), again, intent=admitted)))

    @rule()
    def sweep(self) -> None:
        self.run(sweep(self.redis, self.clock))
        self.clock += 5_000
        assert self.run(sweep(self.redis, self.clock)) in {0, len(self.held)}
        for name, reserved in self.held.items():
            self.crashed[name] = reserved
            self.spent += reserved
            self.counted.append(name)
        self.held = {}

    @rule(limit=LIMITS)
    def change_the_limit(self, limit: int) -> None:
        self.left += limit - self.limit
        self.limit = limit
        if not self.opened:
            self.left = limit
        self.admit()

    def count(self, name: str, given_back: int, cost: int, *, admitted: bool = True) -> None:
        if self.opened:
            self.left += given_back - cost
            self.spent += cost
        self.counted.append(name)
        self.costs[name if admitted else f"{name}!"] = cost

    @invariant()
    def the_books_agree(self) -> None:
        held = self.run(budget(self.redis))
        reserved = sum(self.held.values())
        if self.opened:
            assert held == {"left": self.left, "reserved": reserved, "spent": self.spent, "limit": self.limit}
            assert held["left"] + held["reserved"] + held["spent"] == held["limit"]
        else:
            assert held == {}
        assert sorted(row.request_id for row in self.run(ledger(self.redis))) == sorted(self.counted)


@pytest.mark.timeout(60)
def test_the_books_agree_for_any_interleaving(shared_redis: RedisServer) -> None:
    Budget.url = shared_redis.url
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Budget,
        settings=settings(max_examples=35, stateful_step_count=30, deadline=None, suppress_health_check=checks),
    )
