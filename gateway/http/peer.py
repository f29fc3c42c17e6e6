"""From an ASGI scope to a principal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Scope

from gateway.auth import Peer, anonymous_allowed, authenticate, bearer, is_admin
from gateway.errors import Unauthenticated

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


def require_admin(runtime: Runtime, scope: Scope) -> None:
    """Raises Unauthenticated unless the admin key is presented; without one configured nobody is an admin over HTTP."""
    if not is_admin(runtime.view.settings.config.auth, bearer(headers_of(scope))):
        raise Unauthenticated("the admin key is needed: Authorization: Bearer <GATEWAY_ADMIN_KEY>")


def may_look(runtime: Runtime, scope: Scope) -> bool:
    """Whether dashboard and metrics are open to this caller: the anonymous rule, or the admin key."""
    headers = headers_of(scope)
    config = runtime.view.settings.config.auth
    return is_admin(config, bearer(headers)) or anonymous_allowed(config, peer_of(runtime, scope, headers))
