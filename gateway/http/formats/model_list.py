"""``GET /v1/models`` as Anthropic's clients read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.http.formats.fields import Object


def listed(rows: Sequence[Object]) -> Object:
    """OpenAI's list of models as the one page that Anthropic's would be; what it does not have stays as it is."""
    data = [_row(row) for row in rows]
    ids = [row["id"] for row in data] or [None]
    return {"data": data, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}


def _row(row: Object) -> Object:
    known = {name: value for name, value in row.items() if name not in ("object", "created")}
    made = datetime.fromtimestamp(row["created"], UTC).isoformat().replace("+00:00", "Z")
    return {**known, "type": "model", "display_name": row["id"], "created_at": made}
