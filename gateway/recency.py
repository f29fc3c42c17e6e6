"""What a question is about in time: now, or a year it names. Word lists, not a model: they can be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_WORD = re.compile(r"\w+")
_APART = "".join(char if _WORD.match(char) else " " for char in map(chr, range(128)))
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
_FIRSTS = frozenset(first for first, _ in _PAIRS)
# An electric current is not what is current.
_KINDS_OF_CURRENT = frozenset({"alternating", "direct", "electric", "electrical", "ocean", "eddy", "dark"})
_OF_CURRENT = frozenset({"", "in", "of", "through", "flow", "flows", "density", "and", "is", "divider", "transformer"})
# Written without spaces: Chinese, Japanese, Korean.
_UNSPACED = re.compile(
    r"今天|今日|现在|現在|目前|最新|最近|昨天|明天|昨日|明日|天气|天氣|天気|新闻|新聞|ニュース|价格|價格|価格|股价|汇率"
    r"|오늘|지금|현재|최신|내일|어제|날씨|뉴스|가격"
)
_YEAR = re.compile(r"(?<![\w.,$€£-])(?:19|20)\d{2}(?![\w%]|[.,]\d)")


def about_now(question: str) -> bool:
    """Whether a true answer of an hour ago may be false by now."""
    lowered = question.lower()
    return says_now(question, lowered.translate(_APART).split() if lowered.isascii() else _WORD.findall(lowered))


def says_now(question: str, words: Sequence[str]) -> bool:
    """The same, where the lower-case words are at hand."""
    if not _WORDS.isdisjoint(words):
        return True
    if not _FIRSTS.isdisjoint(words) and not _PAIRS.isdisjoint(pairwise(words)):
        return True
    if "current" in words and _is_adjective(words, words.index("current")):
        return True
    return not question.isascii() and _UNSPACED.search(question) is not None


def _is_adjective(words: Sequence[str], place: int) -> bool:
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    return before not in _KINDS_OF_CURRENT and after not in _OF_CURRENT


def latest_year(question: str) -> int:
    """The latest year between 1900 and 2099 that is named; 0 where none is."""
    if "19" not in question and "20" not in question:
        return 0
    return max(map(int, _YEAR.findall(question)), default=0)
