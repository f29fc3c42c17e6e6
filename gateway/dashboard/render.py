"""Pages as HTML, JSON and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gateway.dashboard import charts, periods, words
from gateway.dashboard.page import DIMENSIONS, WHERE, Ask, Page, Wrong
from gateway.dashboard.reader import Answer, Question, error_body
from gateway.ledger.reports import dollars, encode

_TEMPLATES = Path(__file__).parent / "templates"
_MENU = (
    ("", "Overview"),
    ("explore", "Explore"),
    ("live", "Live"),
    ("cache", "Cache"),
    ("budgets", "Budgets"),
    ("models", "Models"),
    ("policies", "Policies"),
)
_WITH_PERIOD = frozenset({"", "explore", "requests"})
_CSV = "text/csv; charset=utf-8"


def environment() -> Environment:
    """Every value is escaped, and one that is missing is an error rather than nothing."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"WIDTH": charts.WIDTH, "HEIGHT": charts.HEIGHT, "DIMENSIONS": DIMENSIONS, "WHERE": WHERE}
    filters = (
        words.money,
        words.exact,
        words.count,
        words.compact,
        words.share,
        words.duration,
        words.rate,
        words.iso,
        words.utc,
    )
    made.filters |= {each.__name__: each for each in filters}
    return made


class Renderer:
    """Templates, compiled once."""

    def __init__(self) -> None:
        self._environment = environment()

    def page(self, ask: Ask, page: Page) -> bytes:
        template = self._environment.get_template(f"{page.name}.html")
        return template.render(_around(ask, page) | dict(page.values)).encode()

    def failure(self, page: str, role: str, status: int, message: str) -> bytes:
        template = self._environment.get_template("failure.html")
        return template.render(status=status, message=message, **_frame(page, role)).encode()

    def form(self, name: str, values: Mapping[str, Any]) -> bytes:
        """A page for whoever has not signed in."""
        return self._environment.get_template(name).render(values).encode()


def _frame(page: str, role: str) -> dict[str, Any]:
    menu = [each for each in _MENU if role != "owner" or each[0] not in ("cache", "policies")]
    return {"menu": menu, "here": page, "role": role, "every_s": 5}


def _around(ask: Ask, page: Page) -> dict[str, Any]:
    """What every template may use beside its page's own values."""
    found: dict[str, Any] = _frame(ask.page, ask.role) | {
        "ask": ask,
        "page": page,
        "tables": {table.name: table for table in page.tables},
        "href": ask.href,
        "export": lambda table, form: ask.href(f"{_file(ask)}.{form}", table=table, sort=ask.query.get("sort")),
        "every_s": page.every_s,
        "made_ms": ask.now_ms,
        "exports": _file(ask),
    }
    if ask.page in _WITH_PERIOD:
        found |= {"period": ask.period, "rolling": periods.ROLLING}
    return found


def _file(ask: Ask) -> str:
    return f"requests/{ask.query['id']}" if ask.page == "request" else ask.page or "overview"


def table_csv(ask: Ask, page: Page) -> Answer:
    """One table; ``?table=`` names it, where there are several."""
    wanted = ask.query.get("table", page.tables[0].name)
    for table in page.tables:
        if table.name == wanted:
            name = f"farthing-{page.name}-{table.name}-{ask.query.get('period', 'now')}.csv"
            return Answer(status=200, content_type=_CSV, body=table.csv(), filename=name)
    raise Wrong(f"table must be one of {', '.join(table.name for table in page.tables)}", code="no_such_table")


def whole_json(ask: Ask, page: Page) -> Answer:
    """Figures and tables, money in exact dollars; with ``?table=`` that table only. One request: its explanation."""
    body: Any = {"page": page.name, "at_ms": ask.now_ms}
    if ask.page in _WITH_PERIOD:
        period = ask.period
        body |= {"period": period.name, "since_ms": period.since_ms, "until_ms": period.until_ms}
    wanted = ask.query.get("table")
    tables = {table.name: table.json() for table in page.tables if wanted in (None, table.name)}
    if wanted is not None and not tables:
        raise Wrong(f"table must be one of {', '.join(table.name for table in page.tables)}", code="no_such_table")
    body |= {"figures": _figures(page), "tables": tables}
    if page.name == "request" and wanted is None:
        body = page.figures
    return Answer(status=200, content_type="application/json", body=encode(body))


def _figures(page: Page) -> dict[str, Any]:
    """In dollars; what is not known is null."""
    known = {name: value for name, value in page.figures.items() if value is not None}
    unknown = {name.replace("_nano", "_usd"): None for name, value in page.figures.items() if value is None}
    return dict(dollars(known)) | unknown


def failure(renderer: Renderer, question: Question, status: int, message: str, code: str) -> Answer:
    """What could not be shown, in the form that was asked for."""
    if question.form == "html":
        return Answer(
            status=status,
            content_type="text/html; charset=utf-8",
            body=renderer.failure(question.page, question.role, status, message),
        )
    return Answer(status=status, content_type="application/json", body=error_body(message, code))
