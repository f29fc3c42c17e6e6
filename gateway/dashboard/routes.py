"""``/dashboard``: one page, its numbers, and the sign-in. Nothing here imports SQLAlchemy; the store is handed in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gateway.dashboard import session
from gateway.dashboard.data import PERIODS, Feed
from gateway.ledger.errors import LedgerAway
from gateway.protocols import LedgerStore

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FORM_MAX = 4096
_WRONG_KEY_S = 0.3
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def routes(
    read_store: Callable[[], Awaitable[LedgerStore]],
    allowed: Callable[[Request], Awaitable[bool]],
    admin_key: Callable[[], str | None],
) -> list[Route]:
    """The dashboard's routes.

    Args:
        read_store: gives a store to read from; called when numbers are asked for, never before.
        allowed: whether the request may read as it came (the anonymous rule, or the admin key as its bearer).
        admin_key: the configured admin key, which the sign-in asks for and its cookie is signed with; None: no sign-in.
    """
    pages = _Pages(Feed(read_store), allowed, admin_key)
    return [
        Route("/dashboard", pages.page, methods=["GET"]),
        Route("/dashboard/data.json", pages.data, methods=["GET"]),
        Route("/dashboard/sign-in", pages.sign_in, methods=["POST"]),
        Route("/dashboard/sign-out", pages.sign_out, methods=["POST"]),
        Route("/dashboard/static/{name}", pages.static, methods=["GET"]),
    ]


class _Pages:
    def __init__(
        self, feed: Feed, allowed: Callable[[Request], Awaitable[bool]], admin_key: Callable[[], str | None]
    ) -> None:
        self._feed, self._allowed, self._admin_key = feed, allowed, admin_key
        self._templates = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True)
        self._files = {path.name: path.read_bytes() for path in sorted((_HERE / "static").iterdir())}

    async def page(self, request: Request) -> Response:
        if await self._may_read(request):
            return self._html("dashboard.html", signed_in=self._signed_in(request))
        return self._sign_in_form(status=401)

    async def data(self, request: Request) -> Response:
        if not await self._may_read(request):
            return _error(401, "sign in at /dashboard, or send the admin key as a bearer token", "not_signed_in")
        name = request.query_params.get("period", PERIODS[0])
        if name not in PERIODS:
            return _error(400, f"period must be one of {', '.join(PERIODS)}", "invalid_period")
        try:
            body = await self._feed.json(name)
        except LedgerAway as error:
            return _error(503, f"the ledger cannot be read at the moment: {error}", "ledger_away")
        return Response(body, media_type="application/json", headers=_HEADERS)

    async def sign_in(self, request: Request) -> Response:
        presented = await _form_field(request, "key")
        key = self._admin_key()
        if not key or not session.same(presented, key):
            await asyncio.sleep(_WRONG_KEY_S)  # guessing is slow
            return self._sign_in_form(status=401, wrong=True)
        answer = RedirectResponse("/dashboard", status_code=303, headers=_HEADERS)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            session.COOKIE,
            session.issue(key),
            max_age=session.LIFETIME_S,
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        answer = RedirectResponse("/dashboard", status_code=303, headers=_HEADERS)
        answer.delete_cookie(session.COOKIE, httponly=True, samesite="strict")
        return answer

    async def static(self, request: Request) -> Response:
        content = self._files.get(name := request.path_params["name"])
        if content is None:
            return _error(404, f"no such file: {name}", "not_found")
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = _HEADERS | {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers | {"content-type": _TYPES[Path(name).suffix]})

    async def _may_read(self, request: Request) -> bool:
        return self._signed_in(request) or await self._allowed(request)

    def _signed_in(self, request: Request) -> bool:
        return session.valid(request.cookies.get(session.COOKIE, ""), self._admin_key())

    def _sign_in_form(self, *, status: int, wrong: bool = False) -> Response:
        return self._html("sign_in.html", status=status, wrong=wrong, possible=bool(self._admin_key()))

    def _html(self, name: str, *, status: int = 200, **values: object) -> Response:
        return HTMLResponse(self._templates.get_template(name).render(**values), status_code=status, headers=_HEADERS)


async def _form_field(request: Request, name: str) -> str:
    """One field of a small urlencoded form, '' where it is missing or the form is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_MAX:
            return ""
    return parse_qs(body.decode("utf-8", "replace")).get(name, [""])[0]


def _error(status: int, message: str, code: str) -> Response:
    body = {"error": {"message": message, "type": "dashboard_error", "param": None, "code": code}}
    return JSONResponse(body, status_code=status, headers=_HEADERS)
