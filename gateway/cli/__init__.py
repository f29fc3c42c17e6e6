"""The ``gateway`` command. Exit status: 0 fine, 1 a problem was found, 2 wrong usage."""

from gateway.cli.app import main

__all__ = ["main"]
