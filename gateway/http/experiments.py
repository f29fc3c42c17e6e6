"""``/admin/experiments``: what is running and what became of it; and going on with what was stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.errors import NotFound
from gateway.http.admin import keeping
from gateway.http.peer import require_role

if TYPE_CHECKING:
    from gateway.policy.experiments import Declared, State
    from gateway.runtime import Runtime


class Experiments:
    """Every endpoint asks first who is asking."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def routes(self) -> list[Route]:
        return [
            Route("/admin/experiments", self.list),
            Route("/admin/experiments/{name}/resume", self.resume, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """Each with its arms, what was stopped, and the last report: the background process makes one every minute."""
        from gateway.experiments import state

        await require_role(self._runtime, request.scope)
        redis, keys = self._runtime.redis, self._runtime.keys
        known = await keeping(state.states(redis, keys))
        reports = await keeping(state.kept_reports(redis, keys))
        found = self._runtime.view.policies.experiments.values()
        data = [shown(one, one.state(known)) | {"report": _last(one, known, reports)} for one in found]
        return JSONResponse({"object": "list", "data": data})

    async def resume(self, request: Request) -> Response:
        """Let the arms that were stopped go on, on every worker, measured anew."""
        from gateway.experiments import state

        await require_role(self._runtime, request.scope)
        name = request.path_params["name"]
        found = next((one for one in self._runtime.view.policies.experiments.values() if one.name == name), None)
        if found is None:
            raise NotFound(f"no experiment is called '{name}'", code="unknown_experiment", param="name")
        after = await keeping(state.resume(self._runtime.redis, self._runtime.keys, found))
        return JSONResponse(shown(found, after))


def shown(of: Declared, state: State) -> dict[str, Any]:
    """An experiment as it is told: what it splits, and what each arm gets now."""
    shares = of.shares_now(state)
    arms = [
        {"name": name, "policy": label, "share": round(shares[name], 9), "declared": round(of.shares[name], 9)}
        | {"stopped": msgspec.to_builtins(state.stopped.get(name))}
        for name, label in of.labels
    ]
    stop = {metric: limit for metric, limit in msgspec.to_builtins(of.stop).items() if limit is not None}
    return {"name": of.name, "control": of.control, "by": of.by, "run": of.run(state), "stop": stop, "arms": arms}


def _last(of: Declared, states: dict[str, State], reports: dict[str, Any]) -> Any:
    """The report of this run, if there is one already."""
    report = reports.get(of.name)
    return msgspec.to_builtins(report) if report is not None and report.run == of.run(of.state(states)) else None
