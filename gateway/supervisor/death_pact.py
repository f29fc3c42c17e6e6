"""Nothing outlives the supervisor: what binds each child, so that it goes even after ``kill -9`` of its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

_PR_SET_PDEATHSIG = 1


class DeathPact(Protocol):
    """Made before the fork, so that nothing is looked up or allocated between fork and exec."""

    @property
    def in_child(self) -> Callable[[], None] | None:
        """Called in the child before it becomes the part."""
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
        prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

        def bind() -> None:
            prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        self.in_child = bind

    @contextlib.contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        yield


class PipePact:
    """A shell that reads from a pipe which only the supervisor can write to: when it reads the end, the supervisor is
    gone, and the child's session is signalled.
    """

    in_child = None

    def __init__(self, number: signal.Signals) -> None:
        self._name = number.name.removeprefix("SIG")

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
