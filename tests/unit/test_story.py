"""Why a request went where it went, told for a row and for an imagined prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.billing import bill
from gateway.entry import ledger_entry
from gateway.errors import GatewayError, NotFound
from gateway.story import explain, of_entry
from gateway.types import LedgerEntry
from gateway.view import View
from tests.support.gateway import hosted, local
from tests.support.ledger import entry
from tests.support.visits import BIG, view, visit

POLICY = {
    "name": "default",
    "baseline": "big",
    "default_max_tokens": 100,
    "rules": [
        {"name": "secret", "when": "'secret' in tags", "use": ["small"], "local_only": True},
        {"name": "best", "when": "quality == 10", "use": ["big"]},
        {"name": "rest", "use": ["small", "gone", "big"]},
    ],
}
MODELS = [BIG, local("small", "http://127.0.0.1:9/v1"), hosted("gone", "http://127.0.0.1:9/v1", api_key="${UNSET}")]


@pytest.fixture
def shown(tmp_path: Path) -> View:
    return view(tmp_path, MODELS, [POLICY])


def through_the_ledger(one: LedgerEntry) -> LedgerEntry:
    """As it comes back from SQL or the stream."""
    return msgspec.json.decode(msgspec.json.encode(one), type=LedgerEntry)


def as_json(told: dict[str, Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(told))


def test_an_imagined_prompt_goes_where_a_real_one_would(shown: View) -> None:
    told = explain(shown, "hello", quality=10)
    assert (told["rule"], told["model"], told["local_only"], told["degraded"]) == ("best", "big", False, "")
    assert told["policy"].startswith("default@")
    assert explain(shown, "hello", tags=("secret",))["rule"] == "secret"
    assert explain(shown, "hello", tags=("secret",))["local_only"] is True
    rest = explain(shown, "hello")
    assert rest["rule"] == "rest"
    assert [(one["model"], one["reason"]) for one in rest["unmatched"]] == [
        ("secret", "'secret' in tags is false: tags = []"),
        ("best", "quality == 10 is false: quality = 5"),
    ]
    assert [one["model"] for one in rest["rejected"]] == ["gone"]
    assert {one["model"] for one in rest["alternatives"]} == {"big", "small", "gone"}
    assert "last_user_text" not in rest["features"]
    assert rest["features"]["prompt_tokens"] > 0


def test_alternatives_are_the_worst_case_of_an_imagined_prompt(shown: View) -> None:
    told = {one["model"]: one["cost_usd"] for one in explain(shown, "hello")["alternatives"]}
    prompt = explain(shown, "hello")["features"]["prompt_tokens"]
    assert told["big"] == pytest.approx((prompt * 2.5 + 100 * 10) / 1e6, rel=0.2)


def test_an_unknown_policy_is_said_so(shown: View) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        explain(shown, "hello", policy="nowhere")


def test_what_would_be_refused_is_refused(tmp_path: Path) -> None:
    shown = view(tmp_path, [BIG], [POLICY | {"rules": [{"name": "secret", "use": ["small"], "local_only": True}]}])
    with pytest.raises(GatewayError) as refused:
        explain(shown, "hello")
    assert (refused.value.status, refused.value.code) == (503, "no_local_target")


def test_the_story_of_a_row_and_of_its_prompt_are_the_same(shown: View) -> None:
    one = visit(shown, headers={"x-gateway-quality": "10"}, messages=[{"role": "user", "content": "hello"}])
    score = shown.scorer.score(one.features)
    one.decision = one.policy.decide(one.features, score, unavailable=shown.fleet.unavailable, local_only=False)
    one.model = one.decision.targets[0]
    row = through_the_ledger(ledger_entry(one, bill(one, shown.prices), provider="", served="hosted"))

    told = as_json(of_entry(row, shown))
    imagined = as_json(explain(shown, "hello", quality=10))

    same = ("rule", "model", "policy", "difficulty", "contributions", "targets", "rejected", "unmatched", "local_only")
    assert [each.keys() for each in told["expected"]] == [each.keys() for each in imagined["expected"]]
    assert {name: told[name] for name in same} == {name: imagined[name] for name in same}
    kept = told["features"].keys() - {"key", "max_tokens", "model"}
    assert {name: told["features"][name] for name in kept} == {name: imagined["features"][name] for name in kept}


def test_a_row_is_told_in_dollars_with_what_it_would_have_cost_elsewhere(shown: View) -> None:
    row = entry("r1", model="small", prompt_tokens=1000, completion_tokens=100, cached_tokens=400, reserved_nano=7)
    told: dict[str, Any] = of_entry(row, shown)
    assert (told["id"], told["object"]) == ("r1", "gateway.request")
    assert (told["cost_usd"], told["baseline_usd"], told["saved_usd"]) == (1e-6, 3e-6, 2e-6)
    assert told["reserved_usd"] == 7e-9
    assert not [name for name in told if name.endswith("_nano")]
    big, gone = told["alternatives"]
    assert big == {"model": "big", "cost_usd": 0.0035, "cold_usd": 0.0035, "warm_usd": 0.003, "cached_tokens": 0}
    assert gone["model"] == "gone"
    assert (told["targets"], told["rejected"], told["features"], told["attempts"]) == ([], [], {}, [])
    assert "detail" not in told


def test_a_model_without_a_price_costs_nobody_knows_what(tmp_path: Path) -> None:
    shown = view(tmp_path, [*MODELS, {"name": "mystery", "provider": "openai_compatible", "base_url": "http://x/v1"}])
    told = {one["model"]: one for one in of_entry(entry("r1", model="big"), shown)["alternatives"]}
    assert (told["mystery"]["cost_usd"], told["mystery"]["warm_usd"]) == (None, None)


def test_a_local_model_costs_the_time_it_would_have_computed(shown: View) -> None:
    row = entry("r1", model="big", prompt_tokens=3000, completion_tokens=200)
    [small] = [one for one in of_entry(row, shown)["alternatives"] if one["model"] == "small"]
    assert small["cost_usd"] == pytest.approx((3 + 2) * 0.04 / 3600, rel=0.01)


def test_what_the_conversation_had_cached_is_priced_where_it_was(shown: View) -> None:
    detail = {
        "features": {"prompt_tokens": 9000, "max_tokens": 500, "tags": []},
        "decision": {"rule": "rest", "targets": ["big", "small"], "rejected": [], "unmatched": []},
        "warm": {"big": 8000},
    }
    row = entry("r1", model="small", prompt_tokens=9000, completion_tokens=200, detail=detail)
    told = of_entry(row, shown)
    big = {one["model"]: one for one in told["expected"]}["big"]
    assert big["cached_tokens"] == 8000
    assert big["expected_usd"] == big["warm_usd"] == pytest.approx((1000 * 2.5 + 8000 * 1.25 + 200 * 10) / 1e6)
    assert big["cold_usd"] == pytest.approx((9000 * 2.5 + 200 * 10) / 1e6)
    small = {one["model"]: one for one in told["expected"]}["small"]
    assert small["expected_usd"] == small["cold_usd"] > small["warm_usd"], "what it would cost if it were there"
    after = {one["model"]: one for one in told["alternatives"]}["big"]
    assert after["cost_usd"] == after["warm_usd"] < after["cold_usd"]
