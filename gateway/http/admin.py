"""``/admin/*``: keys, policies and alerts. An admin may do everything, a viewer read it, an owner read its own key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.auth import KeyStore
from gateway.budget.accounts import set_limit
from gateway.budget.definitions import nano
from gateway.errors import ConfigError, InvalidRequest, Overloaded
from gateway.http.body import read_body
from gateway.http.peer import headers_of, require_role

if TYPE_CHECKING:
    from gateway.reload import Reloader
    from gateway.runtime import Runtime
    from gateway.types import Principal

T = TypeVar("T")

_BODY_MAX = 64 * 1024
_POLICY_MAX = 1024 * 1024


class Admin:
    """Every endpoint asks first who is asking."""

    def __init__(self, runtime: Runtime, reloader: Reloader) -> None:
        self._runtime, self._reloader = runtime, reloader
        self._keys = KeyStore(runtime.redis, runtime.keys)

    async def keys(self, request: Request) -> Response:
        """GET: every key's definition. POST ``{name, team?, tags?, rpm?, tpm?, budget_usd?, …}``: a new one."""
        who = await require_role(self._runtime, request.scope, owner=True)
        if request.method == "GET":
            listed = await keeping(self._keys.list())
            seen = listed if sees_all(who) else [key for key in listed if key["id"] == who.key_id]
            return JSONResponse({"object": "list", "data": seen})
        body = await read_json(request)
        name = body.pop("name", None)
        if not isinstance(name, str):
            raise InvalidRequest("'name' is required", param="name")
        return JSONResponse(await keeping(self._keys.create(name, **body)), status_code=201)

    async def key(self, request: Request) -> Response:
        """DELETE: revoke. PATCH: change what it may do; fields as where it is made."""
        await require_role(self._runtime, request.scope)
        key_id = request.path_params["key_id"]
        if request.method == "DELETE":
            return JSONResponse(await keeping(self._keys.revoke(key_id)))
        changed = await keeping(self._keys.update(key_id, **await read_json(request)))
        if changed["budget_usd"] is not None:
            limit = nano(changed["budget_usd"], "budget_usd")
            await keeping(set_limit(self._runtime.redis, self._runtime.keys, key_id, limit))
        return JSONResponse(changed)

    async def rotate(self, request: Request) -> Response:
        """A new key for the same id; ``{"overlap_s": 3600}`` lets the old one live on for a while."""
        await require_role(self._runtime, request.scope)
        body = await read_json(request)
        overlap = body.get("overlap_s", 0)
        if not isinstance(overlap, int | float) or isinstance(overlap, bool) or not 0 <= overlap <= 31_536_000:
            raise InvalidRequest("'overlap_s' must be seconds, at most a year", param="overlap_s")
        return JSONResponse(await keeping(self._keys.rotate(request.path_params["key_id"], float(overlap))))

    async def policies(self, request: Request) -> Response:
        """The policies in force and the error of the last reload, if it was refused."""
        await require_role(self._runtime, request.scope)
        return JSONResponse(self._shown())

    async def reload(self, request: Request) -> Response:
        """Read gateway.yaml and the policies again, on every worker. 400 with file and line if they are wrong."""
        await require_role(self._runtime, request.scope)
        return await self._changed(self._reloader.everywhere())

    async def history(self, request: Request) -> Response:
        """The versions of the policies that were in force, the newest first, each with its files."""
        await require_role(self._runtime, request.scope)
        versions = await asyncio.to_thread(self._reloader.history.versions)
        return JSONResponse({"object": "list", "data": msgspec.to_builtins(versions)})

    async def roll_back(self, request: Request) -> Response:
        """``{"version": ID}``: put the files of an earlier version back, on every worker."""
        await require_role(self._runtime, request.scope)
        version = (await read_json(request)).get("version")
        if not isinstance(version, str):
            raise InvalidRequest("'version' is required: an id of /admin/policies/history", param="version")
        return await self._changed(self._reloader.roll_back(version))

    async def validate(self, request: Request) -> Response:
        """``{"policy": YAML}``: what a reload would say of it. Nothing changes."""
        await require_role(self._runtime, request.scope)
        text = (await read_json(request, _POLICY_MAX)).get("policy")
        if not isinstance(text, str):
            raise InvalidRequest("'policy' is required: the text of a policy file", param="policy")
        try:
            policy = await asyncio.to_thread(self._reloader.try_out, text)
        except ConfigError as error:
            return _wrong(error)
        return JSONResponse({"policy": policy.label, "warnings": list(policy.warnings)})

    async def _changed(self, work: Awaitable[None]) -> Response:
        try:
            await keeping(work)
        except ConfigError as error:
            return _wrong(error)
        return JSONResponse(self._shown())

    async def alerts(self, request: Request) -> Response:
        """GET ``/admin/alerts``: what is being told. POST ``/admin/alerts/test``: send a test message now."""
        from gateway.alerts import watch  # brings aiohttp with it, a sixth of a worker's start

        await require_role(self._runtime, request.scope)
        if request.method == "POST":
            return JSONResponse(await watch.send_test(self._runtime.view.settings.config.alerts))
        told = await keeping(watch.active(self._runtime.redis, self._runtime.keys))
        data = [{"key": key, **msgspec.to_builtins(one)} for key, one in told.items()]
        return JSONResponse({"object": "list", "data": data})

    def _shown(self) -> dict[str, Any]:
        view, error = self._runtime.view, self._reloader.error
        rows = [
            {
                "name": policy.name,
                "label": policy.label,
                "file": policy.document.file,
                "warnings": list(policy.warnings),
            }
            for policy in view.policies.policies.values()
        ]
        return {
            "policies": rows,
            "default": view.policies.default,
            "loaded_ms": view.loaded_ms,
            "last_error": None if error is None else str(error),
        }


def _wrong(error: ConfigError) -> Response:
    body = {"message": str(error), "type": "invalid_request_error", "param": error.path, "code": "invalid_config"}
    return JSONResponse({"error": body | {"file": error.file, "line": error.line}}, status_code=400)


def sees_all(principal: Principal) -> bool:
    """Whether more than its own may be shown to it."""
    return principal.admin or principal.role != "user"


async def keeping(work: Awaitable[T]) -> T:
    """What definitions' stores do. Raises Overloaded while Redis is away."""
    try:
        return await work
    except (RedisError, OSError):
        raise Overloaded("Redis is away; try again", code="key_store_unavailable", retry_after=1.0) from None


async def read_json(request: Request, limit: int = _BODY_MAX) -> dict[str, Any]:
    """The body, a JSON object; {} where there is none. Raises InvalidRequest, TooLarge."""
    raw = await read_body(request.receive, headers_of(request.scope), limit)
    try:
        return msgspec.json.decode(raw, type=dict[str, Any]) if raw.strip() else {}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not a JSON object: {error}") from None
