"""Both ways of binding a child to its parent: it goes when the parent is killed without a word, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from gateway.supervisor import death_pact

PATIENCE = 20.0

# A parent that starts one child under a pact, says the child's process id and waits. argv: the pact, the signal's name.
PARENT = """
import signal, subprocess, sys, time
from gateway.supervisor import death_pact
pact = getattr(death_pact, sys.argv[1])(signal.Signals[sys.argv[2]])
script = "import time; time.sleep(600)"
child = subprocess.Popen(pact.bound((sys.executable, "-c", script)), start_new_session=True)
with pact.watching(child.pid):
    print(child.pid, flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""

PACTS = [pytest.param("PipePact"), *([pytest.param("KernelPact")] if sys.platform == "linux" else [])]


def parent(pact: str, number: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PARENT, pact, number]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("pact", PACTS)
def test_the_child_goes_when_its_parent_is_killed(pact: str, number: str) -> None:
    with parent(pact, number) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        child.wait(timeout=PATIENCE)


def test_the_watcher_goes_with_the_pact_and_leaves_the_child_alone() -> None:
    with parent("PipePact", "SIGKILL") as process:
        assert process.stdin
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "left\n"
        assert psutil.Process(process.pid).children() == [child]
        assert child.status() != psutil.STATUS_ZOMBIE
        os.kill(child.pid, signal.SIGKILL)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(timeout=PATIENCE) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's pact")
def test_the_process_becomes_the_command() -> None:
    """Nothing of the pact stays in it, not even the signal that Python ignores and others count on."""
    command = death_pact.KernelPact(signal.SIGTERM).bound(("/bin/grep", "SigIgn", "/proc/self/status"))
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(said.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_the_pact_of_this_machine() -> None:
    kind = death_pact.KernelPact if sys.platform == "linux" else death_pact.PipePact
    assert isinstance(death_pact.pact(signal.SIGTERM), kind)
