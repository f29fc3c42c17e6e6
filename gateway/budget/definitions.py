"""What a budget is: how much money, how many requests and tokens, whom it is for, and over which time."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from gateway.budget import windows
from gateway.errors import InvalidRequest
from gateway.types import NANO

Scope = Literal["organisation", "team", "key", "user", "tag", "model"]
EACH = "*"

_USD_MAX = 9_000_000_000
_COUNT_MAX = 1_000_000_000


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a scope may use. All budgets that apply to a request must have room for it.

    ``subject`` names the organisation, team, key (its id), user, tag or model; ``*``: each of them has this much of
    its own. A user, tag or model is one of ``organisation``. ``limit_nano``: nano-dollars a ``window``, counted from
    ``created_ms`` on; None: no limit on money. ``hard``: a request that may go over is refused; else it is only told
    of. ``alert_at``: shares of the limit at which an event is written (:mod:`gateway.budget.accounts`).
    """

    id: str
    scope: Scope
    subject: str
    organisation: str = "default"
    name: str = ""
    limit_nano: int | None = None
    window: str = windows.TOTAL
    time_zone: str = "UTC"
    hard: bool = True
    alert_at: tuple[float, ...] = (0.8, 1.0)
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    created_ms: int = 0

    def check(self) -> None:
        """Raises InvalidRequest naming the field."""
        if not 1 <= len(self.subject) <= 200:
            raise InvalidRequest("subject must have 1 to 200 characters", param="subject")
        for field in ("rpm", "tpm", "concurrency"):
            value = getattr(self, field)
            if value is not None and not 1 <= value <= _COUNT_MAX:
                raise InvalidRequest(f"{field} must be between 1 and {_COUNT_MAX}", param=field)
            if value is not None and self.scope == "model":
                raise InvalidRequest(f"{field} is no limit of a model: which one answers is decided later", param=field)
        if self.limit_nano is None and not (self.rpm or self.tpm or self.concurrency):
            raise InvalidRequest("give limit_usd, rpm, tpm or concurrency", param="limit_usd")
        if len(self.alert_at) > 10 or any(not 0 < share <= 10 for share in self.alert_at):
            raise InvalidRequest("alert_at holds at most 10 shares of the limit, such as 0.8", param="alert_at")
        if len(self.name) > 200:
            raise InvalidRequest("name must have at most 200 characters", param="name")
        for field, test in (("window", windows.check), ("time_zone", windows.zone)):
            try:
                test(getattr(self, field))
            except ValueError as error:
                raise InvalidRequest(f"{field}: {error}", param=field) from None

    @property
    def label(self) -> str:
        """As people are told of it: ``month budget of team 'red' ($50.00)``."""
        money = "" if self.limit_nano is None else f" (${Decimal(self.limit_nano) / NANO:,.2f})"
        window = "" if self.window == windows.TOTAL else f"{self.window} "
        return f"{window}budget of {self.scope} '{self.name or self.subject}'{money}"

    def public(self) -> dict[str, Any]:
        """As it is shown: money in dollars."""
        shown: dict[str, Any] = msgspec.to_builtins(self)
        nano = shown.pop("limit_nano")
        return shown | {"limit_usd": None if nano is None else nano / NANO}


def nano(usd: float, param: str) -> int:
    """Dollars as they were written to nano-dollars: a product of floats is off by some above $9 million.

    Raises:
        InvalidRequest: out of range.
    """
    if not 0 <= usd <= _USD_MAX:
        raise InvalidRequest(f"{param} must be between 0 and {_USD_MAX}", param=param)
    return int((Decimal(str(usd)) * NANO).to_integral_value())
