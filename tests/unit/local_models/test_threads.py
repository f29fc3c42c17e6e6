"""How many threads compute a step, on machines that are imagined."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from local_models.chat.threads import Threads

Machine = Callable[[int], tuple[float, float]]
"""Threads to how many times its usual time a step takes, and the share of it that the first thread is on a core."""


def quiet(threads: int) -> tuple[float, float]:
    return 4 / threads, 1.0


def crowded(threads: int) -> tuple[float, float]:
    """Each thread has a third of a core; more than one wait for each other at each barrier."""
    return (3 * 4 / threads, 0.33) if threads == 1 else (40.0, 0.2)


def one_core_taken(threads: int) -> tuple[float, float]:
    return {4: (3.0, 0.6), 2: (1.8, 1.0), 1: (4.0, 1.0)}[threads]


def shared_fairly(threads: int) -> tuple[float, float]:
    """All threads get half of a core: fewer are no help."""
    return 2 * 4 / threads, 0.5


def run(threads: Threads, machine: Machine, steps: int) -> list[int]:
    """The threads of each step."""
    counts = []
    for _ in range(steps):
        counts.append(threads.count)
        slowness, share = machine(threads.count)
        threads.observe(slowness, slowness * share, 1.0)
    return counts


def test_on_a_quiet_machine_all_threads_compute() -> None:
    assert set(run(Threads(4), quiet, 2000)) == {4}


@pytest.mark.parametrize(("machine", "best"), [(crowded, 1), (one_core_taken, 2), (shared_fairly, 4)])
def test_the_quickest_number_is_found_and_the_others_seldom_tried(machine: Machine, best: int) -> None:
    threads = Threads(4)
    run(threads, machine, 200)
    counts = run(threads, machine, 2000)
    assert counts.count(best) > 0.95 * len(counts)


def test_while_fewer_are_tried_an_urgent_step_gets_what_has_proved_best() -> None:
    threads = Threads(4)
    tried = False
    for _ in range(200):
        tried |= threads.count != threads.settled == 4
        threads.observe(8 / threads.count, 4 / threads.count, 1.0)
    assert tried


def test_they_come_back_when_the_machine_is_quiet_again() -> None:
    threads = Threads(4)
    run(threads, crowded, 2000)
    assert threads.count == 1
    assert run(threads, quiet, 700)[-100:] == [4] * 100


def test_a_single_slow_step_changes_nothing() -> None:
    threads = Threads(2)
    run(threads, quiet, 50)
    threads.observe(30.0, 1.0, 1.0)
    assert set(run(threads, quiet, 500)) == {2}


def test_where_the_bits_would_differ_the_number_stays() -> None:
    assert set(run(Threads(4, least=4), crowded, 500)) == {4}
