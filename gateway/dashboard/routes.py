"""``/dashboard``: addresses and forms, and ``/admin/spend``, which is a page for programs.

Pages are made by a process of their own (:mod:`gateway.dashboard.reader`).
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlencode

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.dashboard import session, words
from gateway.dashboard.access import Access, Visitor, of_principal, own_form
from gateway.dashboard.facts import Facts
from gateway.dashboard.reader import Form, Question, Reader, error_body
from gateway.errors import ConfigError
from gateway.http.peer import require_role
from gateway.ledger.errors import LedgerAway
from gateway.ledger.where import ledger_url

if TYPE_CHECKING:
    from gateway.dashboard.render import Renderer
    from gateway.reload import Reloader
    from gateway.runtime import Runtime

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_NAMED = ("explore", "requests", "live", "cache", "budgets", "models", "policies")
_PAGES = {"overview": "", "data": ""} | {name: name for name in _NAMED}
_FORM_MAX = 4096
_VALUE_MAX = 500
_WRONG_KEY_S = 0.3
_GUESSES = 4
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


class Dashboard:
    """The routes of one worker; ``close`` ends the process that makes its pages."""

    def __init__(self, runtime: Runtime, reloader: Reloader) -> None:
        self._runtime, self._reloader = runtime, reloader
        self._access, self._facts, self._reader = Access(runtime), Facts(runtime, reloader), Reader()
        self._renderer: Renderer | None = None
        self._files = {path.name: path.read_bytes() for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}
        self._guesses = asyncio.Semaphore(_GUESSES)

    def routes(self) -> list[Route]:
        return [
            Route("/admin/spend", self.spend, methods=["GET"]),
            Route("/dashboard", self.page, methods=["GET"]),
            Route("/dashboard/static/{name}", self.static, methods=["GET"]),
            Route("/dashboard/sign-in", self.sign_in, methods=["GET", "POST"]),
            Route("/dashboard/sign-out", self.sign_out, methods=["POST"]),
            Route("/dashboard/range", self.range, methods=["GET"]),
            Route("/dashboard/links", self.make_link, methods=["POST"]),
            Route("/dashboard/view", self.use_link, methods=["POST"]),
            Route("/dashboard/view/{token}", self.show_link, methods=["GET"]),
            Route("/dashboard/alerts/test", self.test_alert, methods=["POST"]),
            Route("/dashboard/policies/reload", self.reload, methods=["POST"]),
            Route("/dashboard/requests/{id:path}", self.page, methods=["GET"]),
            Route("/dashboard/{page}", self.page, methods=["GET"]),
        ]

    async def close(self) -> None:
        await self._reader.close()

    async def page(self, request: Request) -> Response:
        """A page, or its data where the address ends in .json or .csv."""
        name, form, query = _asked(request)
        visitor = await self._access.visitor(request)
        if visitor is None:
            if form == "html":
                return self._sign_in_form(status=401)
            return _error(401, "sign in at /dashboard, or send the admin key as a bearer token", "not_signed_in")
        if name is None or (name in ("cache", "policies") and visitor.role == "owner"):
            return self._failure(404, f"there is no page {request.url.path}", "not_found", form, visitor)
        return await self._answered(name, form, query, visitor)

    async def spend(self, request: Request) -> Response:
        """``/admin/spend``: what Explore shows, for programs, by the rules of ``/admin``."""
        visitor = of_principal(await require_role(self._runtime, request.scope, owner=True))
        return await self._answered("explore", "json", _asked(request)[2], visitor)

    async def _answered(self, name: str, form: Form, query: dict[str, str], visitor: Visitor) -> Response:
        question = Question(
            page=name,
            form=form,
            ledger=ledger_url(self._runtime.view.settings),
            role=visitor.role,
            key_id=visitor.key_id,
            query=query,
        )
        try:
            answer = await self._reader.ask(question, lambda: self._facts.gather(name, visitor, query))
        except LedgerAway as error:
            return self._failure(
                503, f"the dashboard cannot be shown at the moment: {error}", "ledger_away", form, visitor
            )
        headers = HEADERS | {"content-type": answer.content_type}
        if answer.filename:
            headers["content-disposition"] = f'attachment; filename="{answer.filename}"'
        return Response(answer.body, status_code=answer.status, headers=headers)

    async def range(self, request: Request) -> Response:
        """From two date fields to a period in the address."""
        query = dict(request.query_params)
        page, first, last = query.pop("page", ""), query.pop("from", ""), query.pop("to", "")
        path = f"/dashboard/{page}" if page in ("explore", "requests") else "/dashboard"
        span = first if first == last else f"{min(first, last)}..{max(first, last)}"
        return RedirectResponse(f"{path}?{urlencode({'period': span} | query)}", status_code=303, headers=HEADERS)

    async def sign_in(self, request: Request) -> Response:
        if request.method == "GET":
            return self._sign_in_form()
        if not own_form(request):
            return _error(403, "this form was sent from another site", "foreign_form")
        if self._guesses.locked():
            return self._sign_in_form(status=429, wrong="Too many are signing in at this moment. Try again.")
        async with self._guesses:
            cookie = await self._access.sign_in((await _form(request)).get("key", ""))
            if cookie is None:
                await asyncio.sleep(_WRONG_KEY_S)  # guessing is slow
                return self._sign_in_form(status=401, wrong="That is neither the admin key nor an API key that works.")
        return self._welcome(request, cookie)

    async def sign_out(self, request: Request) -> Response:
        answer = RedirectResponse("/dashboard", status_code=303, headers=HEADERS)
        answer.delete_cookie(session.COOKIE, path="/dashboard", httponly=True, samesite="strict")
        return answer

    async def make_link(self, request: Request) -> Response:
        """A read-only link, for an admin."""
        if (refusal := await self._only_admin(request)) is not None:
            return refusal
        days, key = (await _form(request)).get("days", ""), self._access.admin_key
        if days not in map(str, session.LINK_DAYS) or not key:
            return _error(400, f"days must be one of {', '.join(map(str, session.LINK_DAYS))}", "invalid_days")
        token = session.link(key, int(days))
        address = f"{request.url.scheme}://{request.headers.get('host', '')}/dashboard/view/{token}"
        return self._html("link.html", made=address, end=_until(token, key))

    async def show_link(self, request: Request) -> Response:
        """Asks before it signs in: a cookie set while coming from another site would not be sent on from there."""
        token, key = request.path_params["token"], self._access.admin_key
        end = _until(token, key)
        return self._html("link.html", status=200 if end else 401, made="", end=end, token=token)

    async def use_link(self, request: Request) -> Response:
        key = self._access.admin_key
        end = session.link_end((await _form(request)).get("token", ""), key)
        if end is None or not key or not own_form(request):
            return self._html("link.html", status=401, made="", end="")
        return self._welcome(request, session.issue(key, "viewer", end=end))

    async def test_alert(self, request: Request) -> Response:
        """Send one to every channel, and say what became of it."""
        if (refusal := await self._only_admin(request)) is not None:
            return refusal
        from gateway.alerts import watch

        results = await watch.send_test(self._runtime.view.settings.config.alerts)
        return self._html("tested.html", results=results)

    async def reload(self, request: Request) -> Response:
        """Read the policies again, on every worker; what is wrong with them is then on the page."""
        if (refusal := await self._only_admin(request)) is not None:
            return refusal
        try:
            await self._reloader.everywhere()
        except ConfigError:
            pass  # kept by the reloader and shown on the page
        except (RedisError, OSError):
            return _error(503, "Redis is away: only the worker that was asked has reloaded", "redis_away")
        return RedirectResponse("/dashboard/policies", status_code=303, headers=HEADERS)

    async def static(self, request: Request) -> Response:
        content = self._files.get(name := request.path_params["name"])
        if content is None:
            return _error(404, f"no such file: {name}", "not_found")
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = HEADERS | {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers | {"content-type": _TYPES[Path(name).suffix]})

    async def _only_admin(self, request: Request) -> Response | None:
        visitor = await self._access.visitor(request)
        if visitor is None or visitor.role != "admin":
            return _error(403, "only an admin may do this: sign in with the admin key", "admin_only")
        if visitor.by_cookie and not own_form(request):
            return _error(403, "this form was sent from another site", "foreign_form")
        return None

    def _welcome(self, request: Request, cookie: str) -> Response:
        answer = RedirectResponse("/dashboard", status_code=303, headers=HEADERS)
        answer.set_cookie(
            session.COOKIE,
            cookie,
            max_age=session.LIFETIME_S,
            path="/dashboard",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    def _sign_in_form(self, *, status: int = 200, wrong: str = "") -> Response:
        return self._html("sign_in.html", status=status, wrong=wrong, possible=bool(self._access.admin_key))

    def _html(self, name: str, *, status: int = 200, **values: object) -> Response:
        return Response(self._render().form(name, values), status_code=status, headers=HEADERS, media_type="text/html")

    def _render(self) -> Renderer:
        """Templates are read when somebody has to sign in, not when a worker starts."""
        if self._renderer is None:
            from gateway.dashboard.render import Renderer

            self._renderer = Renderer()
        return self._renderer

    def _failure(self, status: int, message: str, code: str, form: Form, visitor: Visitor) -> Response:
        if form != "html":
            return _error(status, message, code)
        body = self._render().failure("", visitor.role, status, message)
        return Response(body, status_code=status, headers=HEADERS, media_type="text/html")


def _asked(request: Request) -> tuple[str | None, Form, dict[str, str]]:
    """Which page in which form, None for one there is not; with the query, whose values are cut to a sane length."""
    query = {name[:_VALUE_MAX]: value[:_VALUE_MAX] for name, value in list(request.query_params.items())[:20]}
    if "id" in request.path_params:
        request_id, form = _split(request.path_params["id"])
        if form == "html" and "text/html" not in request.headers.get("accept", ""):
            form = "json"
        return "request", form, query | {"id": request_id}
    name, form = _split(request.path_params.get("page", "overview"))
    return _PAGES.get(name), form, query


def _split(name: str) -> tuple[str, Form]:
    stem, dot, form = name.rpartition(".")
    return (stem, cast(Form, form)) if dot and form in ("json", "csv") else (name, "html")


def _until(token: str, key: str | None) -> str:
    end = session.link_end(token, key)
    return "" if end is None else words.utc(end * 1000)[:16]


async def _form(request: Request) -> dict[str, str]:
    """A small urlencoded form; {} where it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_MAX:
            return {}
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _error(status: int, message: str, code: str) -> Response:
    headers = HEADERS | ({"retry-after": "1"} if status == 503 else {})
    return Response(error_body(message, code), status_code=status, headers=headers, media_type="application/json")
