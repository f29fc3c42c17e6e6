"""The hard wall: whatever differs but the last question and what concerns delivery only, no answer gets across."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.keys import CacheContext, cache_context
from gateway.http.parse import chat_request
from gateway.types import Principal, Scope

TRIES = 10_000
QUESTION = "How do I reset my password?"
# What separates, each with its values; the first is the usual one.
SCOPES: tuple[Scope, ...] = ("key", "team", "shared")
WALLS: dict[str, tuple[Any, ...]] = {
    "organisation": ("acme", "other", "acme "),
    "key": ("k1", "k2", "k11", ""),
    "team": ("red", "blue", ""),
    "scope": SCOPES,
    "model": ("auto", "auto:cheap", "gpt-4o", "auto:", "Auto"),
    "quality": (None, 0, 5, 10),
    "local_only": (False, True),
    "embedder": ("minilm/mean/384", "minilm/cls/384"),
    "beta": (None, "x", "y"),
    "system": (None, "Be brief.", "Be brief!", "be brief.", ["Be brief."]),
    "history": ((), ("Hi", "Hello"), ("Hi", "Hello."), ("Hi",), ("HiHello",), ("Hello", "Hi")),
    "temperature": (None, 0, 0.5, 1),
    "seed": (None, 1, 2),
    "n": (None, 2),
    "max_tokens": (None, 5, 50),
    "response_format": (None, {"type": "json_object"}, {"type": "text"}),
    "tools": (None, [], [{"type": "function", "function": {"name": "f"}}]),
    "unheard_of": (None, 0, "0", False, [], {}, {"a": [1, {"b": None}]}),
    "name": (None, "ann"),
}
DELIVERY: dict[str, tuple[Any, ...]] = {
    "stream": (None, True, False),
    "stream_options": (None, {"include_usage": True}),
    "user": (None, "ann", "bob"),
    "metadata": (None, {"a": "b"}),
    "store": (None, True),
}


def context(walls: dict[str, Any], delivery: dict[str, Any], question: Any = QUESTION) -> CacheContext:
    """The cache's view of a request with these values, which None leaves out."""
    messages: list[dict[str, Any]] = [] if walls["system"] is None else [{"role": "system", "content": walls["system"]}]
    if isinstance(walls["system"], list):
        messages = [{"role": "developer", "content": walls["system"][0]}]
    messages += [{"role": ("user", "assistant")[at % 2], "content": said} for at, said in enumerate(walls["history"])]
    messages.append({"role": "user", "content": question} | ({"name": walls["name"]} if walls["name"] else {}))
    named = ("temperature", "seed", "n", "max_tokens", "response_format", "tools", "unheard_of")
    body = {"model": walls["model"], "messages": messages} | {name: walls[name] for name in named} | delivery
    body = {name: value for name, value in body.items() if value is not None}
    headers = {"x-gateway-quality": str(walls["quality"])} if walls["quality"] is not None else {}
    headers |= {"openai-beta": walls["beta"]} if walls["beta"] else {}
    who = Principal(key_id=walls["key"], team=walls["team"], organisation=walls["organisation"])
    return cache_context(
        chat_request(msgspec.json.encode(body), headers, "r"),
        who,
        scope=walls["scope"],
        local_only=walls["local_only"],
        embedder=walls["embedder"],
    )


def scope(walls: dict[str, Any]) -> Any:
    """What must stay local is shared with nobody."""
    return "key" if walls["local_only"] and walls["scope"] == "shared" else walls["scope"]


def tenant(walls: dict[str, Any]) -> Any:
    """Whom an answer is shared with: what of key and team the scope looks at."""
    return {"key": walls["key"], "team": walls["team"] or walls["key"], "shared": ""}[scope(walls)]


def identity(walls: dict[str, Any], *, exact: bool = False) -> bytes:
    """What must be the same for an answer to be shared; the embedder matters to similar questions only."""
    left = {
        name: value for name, value in walls.items() if name not in ("key", "team", *(("embedder",) if exact else ()))
    }
    return msgspec.json.encode([left | {"scope": scope(walls)}, tenant(walls)])


def drawn(chance: random.Random, options: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Mostly the usual, so that two often differ in little."""
    return {name: values[0] if chance.random() < 0.6 else chance.choice(values) for name, values in options.items()}


def test_ten_thousand_requests_meet_only_where_they_are_the_same() -> None:
    chance = random.Random(5)
    held: dict[str, tuple[str, bytes]] = {}
    for _ in range(TRIES):
        walls = drawn(chance, WALLS)
        made = context(walls, drawn(chance, DELIVERY))
        digests = {"partition": made.partition, "exact": made.exact, "normal": made.normal}
        for kind, digest in digests.items():
            if digest is not None:
                mine = (kind, identity(walls, exact=kind != "partition"))
                assert held.setdefault(digest, mine) == mine, (kind, walls)
    assert len({mine for mine in held.values() if mine[0] == "partition"}) > TRIES / 2


@st.composite
def one_apart(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Two requests that differ in a single wall, and which."""
    walls = {name: draw(st.sampled_from(values)) for name, values in WALLS.items()}
    name = draw(st.sampled_from(sorted(WALLS)))
    value = draw(st.sampled_from([each for each in WALLS[name] if repr(each) != repr(walls[name])]))
    return walls, walls | {name: value}, name


@settings(max_examples=100, deadline=None)
@given(one_apart(), st.sampled_from(sorted(DELIVERY)))
def test_a_single_difference_is_wall_enough(pair: tuple[dict[str, Any], dict[str, Any], str], delivered: str) -> None:
    one, other, name = pair
    delivery = dict.fromkeys(DELIVERY)
    left = context(one, delivery)
    right = context(other, delivery | {delivered: DELIVERY[delivered][1]})
    if identity(one) == identity(other):
        assert name in ("key", "team") or (name == "scope" and one["local_only"])
        assert left == right
        return
    assert left.partition != right.partition
    assert name == "embedder" or not {left.exact, left.normal} & {right.exact, right.normal} - {None}


@settings(max_examples=50, deadline=None)
@given(one_apart(), st.text(max_size=40), st.text(max_size=40))
def test_another_question_never_moves_the_walls(
    pair: tuple[dict[str, Any], dict[str, Any], str], one: str, other: str
) -> None:
    walls, apart, _ = pair
    delivery = dict.fromkeys(DELIVERY)
    assert context(walls, delivery, one).partition == context(walls, delivery, other).partition
    if identity(walls) != identity(apart):
        assert context(walls, delivery, one).partition != context(apart, delivery, other).partition
