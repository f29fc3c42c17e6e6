"""Nothing outlives the supervisor: what binds each child, so that it goes even after ``kill -9`` of its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Protocol

# Binds itself to its parent, then becomes the command. SIGPIPE: Python ignores it, and what is ignored stays so.
_BOUND = """
import ctypes, os, signal, sys
number, parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG
os.getppid() == int(parent) or sys.exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(command[0], command)
"""


class DeathPact(Protocol):
    """Between fork and exec no Python runs (``preexec_fn``): with threads about, that can wait for ever."""

    def bound(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """The command to run instead, which becomes ``command`` in the same process."""
        ...

    def watching(self, pid: int) -> contextlib.AbstractContextManager[None]:
        """Entered once the child runs, left when it has ended."""
        ...


def pact(number: signal.Signals) -> DeathPact:
    """The kernel's on Linux, a watcher process elsewhere."""
    return KernelPact(number) if sys.platform == "linux" else PipePact(number)


class KernelPact:
    """``prctl(PR_SET_PDEATHSIG)``, see prctl(2). It counts from the thread that forked: fork on the main thread."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def bound(self, command: tuple[str, ...]) -> tuple[str, ...]:
        return (sys.executable, "-ISc", _BOUND, str(int(self._number)), str(os.getpid()), *command)

    @contextlib.contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        yield


class PipePact:
    """A shell that reads from a pipe which only the supervisor can write to: when it reads the end, the supervisor is
    gone, and the child's session is signalled.
    """

    def __init__(self, number: signal.Signals) -> None:
        self._name = number.name.removeprefix("SIG")

    def bound(self, command: tuple[str, ...]) -> tuple[str, ...]:
        return command

    @contextlib.contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        ours, held = os.pipe()
        script = f"read -r _; kill -s {self._name} -- -{pid}"
        watcher = subprocess.Popen(["/bin/sh", "-c", script], stdin=ours, start_new_session=True)
        os.close(ours)
        try:
            yield
        finally:
            # The watcher goes first: after the child's end its process id may be someone else's.
            watcher.kill()
            watcher.wait()
            os.close(held)
