"""Prompts and answers, where a policy has them kept: apart from the rows, with an age of their own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, delete, select

from gateway.ledger.rows import shortened
from gateway.ledger.statements import insert, many
from gateway.ledger.tables import contents
from gateway.types import Content

_COLUMNS = tuple(contents.c.keys())
_AT_ONCE = 500


def put(connection: Connection, kept: Sequence[Content]) -> None:
    """Keep contents; the first of a request stays."""
    rows = []
    for content in kept:
        fields = msgspec.structs.asdict(content) | {"end_user": shortened(content.end_user).replace("\0", "\ufffd")}
        rows.append(tuple(fields[name] for name in _COLUMNS))
    many(connection, insert("contents", _COLUMNS) + " ON CONFLICT (request_id) DO NOTHING", rows)


def get(connection: Connection, request_id: str) -> Content | None:
    row = connection.execute(select(contents).where(contents.c.request_id == request_id)).first()
    return None if row is None else Content(**row._mapping)


def expire(connection: Connection, now_ms: int) -> int:
    """Delete some of what has outlived its time. Returns how many; 0: there is no more."""
    old = select(contents.c.request_id).where(contents.c.expires_ms <= now_ms).limit(_AT_ONCE)
    return connection.execute(delete(contents).where(contents.c.request_id.in_(old))).rowcount
