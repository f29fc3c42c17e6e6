"""What a page is made from (:class:`Ask`) and what it is made of (:class:`Page`), whichever way it is then written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlencode

from gateway.dashboard import periods
from gateway.dashboard.tables import Table
from gateway.ledger.answers import Dimension, Measures
from gateway.ledger.answers import Period as Span

if TYPE_CHECKING:
    from gateway.ledger.store import SqlStore

ROOT = "/dashboard"
DIMENSIONS: dict[Dimension, str] = {
    "team": "Team",
    "key_id": "Key",
    "model": "Model",
    "rule": "Rule",
    "policy": "Policy",
    "served": "Answered by",
    "cache": "Cache",
    "status": "Status",
    "tag": "Tag",
    "project": "Project",
    "end_user": "End user",
}
ALONE: tuple[Dimension, ...] = ("tag", "project", "end_user")
WHERE = {"local": "Local models", "hosted": "Hosted models", "cache": "Cache", "none": "Nobody (refused or failed)"}
_KNOWN = frozenset(get_args(Dimension))


class Wrong(Exception):
    """The page cannot be shown as it was asked for. ``status`` is HTTP's."""

    def __init__(self, message: str, status: int = 400, code: str = "invalid_query") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Ask:
    """Who asks for what. ``facts`` is what the worker told; an owner is shown the requests of ``key_id`` only."""

    store: SqlStore
    page: str
    query: Mapping[str, str]
    role: str
    key_id: str
    facts: Mapping[str, Any]
    now_ms: int
    keys: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def period(self) -> periods.Period:
        """Raises Wrong."""
        try:
            return periods.read(self.query.get("period", "7d"), self.now_ms)
        except ValueError as error:
            raise Wrong(str(error), code="invalid_period") from None

    @property
    def span(self) -> Span:
        return Span(self.period.since_ms, self.period.until_ms)

    @cached_property
    def filters(self) -> dict[Dimension, str]:
        """What the address narrows the page to."""
        return {name: self.query[name] for name in DIMENSIONS if name in self.query}

    @property
    def where(self) -> dict[Dimension, Sequence[str]]:
        """The filters, and whatever else the reader may not see beyond."""
        narrowed: dict[Dimension, Sequence[str]] = {name: (value,) for name, value in self.filters.items()}
        narrowed.update(self.own)
        return narrowed

    @property
    def own(self) -> dict[Dimension, Sequence[str]]:
        return {"key_id": (self.key_id,)} if self.role == "owner" else {}

    def dimensions(self) -> dict[Dimension, str]:
        """What this page can be split by: tags, projects and end users stand alone in the rollups."""
        beside = [name for name in self.where if name not in ("organisation", "team")]
        lonely = [name for name in beside if name in ALONE]
        if lonely:
            return {name: title for name, title in DIMENSIONS.items() if name in (*lonely, "team")}
        return {name: title for name, title in DIMENSIONS.items() if not beside or name not in ALONE}

    def name(self, dimension: Dimension, value: str) -> str:
        """A value as people know it: a key by its name."""
        if dimension == "key_id":
            return self.keys.get(value, value)
        if dimension == "served":
            return WHERE.get(value, value)
        return value or f"(no {DIMENSIONS.get(dimension, dimension).lower()})"

    def href(self, page: str | None = None, **changes: str | None) -> str:
        """An address with this one's period and filters, but for ``changes`` (None leaves one out)."""
        named = ("period", "by", *self.filters)
        kept = {name: self.query.get(name) for name in named} | changes
        query = {name: value for name, value in kept.items() if value is not None}
        return address(self.page if page is None else page, query)


@dataclass(frozen=True)
class Page:
    """``values`` go to the template of ``name``; ``figures`` and ``tables`` are what is exported.

    ``every_s``: how often an open page asks again, 0: never.
    """

    name: str
    title: str
    values: Mapping[str, Any]
    tables: tuple[Table, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    every_s: int = 5


def address(page: str, query: Mapping[str, str]) -> str:
    path = f"{ROOT}/{page}" if page else ROOT
    return f"{path}?{urlencode(query)}" if query else path


def dimension(name: str) -> Dimension:
    """Raises Wrong."""
    if name not in _KNOWN or name not in DIMENSIONS:
        raise Wrong(f"'{name}' is not one of {', '.join(DIMENSIONS)}")
    return name


def figures(measures: Measures) -> dict[str, Any]:
    """Measures as a row of a table."""
    return {
        "requests": measures.requests,
        "errors": measures.errors,
        "cost_nano": measures.cost_nano,
        "baseline_nano": measures.baseline_nano,
        "saved_nano": measures.saved_nano,
        "hit_rate": measures.hit_rate,
        "prompt_tokens": measures.prompt_tokens,
        "completion_tokens": measures.completion_tokens,
        "tokens_per_s": measures.tokens_per_s,
        "ttft_p50_ms": measures.ttft_ms.p50,
        "ttft_p95_ms": measures.ttft_ms.p95,
        "latency_p50_ms": measures.latency_ms.p50,
        "latency_p95_ms": measures.latency_ms.p95,
        "latency_p99_ms": measures.latency_ms.p99,
        "estimated": measures.estimated,
        "unpriced": measures.unpriced,
        "rating": measures.rating,
    }
