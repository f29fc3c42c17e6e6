"""Processes beside a test's own."""

from __future__ import annotations

import contextlib

import psutil


def children_with(word: str, pid: int | None = None) -> list[psutil.Process]:
    """The children of a process (this one) in whose command line a word stands; not what has ended."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if word in child.cmdline():
                found.append(child)
    return found
