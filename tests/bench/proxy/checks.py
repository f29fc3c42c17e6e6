"""Is what was measured also right?"""

import http.client
import json
import urllib.parse
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.bench.proxy.load import Contender, Sample
from tests.bench.proxy.ours import Gateway

_ASKED = 100
_CALLERS = 8
_HITS = ("exact", "coalesced")


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold, whatever the speed."""

    what: str
    holds: bool
    seen: str


def answers_rightly(contender: Contender) -> Check:
    """Ask a hundred questions, eight at a time; the upstream echoes, so each answer must fit its question."""
    with ThreadPoolExecutor(_CALLERS) as callers:
        wrong = [said for said in callers.map(lambda _: _wrong(contender), range(_ASKED)) if said]
    contender.after(Sample(_ASKED, 0.0, 0.0, 0.0, 0, _ASKED))
    seen = wrong[0] if wrong else f"{_ASKED} of {_ASKED}"
    return Check(f"{contender.name}: status 200 and the right body", not wrong, seen)


def books_balance(gateway: Gateway) -> Check:
    """A row for each request answered; one too for those that wrk left open at the end of a run."""
    rows = sum(gateway.rows().values())
    seen = f"{rows} rows, {gateway.answered} answered, {gateway.sent} sent"
    return Check("gateway: as many ledger rows as requests", gateway.answered <= rows <= gateway.sent, seen)


def hits_are_hits(gateway: Gateway) -> Check:
    """Only what was repeated was answered from the cache, and nearly always: not while the first was on its way."""
    rows = gateway.rows()
    hits = sum(rows.get(cache, 0) for cache in _HITS)
    enough, most = gateway.repeated_answered * 0.98, gateway.repeated_sent
    holds = enough <= hits <= most and not rows.get("semantic")
    repeated = f"{gateway.repeated_answered} to {gateway.repeated_sent} repeated"
    return Check("gateway: repeated prompts are hits, unique ones are not", holds, f"{rows}, {repeated}")


def _wrong(contender: Contender) -> str:
    question = "the same" if contender.same_prompt else f"What is {uuid.uuid4().hex}?"
    status, body, headers = _ask(contender, question)
    if status != 200:
        return f"{status}: {body!r}"
    said = body["choices"][0]["message"]["content"]
    if said != f"You said: {question}" or body["usage"]["completion_tokens"] != len(said.split()):
        return f"asked {question!r}, got {body!r}"
    cache = headers.get("x-gateway-cache", "miss")
    return "" if cache == "miss" or (contender.same_prompt and cache in _HITS) else f"a hit: {headers}"


def _ask(contender: Contender, question: str) -> tuple[int, Any, Mapping[str, str]]:
    parts = urllib.parse.urlsplit(contender.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    ask = {"model": contender.model, "messages": [{"role": "user", "content": question}]}
    headers = {"content-type": "application/json", **contender.headers}
    try:
        connection.request("POST", f"{parts.path}/chat/completions", json.dumps(ask), headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()), {name.lower(): value for name, value in reply.getheaders()}
    finally:
        connection.close()
