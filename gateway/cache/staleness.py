"""How long an answer stays true, read from the question: what is asked about now is soon answered differently.

Word lists, not a model: they cost microseconds, can be read, and err towards asking again.
"""

from __future__ import annotations

import random
import re
from itertools import pairwise

NOW_S = 300.0
"""How long an answer about now may be reused: five minutes."""
_SHORTEST = 0.9

_WORD = re.compile(r"\w+")
# Time, then what changes by itself; by language, without words that mean something else in another one.
_LISTED = """
today tonight tomorrow yesterday currently nowadays latest newest recent recently breaking presently weather forecast
news headline headlines stock stocks bitcoin crypto price prices pricing traffic standings trending delayed outage
heute jetzt aktuell aktuelle aktueller aktuelles aktuellen momentan derzeit gestern neueste neuesten wetter nachrichten
preis preise kostet aujourd maintenant actuel actuelle actuels actuellement demain météo prix coûte
hoy ahora actualmente mañana ayer noticias precio precios cuesta oggi adesso attuale attualmente domani notizie meteo
prezzo prezzi hoje agora atualmente amanhã ontem notícias preço preços vandaag momenteel huidige gisteren nieuws prijs
сегодня сейчас завтра вчера погода новости цена dzisiaj dziś teraz jutro pogoda bugün şimdi yarın
اليوم الآن الطقس سعر आज अभी मौसम
"""
_WORDS = frozenset(_LISTED.split())
_PERIODS = (
    "week",
    "weekend",
    "month",
    "year",
    "morning",
    "afternoon",
    "evening",
    "quarter",
    "season",
    "summer",
    "winter",
)
_PAIRS = frozenset(
    [(which, period) for which in ("this", "next", "last") for period in _PERIODS]
    + [("right", "now"), ("just", "now"), ("these", "days"), ("the", "moment"), ("at", "present"), ("of", "now")]
    + [("to", "date"), ("so", "far"), ("what", "time"), ("what", "day"), ("the", "time"), ("the", "date")]
    + [("exchange", "rate"), ("interest", "rate"), ("interest", "rates"), ("mortgage", "rates"), ("how", "much")]
    + [("in", "stock"), ("open", "now"), ("who", "won"), ("is", "winning"), ("is", "leading"), ("score", "of")]
    + [("share", "price"), ("el", "tiempo"), ("qué", "tiempo"), ("het", "weer")]
)
# An electric current is not what is current.
_KINDS_OF_CURRENT = frozenset({"alternating", "direct", "electric", "electrical", "ocean", "eddy", "dark"})
_OF_CURRENT = frozenset({"", "in", "of", "through", "flow", "flows", "density", "and", "is", "divider", "transformer"})
# Written without spaces: Chinese, Japanese, Korean.
_UNSPACED = re.compile(
    r"今天|今日|现在|現在|目前|最新|最近|昨天|明天|昨日|明日|天气|天氣|天気|新闻|新聞|ニュース|价格|價格|価格|股价|汇率"
    r"|오늘|지금|현재|최신|내일|어제|날씨|뉴스|가격"
)

_HINTS = (
    "random",
    "another",
    "different",
    "a new",
    "one more",
    "surprise",
    "dice",
    " die",
    " a d",
    "coin",
    "pick ",
    "uid",
)
_THING = (
    r"(?:numbers?|words?|names?|joke|facts?|quote|story|poem|choice|card|colou?r|city|country|person|string|sample|recipe"
    r"|topic|idea|question|movie|song|book|password|passphrase|pin)"
)
_VARIED = re.compile(
    rf"\b(?:random (?:\w+ ){{0,2}}{_THING}|(?:another|a different|a new|one more) (?:\w+ )?{_THING}|surprise me"
    r"|(?:roll|throw) (?:a|the|two|some) (?:\w+-sided )?(?:dice|die|d\d+)|(?:flip|toss) a coin"
    r"|pick (?:a|one|any) \w+ (?:from|between)|(?:generate|create|make|give me) (?:an? |some )?(?:\w+ )?[ug]uid)\b",
    re.IGNORECASE,
)


def about_now(question: str) -> bool:
    """Whether a true answer of an hour ago may be false by now."""
    words = _WORD.findall(question.lower())
    if not _WORDS.isdisjoint(words) or not _PAIRS.isdisjoint(pairwise(words)):
        return True
    if "current" in words and _is_adjective(words, words.index("current")):
        return True
    return not question.isascii() and _UNSPACED.search(question) is not None


def _is_adjective(words: list[str], place: int) -> bool:
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    return before not in _KINDS_OF_CURRENT and after not in _OF_CURRENT


def wants_variety(question: str) -> bool:
    """Whether who asks twice wants two answers: a random number, another joke."""
    lowered = question.lower()
    return any(hint in lowered for hint in _HINTS) and _VARIED.search(question) is not None


def lifetime_s(question: str, ttl_s: float) -> float:
    """Seconds for which an answer may be reused, at most ``ttl_s``; a little less by chance, so that what was stored
    together does not end together.
    """
    longest = min(ttl_s, NOW_S) if about_now(question) else ttl_s
    return longest * random.uniform(_SHORTEST, 1.0)
