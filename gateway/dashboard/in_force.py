"""What is in force: budgets, policies and models, as the worker that was asked knows them."""

from __future__ import annotations

from typing import Any

from gateway.dashboard import experiments, watching
from gateway.dashboard.page import Ask, Page
from gateway.dashboard.tables import Column, Table


async def budgets(ask: Ask) -> Page:
    rows = ask.facts["budgets"]
    columns = (
        Column("name", "Budget"),
        Column("scope", "Of", minor=True),
        Column("window", "Window"),
        Column("kind", "Kind", minor=True),
        Column("limit_nano", "Limit", "money"),
        Column("spent_nano", "Spent", "money"),
        Column("reserved_nano", "Reserved", "money", minor=True),
        Column("left_nano", "Left", "money"),
        Column("used", "Used", "share"),
        Column("until_ms", "Resets", "time", minor=True),
    )
    table = Table("budgets", "Budgets", columns, rows, key="id", empty="No budget has been set.")
    alerts = (Column("title", "Alert"), Column("text", "What"), Column("since_ms", "Since", "time"))
    told = Table("alerts", "Alerts", alerts, ask.facts["alerts"], empty="No alert is open.")
    values = {"budgets": rows, "away": ask.facts["away"], "admin": ask.role == "admin"}
    return Page("budgets", "Budgets", values, (table, told))


async def policies(ask: Ask) -> Page:
    facts = ask.facts["policies"]
    columns = (
        Column("label", "Policy", "code"),
        Column("baseline", "Baseline"),
        Column("rules", "Rules", "count"),
        Column("cache", "Cache", minor=True),
        Column("file", "File", "code", minor=True),
    )

    def note(row: Any) -> str:
        return "; ".join(row["warnings"])

    table = Table("policies", "Policies in force", columns, facts["policies"], note=note)
    arms = ask.facts["experiments"]
    tables = (table, experiments.table(arms)) if arms else (table,)
    values = facts | {"admin": ask.role == "admin", "verdicts": experiments.verdicts(arms)}
    return Page("policies", "Policies", values, tables)


async def models(ask: Ask) -> Page:
    columns = (
        Column("name", "Model"),
        Column("runs", "Runs", "badge"),
        Column("state", "State", "status"),
        Column("input", "Input", "price"),
        Column("output", "Output", "price"),
        Column("cached_input", "Cached input", "price", minor=True),
        Column("usd_per_hour", "per hour", "price", minor=True),
        Column("context", "Context", "count", minor=True),
        Column("source", "Price from", minor=True),
        Column("date", "as of", minor=True),
    )

    def note(row: Any) -> str:
        return str(row["reason"])

    table = Table("models", "Models", columns, ask.facts["models"], note=note)
    known = ask.facts["watched"]
    values = {"models": ask.facts["models"], "routing": watching.figures(known)}
    return Page("models", "Models", values, (table, *watching.tables(known)), figures=values["routing"])
