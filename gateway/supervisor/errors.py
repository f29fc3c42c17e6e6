"""Why a gateway cannot be started on this machine."""

from __future__ import annotations


class SupervisorError(Exception):
    """Base; the message says why and what to do."""


class CannotStart(SupervisorError):
    """The data folder is being served already, or the address is taken."""


class RedisUnavailable(SupervisorError):
    """The embedded Redis could not be started."""
