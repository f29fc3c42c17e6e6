"""A batch: as it was asked for, how far it is, and as OpenAI shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gateway.types import NANO, Frozen

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelled"]
OVER = frozenset({"failed", "completed", "expired", "cancelled"})
WINDOW_S = 86_400


class Asked(Frozen, frozen=True, kw_only=True):
    """A batch as it was created; never changed. Times are epoch seconds.

    ``key_hash``: of the key it was created with, "" where that was the admin key or none. ``headers``: the
    ``x-gateway-*`` headers of its creation, which hold for each of its lines. ``output_s``: how long its output is
    kept.
    """

    id: str
    owner: str
    key_id: str
    key_hash: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    output_s: int
    metadata: dict[str, str] | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class Problem(Frozen, frozen=True, kw_only=True):
    """Why a batch failed validation. ``line`` is 1-based."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Tally(msgspec.Struct, kw_only=True):
    """What has become of the lines so far, and what the answers among them took."""

    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    saved_nano: int = 0
    unpriced: int = 0

    def shown(self) -> dict[str, Any]:
        """OpenAI's ``usage`` of a batch, with what it cost by the answers' own ``usage``."""
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "cost_usd": None if self.unpriced else self.cost_nano / NANO,
            "saved_usd": None if self.unpriced else self.saved_nano / NANO,
        }


class Progress(msgspec.Struct, kw_only=True):
    """How far it is: what who works on it writes. ``ended_at``: when ``status`` became one of ``OVER``."""

    status: Status = "validating"
    total: int = 0
    tally: Tally = msgspec.field(default_factory=Tally)
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    ended_at: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    problems: list[Problem] = msgspec.field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.status in OVER


class Batch(Frozen, frozen=True, kw_only=True):
    """Everything there is about one. ``cancelling_at``: when its owner asked for its end."""

    asked: Asked
    progress: Progress
    cancelling_at: int | None = None

    @property
    def status(self) -> str:
        cancelling = self.cancelling_at is not None and not self.progress.over
        return "cancelling" if cancelling else self.progress.status

    def shown(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        asked, progress = self.asked, self.progress
        ended = {f"{status}_at": progress.ended_at if progress.status == status else None for status in sorted(OVER)}
        problems = [msgspec.to_builtins(problem) for problem in progress.problems]
        return {
            "id": asked.id,
            "object": "batch",
            "endpoint": asked.endpoint,
            "errors": {"object": "list", "data": problems} if problems else None,
            "input_file_id": asked.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": progress.output_file_id,
            "error_file_id": progress.error_file_id,
            "created_at": asked.created_at,
            "expires_at": asked.expires_at,
            "in_progress_at": progress.in_progress_at,
            "finalizing_at": progress.finalizing_at,
            "cancelling_at": self.cancelling_at if progress.status not in ("completed", "failed", "expired") else None,
            **ended,
            "request_counts": {
                "total": progress.total,
                "completed": progress.tally.completed,
                "failed": progress.tally.failed,
            },
            "usage": progress.tally.shown(),
            "metadata": asked.metadata,
        }
