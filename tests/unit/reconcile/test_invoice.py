"""Every export is told by its header and read for what it says; what cannot be read is refused with its line."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from gateway.reconcile.invoice import FORMATS, InvoiceError, Line, read_invoice
from gateway.reconcile.names import plain

OPENAI_USAGE = """start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,\
model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens
1767225600,1767312000,2026-01-01T00:00:00+00:00,2026-01-02T00:00:00+00:00,,,,,,,,,,,
1767312000,1767398400,2026-01-02T00:00:00+00:00,2026-01-03T00:00:00+00:00,p,3.0,,k,gpt-4o-mini-2024-07-18,,,7162,50,1280,5882
"""
OPENAI_COSTS = """start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,quantity_unit,\
line_item,project_id,organization_id
1767312000,1767398400,2026-01-02T00:00:00,2026-01-03T00:00:00,,,,,,,
1767312000,1767398400,2026-01-02T00:00:00,2026-01-03T00:00:00,0.0038359800000000,usd,1000,tokens,"gpt-5-nano, input",p,o
1767312000,1767398400,2026-01-02T00:00:00,2026-01-03T00:00:00,0.5,usd,200,tokens,"gpt-5-nano, cached input",p,o
1767312000,1767398400,2026-01-02T00:00:00,2026-01-03T00:00:00,0.25,usd,30,tokens,"gpt-5-nano, output",p,o
"""
ANTHROPIC_USAGE = """usage_date_utc,model_version,api_key,workspace,usage_type,context_window,\
usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,\
web_search_count,inference_geo,speed
2026-01-02,claude-haiku-4-5-20251001,key,Default,standard,≤ 200k,100,20,3,4000,55,0,global,
"""
ANTHROPIC_COSTS = """usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,\
list_price_usd,cost_type,inference_geo,speed
2026-01-02,Claude Haiku 4.5,Default,key,message,≤ 200k,input_no_cache,1.5,1.50,token,global,
2026-01-02,Claude Haiku 4.5,Default,key,message,≤ 200k,output,18.71,18.71,token,global,
"""
GENERIC = """\ufeffDate,Model,Requests,Input_Tokens,Cached_Input_Tokens,Output_Tokens,Cost_USD
2026-01-02,m,2,"1,000",10,20,$0.5
"""


def said(line: Line) -> tuple[object, ...]:
    return (line.day, line.model, line.requests, line.input_tokens, line.cached_tokens, line.output_tokens, line.cost)


DAY = date(2026, 1, 2)


@pytest.mark.parametrize(
    ("text", "name", "vendor", "lines"),
    [
        (OPENAI_USAGE, "openai-usage", "openai", [(DAY, "gpt-4o-mini-2024-07-18", 3, 7162, 1280, 50, None)]),
        (
            OPENAI_COSTS,
            "openai-costs",
            "openai",
            [
                (DAY, "gpt-5-nano", None, 1000, None, None, Decimal("0.00383598")),
                (DAY, "gpt-5-nano", None, 200, 200, None, Decimal("0.5")),
                (DAY, "gpt-5-nano", None, None, None, 30, Decimal("0.25")),
            ],
        ),
        # Anthropic does not count what was cached as input; here a prompt's tokens are all of them.
        (
            ANTHROPIC_USAGE,
            "anthropic-usage",
            "anthropic",
            [(DAY, "claude-haiku-4-5-20251001", None, 4123, 4000, 55, None)],
        ),
        (
            ANTHROPIC_COSTS,
            "anthropic-costs",
            "anthropic",
            [
                (DAY, "Claude Haiku 4.5", None, None, None, None, Decimal("1.5")),
                (DAY, "Claude Haiku 4.5", None, None, None, None, Decimal("18.71")),
            ],
        ),
        (GENERIC, "generic", "", [(DAY, "m", 2, 1000, 10, 20, Decimal("0.5"))]),
    ],
)
def test_an_export_is_known_by_its_header(text: str, name: str, vendor: str, lines: list[object]) -> None:
    invoice = read_invoice(text)
    assert (invoice.format, invoice.vendor) == (name, vendor)
    assert [said(line) for line in invoice.lines] == lines
    assert name in {one.name for one in FORMATS}


def test_a_day_on_which_nothing_was_used_is_covered_all_the_same() -> None:
    assert read_invoice(OPENAI_USAGE).days == (date(2026, 1, 1), DAY)


@pytest.mark.parametrize(("text", "step"), [(ANTHROPIC_COSTS, "0.01"), (GENERIC, "0.01"), (OPENAI_COSTS, "1E-9")])
def test_what_costs_are_rounded_to_shows_in_the_file(text: str, step: str) -> None:
    assert read_invoice(text).step == Decimal(step)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "none"),
        ("a,b\n1,2\n", "a, b"),
        ("date,model,cost_usd\nyesterday,m,1\n", "line 2: 'yesterday' is not a date"),
        ("date,model,input_tokens\n2026-01-01,m,1.5\n", "line 2: input_tokens: 1.5 is not a number"),
        ("date,model,input_tokens\n2026-01-01,m,-1\n", "line 2"),
        ("date,model,cost_usd\n2026-01-01,m,free\n", "line 2"),
        ("date,model,cost_usd\n2026-01-01,m,NaN\n", "line 2"),
        (OPENAI_COSTS.replace(",usd,", ",eur,"), "only US dollars"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvoiceError, match=reason):
        read_invoice(text)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("anthropic/claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("Claude Haiku 4.5", "claude-haiku-4-5"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("gpt-4-0613", "gpt-4-0613"),
    ],
)
def test_a_model_has_one_name_however_it_is_spelt(written: str, name: str) -> None:
    assert plain(written) == name
