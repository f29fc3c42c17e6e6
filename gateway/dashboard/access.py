"""Who may look at what: an admin at everything, a viewer too but changing nothing, a key owner at its own requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from starlette.requests import Request

from gateway.auth import PREFIX, bearer, hash_key, is_admin
from gateway.dashboard import session
from gateway.errors import GatewayError, RedisAway
from gateway.http.peer import headers_of, may_look

if TYPE_CHECKING:
    from gateway.runtime import Runtime
    from gateway.types import Principal

Role = Literal["admin", "viewer", "owner", "guest"]


@dataclass(frozen=True)
class Visitor:
    """``guest`` is the anonymous caller on this machine, who may see everything and has not signed in.

    ``by_cookie``: what a browser sends by itself, so that a change asks where it came from.
    """

    role: Role
    key_id: str = ""
    by_cookie: bool = False


class Access:
    """Decides by the cookie, then by a bearer token, then by the anonymous rule."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def admin_key(self) -> str | None:
        return self._runtime.view.settings.config.auth.admin_key

    async def visitor(self, request: Request) -> Visitor | None:
        """None for whoever has to sign in."""
        found = session.read(request.cookies.get(session.COOKIE, ""), self.admin_key)
        if found is not None and found.role != "owner":
            return Visitor(found.role, by_cookie=True)
        if found is not None and (holder := await self._holder(found.subject)) is not None:
            return of_principal(holder, by_cookie=True)
        token = bearer(headers_of(request.scope))
        if is_admin(self._runtime.view.settings.config.auth, token):
            return Visitor("admin")
        if token.startswith(PREFIX):
            holder = await self._holder(hash_key(token))
            return None if holder is None else of_principal(holder)
        return Visitor("guest") if may_look(self._runtime, request.scope) else None

    async def sign_in(self, presented: str) -> str | None:
        """The cookie for whoever presents the admin key or an API key that works; None for a wrong one."""
        key = self.admin_key
        if not key:
            return None
        if session.same(presented, key):
            return session.issue(key, "admin")
        if presented.startswith(PREFIX) and await self._holder(digest := hash_key(presented)) is not None:
            return session.issue(key, "owner", digest)
        return None

    async def _holder(self, digest: str) -> Principal | None:
        """Who holds the key with this hash, None if it does not work (any more) or nobody can be asked."""
        try:
            return await self._runtime.ring.holder(digest)
        except (GatewayError, RedisAway):
            return None


def of_principal(holder: Principal, *, by_cookie: bool = False) -> Visitor:
    """A key may carry a role; one that does not shows what it has done itself."""
    if holder.admin:
        return Visitor("admin")
    if holder.role == "user":
        return Visitor("owner", holder.key_id, by_cookie)
    return Visitor(holder.role, by_cookie=by_cookie)


def own_form(request: Request) -> bool:
    """Whether a POST comes from one of our own pages, or from no browser at all.

    ``SameSite=Strict`` keeps the cookie out of other sites' requests; this is for what is same-site and yet foreign.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site not in (None, "same-origin", "none"):
        return False
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
