"""The same ways through a real gateway: the small model in its engine, a scripted large one, the real embedder."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.policy.competence import Competence
from gateway.policy.probe import ANSWER_TOKENS, Question, right
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.scorer import RuleScorer
from tests.bench.routing.curve import DEAR, Way
from tests.bench.routing.record import Row, Setting, large_is_right, prompt_tokens, shipped
from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.models import CHAT, chat_model, embed_model, served
from tests.support.upstream import Plan, Upstream

PRICE = {"input": DEAR.input * 1e6, "output": DEAR.output * 1e6}


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one prompt: who answered it, whether rightly, and what it cost. ``busy_s``: of the small model."""

    local: bool
    right: bool
    usd: float
    busy_s: float


class Live:
    """A gateway that has a policy for each way."""

    def __init__(self, gate: Gateway, large: Upstream, competence: Competence) -> None:
        self._gate, self._large, self._competence = gate, large, competence

    async def ask(self, way: Way, rows: Sequence[Row], questions: Sequence[Question]) -> list[Served]:
        """Each prompt in turn, by the rule of ``way``."""
        scorer = RuleScorer() if way.name == "rules" else ProfiledScorer(self._competence)
        runtime, competences = self._gate.runtime, {"local-small": self._competence}
        runtime.view = msgspec.structs.replace(runtime.view, scorer=scorer, competences=competences)
        return [await self._one(way, row, question) for row, question in zip(rows, questions, strict=True)]

    async def _one(self, way: Way, row: Row, question: Question) -> Served:
        text = question.answers[0] if large_is_right(row.prompt) else "I do not know."
        prompt, completion = prompt_tokens(row), row.signals.tokens
        self._large.default = Plan(text=text, prompt_tokens=prompt, completion_tokens=completion)
        reply = await self._gate.chat(row.prompt, model=f"auto:{way.policy}", max_tokens=ANSWER_TOKENS, temperature=0)
        assert reply.status_code == 200, reply.text
        told = reply.json()
        here = reply.headers["x-gateway-model"] == "local-small"
        return Served(
            local=here,
            right=right(question, told["choices"][0]["message"]["content"]),
            usd=told["usage"]["cost_usd"],
            busy_s=told.get("timings", {}).get("busy_seconds", 0.0),
        )


@contextlib.asynccontextmanager
async def live(ways: Sequence[tuple[Way, Setting]]) -> AsyncIterator[Live]:
    """``ways``: each with its bounds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served("chat", "--model", str(chat_model()), "--name", CHAT) as small,
        served("embed", "--model", str(embed_model()), "--name", embed_model().name) as embedder,
        Upstream.in_thread() as large,
    ):
        models = [local("local-small", f"{small}/v1"), hosted("large", large.base_url, price=PRICE)]
        policies = [_policy(way, setting) for way, setting in ways]
        async with gateway(Path(folder), models, policies, embedder={"url": f"{embedder}/v1"}) as gate:
            yield Live(gate, large, shipped())


def _policy(way: Way, setting: Setting) -> dict[str, Any]:
    mixed = {"name": "small", "use": ["local-small", "large"], **way.rule(setting)}
    rules = [mixed, {"name": "large", "use": ["large"]}] if "when" in mixed else [mixed]
    return {"name": way.policy, "cache": {"exact": False, "semantic": False}, "rules": rules}
