"""``/admin/budgets``, ``organisations``, ``teams``, ``export`` and ``import``: who may use what, and how much of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
from gateway.redis_io import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.runtime import Runtime

_IMPORT_MAX = 64 * 1024 * 1024


class Stores(NamedTuple):
    """Everything that is defined while serving, and not in a file."""

    redis: Redis
    names: Keys
    keys: KeyStore
    groups: GroupStore
    budgets: BudgetStore

    @classmethod
    def on(cls, redis: Redis, names: Keys | None = None) -> Stores:
        named = names or Keys()
        return cls(redis, named, KeyStore(redis, named), GroupStore(redis, named), BudgetStore(redis, named))

    async def every_budget(self) -> list[Budget]:
        """Those written on keys too."""
        written = {
            key["id"]: of_key(key["id"], key["name"], key["organisation"], key["budget_nano"])
            for key in await self.keys.export()
            if key["budget_nano"] is not None and key["revoked_ms"] is None
        }
        return [*await self.budgets.list(), *written.values()]

    async def states(self, budgets: Sequence[Budget] | None = None) -> list[dict[str, Any]]:
        """What budgets (None: all of them) hold now: see :func:`gateway.budget.store.states`."""
        asked = await self.every_budget() if budgets is None else budgets
        return await states(self.redis, self.names, asked, int(time.time() * 1000))

    async def exported(self) -> dict[str, Any]:
        """All definitions. Hashes only: no key can be read out of it."""
        return {
            "version": 1,
            "organisations": await self.groups.list("organisation"),
            "teams": await self.groups.list("team"),
            "keys": await self.keys.export(),
            "budgets": [msgspec.to_builtins(one) for one in await self.budgets.list()],
        }

    async def restored(self, given: dict[str, Any]) -> dict[str, int]:
        """Write all definitions of an export; returns how many of each.

        Raises:
            InvalidRequest: something in it is no definition. What stands before it may have been written.
        """
        if given.get("version") != 1:
            raise InvalidRequest("not an export of this gateway: 'version' must be 1", param="version")
        try:
            budgets = msgspec.convert(given.get("budgets", []), list[Budget])
            groups = msgspec.convert([*given.get("organisations", []), *given.get("teams", [])], list[dict[str, Any]])
        except (msgspec.ValidationError, TypeError) as error:
            raise InvalidRequest(f"not an export of this gateway: {error}") from None
        for budget in budgets:
            budget.check()
        for group in groups:
            await self.groups.put(**{name: value for name, value in group.items() if value or name != "team"})
        count = await self.keys.restore(given.get("keys", []))
        for budget in budgets:
            await self.budgets.put(budget)
        return {"groups": len(groups), "keys": count, "budgets": len(budgets)}


class Definitions:
    """Every endpoint asks first who is asking."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._stores = Stores.on(runtime.redis, runtime.keys)

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
            made = await keeping(self._stores.budgets.create(**await read_json(request)))
            return JSONResponse(made, status_code=201)
        every = await keeping(self._stores.every_budget())
        own = ("key", who.key_id)
        seen = every if sees_all(who) else [one for one in every if (one.scope, one.subject) == own]
        held = await keeping(self._stores.states(seen))
        return JSONResponse({"object": "list", "data": [one.public() for one in seen], "state": held})

    async def budget(self, request: Request) -> Response:
        """PATCH: another limit, other alerts. DELETE: no limit any more."""
        await require_role(self._runtime, request.scope)
        budget_id = request.path_params["budget_id"]
        if request.method == "DELETE":
            return JSONResponse(await keeping(self._stores.budgets.delete(budget_id)))
        return JSONResponse(await keeping(self._stores.budgets.update(budget_id, **await read_json(request))))

    async def organisations(self, request: Request) -> Response:
        await require_role(self._runtime, request.scope)
        return JSONResponse({"object": "list", "data": await keeping(self._stores.groups.list("organisation"))})

    async def teams(self, request: Request) -> Response:
        await require_role(self._runtime, request.scope)
        return JSONResponse({"object": "list", "data": await keeping(self._stores.groups.list("team"))})

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
            await keeping(self._stores.groups.delete(field))
            return Response(status_code=204)
        given = await read_json(request)
        return JSONResponse(await keeping(self._stores.groups.put(**(given | request.path_params))))

    async def export(self, request: Request) -> Response:
        """Every definition as JSON, keys as hashes: what ``/admin/import`` takes."""
        who = await require_role(self._runtime, request.scope)
        if who.role == "viewer":
            raise Forbidden("this takes an admin's key")
        return JSONResponse(await keeping(self._stores.exported()))

    async def restore(self, request: Request) -> Response:
        """Take over what ``/admin/export`` gave; what is there already is replaced, nothing is taken away."""
        await require_role(self._runtime, request.scope)
        given = await read_json(request, _IMPORT_MAX)
        return JSONResponse(await keeping(self._stores.restored(given)))
