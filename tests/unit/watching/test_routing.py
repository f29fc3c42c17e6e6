"""Hours of routing counted from rows, and the last day compared with the week before it."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from gateway.config import MonitoringConfig
from gateway.types import HOUR_MS, LedgerEntry
from gateway.watching.drift import Report, report, shift
from gateway.watching.findings import unfit_routing
from gateway.watching.hours import VALUES_MAX, Hour, added, counted
from tests.support.ledger import NOON, entry

BOUNDS = MonitoringConfig(requests=50, labels=20)


def row(number: int, *, features: dict[str, Any] | None = None, **changes: Any) -> LedgerEntry:
    """A request that a policy kept local, as it is read back from the books."""
    told: dict[str, Any] = {"language": "en", "question": "fact", "privacy": "none", "needs": [], "code": False}
    told |= {"maths": False, "prompt_tokens": 20, "turns": 1} | (features or {})
    detail: dict[str, Any] = {"features": told, "decision": {"quality": []}}
    detail["attempts"] = [{"model": "local-small"}]
    detail |= changes.pop("detail", {})
    difficulty = changes.pop("difficulty", 0.2)
    return entry(f"r{number}-{difficulty}", difficulty=difficulty, detail=detail, **changes)


def gave_up(number: int, **changes: Any) -> LedgerEntry:
    tries = [{"model": "local-small", "error": "escalated"}, {"model": "big"}]
    return row(number, model="big", served="hosted", detail={"attempts": tries}, **changes)


def day(rows: list[LedgerEntry], *, ago: int = 0) -> Hour:
    return counted(NOON - ago * 24 * HOUR_MS, rows)


def told(*hours: Hour) -> Report:
    return report(hours, NOON, BOUNDS)


def test_only_what_a_policy_decided_for_users_is_counted() -> None:
    rows = [
        row(1),
        row(2, key_id="probe", rule="pinned"),
        row(3, key_id="shadow"),
        row(4, rule="pinned"),
        entry("hit", cache="exact", served="cache", detail={"decision": None, "features": {}}),
        row(5, rule="hard", model="big", served="hosted", difficulty=1.0, features={"prompt_tokens": 900}),
    ]
    found = day(rows)
    assert found.requests == 2
    assert found.mixes["rule"] == {"easy": 1, "hard": 1}
    assert found.mixes["difficulty"] == {"0.2": 1, "0.9": 1}
    assert found.mixes["prompt_tokens"] == {"up to 32": 1, "up to 1024": 1}


def test_nothing_of_what_was_asked_is_kept() -> None:
    secret = row(1, features={"last_user_text": "my secret"}, end_user="ann", tags=("hush",))
    kept = msgspec.json.encode(day([secret]))
    assert not any(word in kept for word in (b"secret", b"ann", b"hush"))


def test_a_mix_has_a_bounded_number_of_values() -> None:
    found = day([row(number, features={"language": f"l{number}"}) for number in range(3 * VALUES_MAX)])
    assert len(found.mixes["language"]) == VALUES_MAX + 1
    assert sum(found.mixes["language"].values()) == 3 * VALUES_MAX


def test_hours_add_up() -> None:
    one, other = day([row(1, feedback=1.0)]), day([row(2, feedback=-1.0), gave_up(3)], ago=1)
    both = added([one, other])
    assert (both.requests, both.weighed, both.escalated) == (3, 1, 1)
    assert (both.local.rated, both.local.mean) == (2, 0.5)
    assert both.mixes["model"] == {"local-small": 2, "big": 1}
    assert sum(each.answers for each in both.calibration) == 3


def test_a_shift_of_language_is_told_with_what_changed_most() -> None:
    before = [row(number) for number in range(200)]
    now = [row(number, features={"language": "de" if number % 2 else "en"}) for number in range(100)]
    found = {each.what: each for each in told(day(now), day(before, ago=2)).shifts}
    language = found["language"]
    assert language.psi is not None
    assert language.psi > BOUNDS.psi
    assert language.before == (1.0 if language.most == "en" else 0.0)
    assert language.now == 0.5
    assert found["question"].psi == pytest.approx(0, abs=0.01)
    titles = [finding.title for finding in unfit_routing(told(day(now), day(before, ago=2)), BOUNDS, NOON)]
    assert titles == ["Requests have shifted: language"]


def test_chance_is_no_shift() -> None:
    draw = random.Random(3)
    for _ in range(30):
        values = [f"v{number}" for number in range(12)]
        now = {name: sum(draw.random() < 0.08 for _ in range(500)) for name in values}
        before = {name: sum(draw.random() < 0.08 for _ in range(3500)) for name in values}
        psi = shift("x", now, before, 50).psi
        assert psi is not None
        assert psi < 0.1


def test_rare_values_count_as_one() -> None:
    common = {"a": 1000}
    assert (
        shift("x", common | {f"n{k}": 1 for k in range(9)}, common | {f"m{k}": 1 for k in range(9)}, 50).psi or 0
    ) < 0.01


def test_too_few_requests_tell_no_index() -> None:
    few = told(day([row(1)]), day([row(2, features={"language": "de"})], ago=2))
    assert all(each.psi is None for each in few.shifts)
    assert unfit_routing(few, BOUNDS, NOON) == []


def test_predictions_that_do_not_come_true_are_told() -> None:
    wrong = [row(number, difficulty=0.1, feedback=-1.0 if number % 2 else 1.0) for number in range(40)]
    right = [row(number, difficulty=0.1, feedback=1.0 if number % 10 else -1.0) for number in range(40)]
    assert told(day(wrong)).calibration_error == pytest.approx(0.4)
    assert told(day(right)).calibration_error == pytest.approx(0.0)
    assert [each.key for each in unfit_routing(told(day(wrong)), BOUNDS, NOON)] == ["routing:calibration"]
    assert unfit_routing(told(day(right)), BOUNDS, NOON) == []


def test_predicted_quality_of_the_model_comes_before_its_difficulty() -> None:
    rows = [
        row(n, difficulty=0.9, feedback=1.0, detail={"decision": {"quality": [["local-small", 0.95]]}})
        for n in range(30)
    ]
    assert told(day(rows)).calibration_error == pytest.approx(0.05)


def test_what_hosted_models_answered_says_nothing_of_the_local_ones_calibration() -> None:
    rows = [
        row(n, model="big", served="hosted", feedback=-1.0, detail={"attempts": [{"model": "big"}]}) for n in range(40)
    ]
    assert told(day(rows)).calibration_error is None


def test_tries_that_are_given_up_too_often_are_told() -> None:
    held = [row(number, detail={"confidence": 0.8}) for number in range(10)]
    found = told(day([*held, *(gave_up(100 + number) for number in range(30))]))
    assert found.escalation_rate == 0.75
    assert "75% of local tries are given up" in [each.title for each in unfit_routing(found, BOUNDS, NOON)]


def test_regret_is_of_the_same_requests_where_shadows_were_rated() -> None:
    local: list[LedgerEntry] = []
    for number in range(30):
        local.append(msgspec.structs.replace(row(number, feedback=0.0), request_id=f"q{number}"))
        shadow = entry(f"q{number}-shadow-big", key_id="shadow", model="big", served="hosted", feedback=1.0)
        local.append(msgspec.structs.replace(shadow, detail={"shadow_of": f"q{number}"}))
    hosted = [row(100 + number, model="big", served="hosted", feedback=0.0) for number in range(30)]
    assert told(day([*local, *hosted])).regret == pytest.approx(0.5)
    without = told(day([*(one for one in local if one.key_id != "shadow"), *hosted]))
    assert without.regret == pytest.approx(0.0)


def test_an_old_report_is_no_news() -> None:
    wrong = told(day([row(number, difficulty=0.1, feedback=-1.0) for number in range(40)]))
    assert unfit_routing(wrong, BOUNDS, NOON)
    assert unfit_routing(wrong, BOUNDS, NOON + 25 * HOUR_MS) == []


def test_the_last_day_and_the_week_before_do_not_overlap() -> None:
    hours = [counted(NOON - ago * HOUR_MS, [row(ago)]) for ago in range(400)]
    found = told(*hours)
    assert (found.requests, found.requests_before) == (24, 168)
