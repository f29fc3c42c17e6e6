"""``/admin/budgets``, ``organisations``, ``teams``, ``export`` and ``import``: who may use what, and how much of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.auth import GroupStore, KeyStore, organisation_field, team_field
from gateway.budget.definitions import Budget
from gateway.budget.levels import of_key
from gateway.budget.store import BudgetStore, states
from gateway.errors import Forbidden, InvalidRequest
from gateway.http.admin import keeping, read_json, sees_all
from gateway.http.peer import require_role

if TYPE_CHECKING:
    from gateway.runtime import Runtime

_IMPORT_MAX = 64 * 1024 * 1024


class Definitions:
    """Every endpoint asks first who is asking."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._keys = KeyStore(runtime.redis, runtime.keys)
        self._groups = GroupStore(runtime.redis, runtime.keys)
        self._budgets = BudgetStore(runtime.redis, runtime.keys)

    def routes(self) -> list[Route]:
        return [
            Route("/admin/budgets", self.budgets, methods=["GET", "POST"]),
            Route("/admin/budgets/{budget_id}", self.budget, methods=["PATCH", "DELETE"]),
            Route("/admin/organisations", self.organisations),
            Route("/admin/organisations/{organisation}", self.organisation, methods=["PUT", "DELETE"]),
            Route("/admin/teams", self.teams),
            Route("/admin/teams/{organisation}/{team}", self.team, methods=["PUT", "DELETE"]),
            Route("/admin/export", self.export),
            Route("/admin/import", self.restore, methods=["POST"]),
        ]

    async def budgets(self, request: Request) -> Response:
        """GET: definitions, and what each holds in its present window. POST: a new one."""
        who = await require_role(self._runtime, request.scope, owner=True)
        if request.method == "POST":
            made = await keeping(self._budgets.create(**await read_json(request)))
            return JSONResponse(made, status_code=201)
        every = await keeping(self._every_budget())
        own = ("key", who.key_id)
        seen = every if sees_all(who) else [one for one in every if (one.scope, one.subject) == own]
        held = await keeping(states(self._runtime.redis, self._runtime.keys, seen, int(time.time() * 1000)))
        return JSONResponse({"object": "list", "data": [one.public() for one in seen], "state": held})

    async def _every_budget(self) -> list[Budget]:
        """Those written on keys too."""
        written = [
            of_key(key["id"], key["name"], key["organisation"], key["budget_nano"])
            for key in await self._keys.export()
            if key["budget_nano"] is not None and key["revoked_ms"] is None
        ]
        return [*await self._budgets.list(), *{one.id: one for one in written}.values()]

    async def budget(self, request: Request) -> Response:
        """PATCH: another limit, other alerts. DELETE: no limit any more."""
        await require_role(self._runtime, request.scope)
        budget_id = request.path_params["budget_id"]
        if request.method == "DELETE":
            return JSONResponse(await keeping(self._budgets.delete(budget_id)))
        return JSONResponse(await keeping(self._budgets.update(budget_id, **await read_json(request))))

    async def organisations(self, request: Request) -> Response:
        await require_role(self._runtime, request.scope)
        return JSONResponse({"object": "list", "data": await keeping(self._groups.list("organisation"))})

    async def teams(self, request: Request) -> Response:
        await require_role(self._runtime, request.scope)
        return JSONResponse({"object": "list", "data": await keeping(self._groups.list("team"))})

    async def organisation(self, request: Request) -> Response:
        """PUT ``{models?, policies?, allowed_tags?}``: what all its keys may ask for. DELETE: no such lists."""
        await require_role(self._runtime, request.scope)
        return await self._group(request, organisation_field(request.path_params["organisation"]))

    async def team(self, request: Request) -> Response:
        """The same for a team."""
        await require_role(self._runtime, request.scope)
        named = request.path_params
        return await self._group(request, team_field(named["organisation"], named["team"]))

    async def _group(self, request: Request, field: str) -> Response:
        if request.method == "DELETE":
            await keeping(self._groups.delete(field))
            return Response(status_code=204)
        given = await read_json(request)
        return JSONResponse(await keeping(self._groups.put(**(given | request.path_params))))

    async def export(self, request: Request) -> Response:
        """Every definition as JSON, keys as hashes: what ``/admin/import`` takes."""
        who = await require_role(self._runtime, request.scope)
        if who.role == "viewer":
            raise Forbidden("this takes an admin's key")
        return JSONResponse(await keeping(exported(self._keys, self._groups, self._budgets)))

    async def restore(self, request: Request) -> Response:
        """Take over what ``/admin/export`` gave; what is there already is replaced, nothing is taken away."""
        await require_role(self._runtime, request.scope)
        given = await read_json(request, _IMPORT_MAX)
        return JSONResponse(await keeping(restored(given, self._keys, self._groups, self._budgets)))


async def exported(keys: KeyStore, groups: GroupStore, budgets: BudgetStore) -> dict[str, Any]:
    """All definitions. Hashes only: no key can be read out of it."""
    return {
        "version": 1,
        "organisations": await groups.list("organisation"),
        "teams": await groups.list("team"),
        "keys": await keys.export(),
        "budgets": [msgspec.to_builtins(one) for one in await budgets.list()],
    }


async def restored(given: dict[str, Any], keys: KeyStore, groups: GroupStore, budgets: BudgetStore) -> dict[str, int]:
    """Write all definitions of an export; returns how many of each.

    Raises:
        InvalidRequest: something in it is no definition. What stands before it may have been written.
    """
    if given.get("version") != 1:
        raise InvalidRequest("not an export of this gateway: 'version' must be 1", param="version")
    try:
        read = msgspec.convert(given.get("budgets", []), list[Budget])
        named = msgspec.convert([*given.get("organisations", []), *given.get("teams", [])], list[dict[str, Any]])
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidRequest(f"not an export of this gateway: {error}") from None
    for budget in read:
        budget.check()
    for group in named:
        await groups.put(**{name: value for name, value in group.items() if value or name != "team"})
    count = await keys.restore(given.get("keys", []))
    for budget in read:
        await budgets.put(budget)
    return {"groups": len(named), "keys": count, "budgets": len(read)}
