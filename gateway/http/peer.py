"""From an ASGI scope to a principal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Scope

from gateway.auth import PREFIX, Peer, anonymous_allowed, authenticate, bearer, is_admin
from gateway.errors import Forbidden, Unauthenticated

if TYPE_CHECKING:
    from gateway.runtime import Runtime
    from gateway.types import Principal


def headers_of(scope: Scope) -> dict[str, str]:
    """Request headers by lower-case name; of one sent twice the last counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def peer_of(runtime: Runtime, scope: Scope, headers: dict[str, str]) -> Peer:
    client = scope.get("client")
    bind = runtime.view.settings.config.server.host
    return Peer(host=client[0] if client else "", bind=bind, method=scope["method"], headers=headers)


async def principal_of(runtime: Runtime, scope: Scope) -> tuple[Principal, dict[str, str]]:
    """Who is asking, and the request's headers. Raises Unauthenticated."""
    headers = headers_of(scope)
    peer = peer_of(runtime, scope, headers)
    return await authenticate(runtime.view.settings.config.auth, runtime.ring, peer), headers


async def require_role(runtime: Runtime, scope: Scope, *, owner: bool = False) -> Principal:
    """Who may do this under ``/admin``: an admin everything, a viewer what only reads.

    ``owner``: the holder of any key may read too, to be shown no more than its own.

    Raises:
        Unauthenticated: neither the admin key nor a live key.
        Forbidden: a key that may not.
    """
    config, token = runtime.view.settings.config.auth, bearer(headers_of(scope))
    if not is_admin(config, token) and not token.startswith(PREFIX):
        raise Unauthenticated("the admin key is needed: Authorization: Bearer <GATEWAY_ADMIN_KEY>")
    principal, _ = await principal_of(runtime, scope)
    reads = scope["method"] in {"GET", "HEAD"}
    if principal.admin or principal.role == "admin":
        return principal
    if reads and (principal.role == "viewer" or owner):
        return principal
    raise Forbidden("this key may not change anything" if principal.role == "viewer" else "this takes an admin's key")


def may_look(runtime: Runtime, scope: Scope) -> bool:
    """Whether dashboard and metrics are open to this caller: the anonymous rule, or the admin key."""
    headers = headers_of(scope)
    config = runtime.view.settings.config.auth
    return is_admin(config, bearer(headers)) or anonymous_allowed(config, peer_of(runtime, scope, headers))
