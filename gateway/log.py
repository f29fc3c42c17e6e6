"""One line an event: for people by default, JSON with ``GATEWAY_LOG=json``. Neither prompts nor secrets, ever.

::

    log.setup("worker")
    log.get(__name__).warning("target is cooling down", model="gpt-4o-mini", seconds=5)
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from typing import Any, TextIO

import msgspec

_SECRETS = (
    (re.compile(r"\b(fg-|sk-|pk-|xox[a-z]-|AIza|AKIA)[A-Za-z0-9_\-]{6,}"), r"\1…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"'\\,;]+"), r"\1 …"),
    (re.compile(r"://[^/\s@\"\\]+@"), "://…@"),
)
_QUIET = ("alembic", "asyncio", "aiosqlite", "httpx", "LiteLLM", "sqlalchemy", "uvicorn.access")


def setup(part: str, stream: TextIO | None = None) -> None:
    """Send everything this process logs to ``stream`` (stderr). ``part`` names the process. Safe to call again."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(part) if os.environ.get("GATEWAY_LOG") == "json" else _Plain(part))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class Log:
    """A logger whose events carry named values."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **values: Any) -> None:
        self._write(logging.DEBUG, event, values)

    def info(self, event: str, **values: Any) -> None:
        self._write(logging.INFO, event, values)

    def warning(self, event: str, **values: Any) -> None:
        self._write(logging.WARNING, event, values)

    def error(self, event: str, **values: Any) -> None:
        self._write(logging.ERROR, event, values)

    def exception(self, event: str, **values: Any) -> None:
        """An error with the exception that is being handled."""
        self._write(logging.ERROR, event, values, exc_info=True)

    def _write(self, level: int, event: str, values: dict[str, Any], *, exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"values": values}, exc_info=exc_info)


def get(name: str) -> Log:
    return Log(name)


def redact(text: str) -> str:
    """The text without what looks like a key, a credential or the password of a URL."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Formatter(logging.Formatter):
    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    @staticmethod
    def values(record: logging.LogRecord) -> dict[str, Any]:
        values = dict(getattr(record, "values", {}))
        if record.exc_info and (error := record.exc_info[1]) is not None:
            values["error"] = f"{type(error).__name__}: {error}"
            if frames := traceback.extract_tb(error.__traceback__):
                values["at"] = f"{frames[-1].filename}:{frames[-1].lineno}"
        return values


class _Plain(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """``12:00:01 worker     warning  target is cooling down  model=gpt-4o-mini``"""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        values = " ".join(f"{name}={_short(value)}" for name, value in self.values(record).items())
        head = f"{clock} {self.part:<10} {record.levelname.lower():<8}"
        return redact(_one_line(f"{head} {record.getMessage()}" + (f"  {values}" if values else "")))


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "part": self.part,
            "logger": record.name,
            "event": record.getMessage(),
            **self.values(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return redact(msgspec.json.encode(line, enc_hook=str).decode())


def _short(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f'"{text}"' if " " in text or not text else text


def _one_line(text: str) -> str:
    """Control characters would let a value forge a line, or move a terminal's cursor."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
