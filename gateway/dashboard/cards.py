"""The figures at the top of the overview, each with a line that says how it is meant."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dashboard import words
from gateway.dashboard.page import Ask
from gateway.economics import Forecast
from gateway.ledger.answers import Measures

_MANY_ERRORS = 0.01


@dataclass(frozen=True)
class Card:
    """``tone``: good, bad or ''; ``exact`` is what hovering shows."""

    name: str
    title: str
    text: str
    note: str
    tone: str = ""
    exact: str = ""
    href: str = ""


def cards(ask: Ask, total: Measures, before: Measures, ahead: Forecast, idle_nano: int) -> list[Card]:
    """``before`` is as long a stretch just before; ``idle_nano``: what machines cost while nobody asked."""
    return [
        _spent(total, before, idle_nano),
        _saved(total, idle_nano),
        _forecast(ahead),
        _requests(ask, total, before),
        _hit_rate(total),
        _errors(ask, total),
        Card("speed", "Tokens a second", words.rate(total.tokens_per_s), "mean decode rate of streamed answers"),
        _quality(total),
    ]


def _spent(total: Measures, before: Measures, idle_nano: int) -> Card:
    nano = total.cost_nano + idle_nano
    note = f"of it {words.money(idle_nano)} for idle machines" if idle_nano else _compared(nano, before.cost_nano)
    return Card("spent", "Spent", words.money(nano), note, exact=_exact(nano))


def _saved(total: Measures, idle_nano: int) -> Card:
    nano = total.saved_nano - idle_nano
    title = "Saved, net" if nano >= 0 else "Dearer than the baseline by"
    note = "no baseline to compare with"
    if total.baseline_nano:
        share = words.share(abs(nano) / total.baseline_nano)
        note = f"{share} of the baseline's {words.money(total.baseline_nano)}"
    tone = "good" if nano > 0 else "bad" if nano < 0 else ""
    return Card("saved", title, words.money(abs(nano)), note, tone, _exact(nano))


def _forecast(ahead: Forecast) -> Card:
    if ahead.total_nano is None:
        return Card("forecast", "Forecast, this month", words.NOTHING, "after the first whole day")
    note = f"{words.money(ahead.spent_nano)} so far + {words.money(ahead.day_nano)} a day"
    exact = "the daily average of the last whole days, a week at most, to the end of the month (UTC)"
    return Card("forecast", "Forecast, this month", words.money(ahead.total_nano), note, exact=exact)


def _requests(ask: Ask, total: Measures, before: Measures) -> Card:
    flags = {"estimated": total.estimated, "unpriced": total.unpriced, "incomplete": total.incomplete}
    note = ", ".join(f"{count:,} {name}" for name, count in flags.items() if count)
    note = note or _compared(total.requests, before.requests)
    exact, href = words.count(total.requests), ask.href("requests")
    return Card("requests", "Requests", words.compact(total.requests), note, exact=exact, href=href)


def _hit_rate(total: Measures) -> Card:
    note = f"{words.compact(total.hits)} of {words.compact(total.hits + total.misses)} look-ups"
    return Card("hit-rate", "Cache hit rate", words.share(total.hit_rate), note)


def _errors(ask: Ask, total: Measures) -> Card:
    share = total.errors / total.requests if total.requests else None
    note = f"{total.errors:,} requests" if total.errors else "none"
    tone = "bad" if share is not None and share >= _MANY_ERRORS else ""
    return Card("errors", "Errors", words.share(share), note, tone, href=ask.href("explore", by="status"))


def _quality(total: Measures) -> Card:
    if total.rating is None:
        return Card("quality", "Quality", words.NOTHING, "no feedback yet: POST /v1/feedback")
    text = f"{total.rating:+.2f}".replace("-", words.MINUS)
    note = f"mean of {total.rated:,} ratings, −1 to +1"
    return Card("quality", "Quality", text, note, "good" if total.rating > 0 else "bad")


def _exact(nano: int) -> str:
    return f"${words.exact(nano)}"


def _compared(now: int, before: int) -> str:
    if not before:
        return "nothing in the period before"
    change = (now - before) / before
    if abs(change) < 0.0005:
        return "as in the period before"
    return f"{words.share(abs(change))} {'more' if change > 0 else 'less'} than the period before"
