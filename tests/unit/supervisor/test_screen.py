"""What is printed: a line per change where nobody watches, a live block on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gateway.supervisor.screen import Screen


def plain() -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, width=100), ["redis", "worker-1"]), out


def test_plain_lines_say_each_change_once() -> None:
    screen, out = plain()
    screen.said("redis", "starting", "")
    screen.said("redis", "ready", "in 0.1 s")
    screen.said("redis", "ready", "in 0.1 s")
    screen.said("worker-1", "unavailable", "no network")
    assert out.getvalue() == "redis     ready in 0.1 s\nworker-1  unavailable: no network\n"


def test_a_download_is_said_in_tenths() -> None:
    screen, out = plain()
    for percent in range(0, 101, 3):
        screen.said("redis", "fetching", f"download {percent} %")
    screen.said("redis", "fetching", "quantize 1 %")
    assert len(out.getvalue().splitlines()) == 11
    assert out.getvalue().splitlines()[0] == "redis     fetching: download 0 %"


def test_after_the_start_lines_carry_the_time() -> None:
    screen, out = plain()
    screen.settled()
    screen.said("redis", "restarting", "was killed by SIGKILL; again in 0.5 s")
    clock, name, words = out.getvalue().rstrip().split(maxsplit=2)
    assert clock.count(":") == 2
    assert (name, words) == ("redis", "restarting: was killed by SIGKILL; again in 0.5 s")


def test_what_a_part_says_is_never_taken_for_markup() -> None:
    screen, out = plain()
    screen.line("[bold]not bold[/bold] [/] [link=x]")
    assert out.getvalue() == "[bold]not bold[/bold] [/] [link=x]\n"


@pytest.mark.parametrize("state", ["ready", "failed", "fetching"])
def test_a_terminal_shows_every_part_in_one_block(state: str) -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, width=100, force_terminal=True), ["redis", "worker-1"])
    screen.said("redis", state, "so far")  # type: ignore[arg-type]
    screen.refresh()
    screen.settled()
    last = out.getvalue().rsplit("redis", 1)[1]
    assert "so far" in last
    assert "worker-1" in last
    assert "waiting" in last
