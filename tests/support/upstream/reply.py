"""A reply before it is played: one body, or a stream of events."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from tests.support.upstream.plan import Plan, Usage

encode = msgspec.json.Encoder().encode


class Event(NamedTuple):
    """One server-sent event. `piece`: it carries text, and counts as a chunk. `usage`: what it reports."""

    data: bytes
    piece: bool = False
    usage: Usage | None = None


class Reply(msgspec.Struct, frozen=True):
    """A status and either a JSON body or the events of a stream."""

    plan: Plan
    body: bytes = b""
    status: int = 200
    usage: Usage | None = None
    events: Iterator[Event] | None = None


def plain(plan: Plan, reply: dict[str, Any], usage: Usage | None = None) -> Reply:
    """A 200 with `reply`, or with the plan's garbage."""
    body = encode(merged(reply, plan.extra) if plan.extra else reply)
    return Reply(plan, plan.garbage if plan.garbage_after is not None else body, usage=usage)


def raw(plan: Plan, reply: bytes | tuple[bytes, ...]) -> Reply:
    """The plan's own bytes, plain or as a stream."""
    if isinstance(reply, bytes):
        return Reply(plan, reply)
    return Reply(plan, events=iter([Event(piece, piece=True) for piece in reply]))


def failure(plan: Plan, status: int, default: dict[str, Any]) -> Reply:
    """An error: the plan's own body, else `default`."""
    if isinstance(plan.error, bytes):
        return Reply(plan, plan.error, status)
    return Reply(plan, encode(default if plan.error is None else plan.error), status)


def merged(base: Any, extra: Any) -> Any:
    """`base` with `extra` laid over it: objects by key, lists item by item, anything else replaced."""
    if isinstance(base, dict) and isinstance(extra, Mapping):
        return {**base, **{key: merged(base.get(key), value) for key, value in extra.items()}}
    if isinstance(base, list) and isinstance(extra, list):
        return [merged(*both) for both in zip(base, extra, strict=False)] + base[len(extra) :]
    return extra
