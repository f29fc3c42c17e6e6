"""Asks a target the golden prompts: calls that are reserved, settled and in the books like anybody's.

They stand under the key ``probe``, are charged to no budget but their own for each UTC day (and to the model's, where
it has one), and claim to have saved nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from gateway.backends.fleet import Fleet
from gateway.books import Reservation
from gateway.budget.limits import Admission
from gateway.budget.purse import Purse
from gateway.errors import GatewayError, RedisAway, UpstreamRefused
from gateway.features import extract
from gateway.policy.loader import compile_documents
from gateway.policy.model import PINNED
from gateway.policy.probe import Question
from gateway.pricing import PriceBook
from gateway.types import DAY_MS, NANO, ChatRequest, Decision, Principal
from gateway.unattended import answer, enter
from gateway.visit import Visit
from gateway.watching import golden
from gateway.watching.golden import ANSWER_TOKENS, PROBE_KEY, Observation
from gateway.yamlfile import Document

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.config import ModelConfig, Settings
    from gateway.types import Chunk

PATIENCE_S = 60.0
_FAILURES_MAX = 2
_ALIVE_MS = int(2 * PATIENCE_S * 1000)
_WHO = Principal(key_id=PROBE_KEY, name=PROBE_KEY, tags=(PROBE_KEY,))


class Skipped(Exception):
    """A round that was not asked, and why."""


class Prober:
    """Of one configuration. ``close`` it."""

    def __init__(self, settings: Settings, books: Books) -> None:
        self._settings, self._books = settings, books
        self._prices = PriceBook.load(settings.config.models)
        self._fleet = Fleet.build(settings)
        self._purse = Purse(books.link, f"{books.keys.prefix}{PROBE_KEY}")
        self._plain: set[str] = set()
        rule = {"name": "golden", "use": settings.config.probes.targets}
        text = msgspec.json.encode({"name": PROBE_KEY, "rules": [rule]}).decode()
        self._policy = compile_documents([Document(text, "probe")], settings.config.models, self._prices)[PROBE_KEY]

    async def close(self) -> None:
        await self._fleet.close()

    async def round(self, name: str) -> dict[int, Observation]:
        """The answers by the number of the prompt; those that failed are left out.

        Raises:
            Skipped: nothing was asked.
            RedisAway: the budget cannot be checked.
        """
        model = self._settings.model(name)
        lacking = "no such model is configured" if model is None else self._fleet.unavailable(name)
        if model is None or lacking:
            raise Skipped(str(lacking))
        if self._prices.price(name) is None:
            raise Skipped("its price is not known")
        now = int(time.time() * 1000)
        worst = sum(self._worst(self._visit(question, model)) for question in golden.prompts())
        await self._take(worst, now)
        spent, answers = 0, {}
        try:
            await self._books.replay_spool()
            await self._books.load_budgets()
            failed = 0
            for number, question in enumerate(golden.prompts()):
                cost, observed = await self._ask(question, model)
                spent += cost
                if observed is not None:
                    answers[number] = observed
                failed += observed is None
                if failed >= _FAILURES_MAX and len(answers) < failed:
                    break
        finally:
            with contextlib.suppress(RedisAway):  # the day's purse is then a little smaller than it should be
                await self._purse.give_back(worst - spent, now)
        if not answers:
            raise Skipped("none of its answers came")
        return answers

    async def _take(self, worst: int, now_ms: int) -> None:
        """Spread over the day: by noon half of it may be spent, and one round."""
        limit = round(self._settings.config.probes.usd_per_day * NANO)
        if worst > limit:
            message = f"a round may cost ${worst / NANO:.4f}, above probes.usd_per_day"
            raise Skipped(message)
        so_far = limit * (now_ms % DAY_MS) // DAY_MS
        if not await self._purse.take(worst, min(limit, so_far + worst), now_ms):
            raise Skipped("probes.usd_per_day is spent for now")

    def _worst(self, visit: Visit) -> int:
        """Nano-dollars."""
        context, model = self._prices.context(visit.model), self._settings.model(visit.model)
        assert model is not None
        prompt = visit.bound.tokens(model.upstream_name, context)
        return self._prices.worst_case_nano(visit.model, prompt, ANSWER_TOKENS, at_ms=visit.ts_ms)

    async def _ask(self, question: Question, model: ModelConfig) -> tuple[int, Observation | None]:
        """What it cost, and the answer; None where there is none. A target that takes no temperature gets none."""
        cost, observed, refused = await self._call(question, model)
        if refused and model.name not in self._plain:
            self._plain.add(model.name)
            more, observed, _ = await self._call(question, model)
            cost += more
        return cost, observed

    async def _call(self, question: Question, model: ModelConfig) -> tuple[int, Observation | None, bool]:
        visit = self._visit(question, model)
        visit.reserved_nano = worst = self._worst(visit)
        # The sweeper takes what a process leaves behind that no longer says that it lives.
        await self._books.link.call("SET", self._books.keys.alive(self._books.worker), "1", "PX", str(_ALIVE_MS))
        price = self._prices.price(model.name)
        if not await self._books.reserve(visit, Reservation(worst, (model.name, price), ((model.name, worst),))):
            raise Skipped("the model's budget is exhausted")
        observed, refused = None, False
        began = time.perf_counter()
        try:
            chunk = await answer(self._fleet, visit, PATIENCE_S)
            observed = _observed(question, chunk, visit, (time.perf_counter() - began) * 1000)
        except GatewayError as error:
            refused = isinstance(error, UpstreamRefused)
        finally:
            cost = await enter(self._books, self._prices, visit, model)
        return cost, observed, refused

    def _visit(self, question: Question, model: ModelConfig) -> Visit:
        fields = {"messages": [{"role": "user", "content": question.prompt}]}
        body: dict[str, object] = {"model": model.name, **fields}
        if model.name not in self._plain:
            body["temperature"] = 0
        request = ChatRequest(
            id=f"{PROBE_KEY}-{secrets.token_hex(12)}",
            model=model.name,
            messages=fields["messages"],
            fields={key: msgspec.Raw(msgspec.json.encode(value)) for key, value in body.items()},
            max_tokens=ANSWER_TOKENS,
        )
        features = extract(request, _WHO, default_max_tokens=ANSWER_TOKENS)
        visit = Visit(request, _WHO, self._policy, features)
        visit.decision, visit.model = Decision(rule=PINNED, targets=(model.name,)), model.name
        visit.admission = Admission()
        return visit


def _observed(question: Question, chunk: Chunk, visit: Visit, latency_ms: float) -> Observation:
    tokens = chunk.usage.completion_tokens if chunk.usage else visit.final_usage().completion_tokens
    return golden.observed(question, chunk.text, chunk.data, tokens, latency_ms)
