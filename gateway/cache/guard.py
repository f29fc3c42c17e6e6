"""Cheap and certain reasons why two similar questions have different answers. Where it speaks, there is no hit.

An embedding hardly sees what this looks at: numbers, negation, opposites, and who stands where ("Paris to Rome"). An
encoder that knows no case and no spacing sees nothing of "MW" against "mW", or of the spaces inside quotes. What is
not certain is the verifier's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations

from gateway.cache.keys import normalise
from gateway.cache.words import FUNCTION_WORDS, Text, lexicon, listed, stem

_SYMBOL = re.compile(r"[+*/=<>^%&|~#@$€£¥\\°×÷±√²³]|(?<!\w)-|-(?!\w)")
_DRAWN, _SKINS = frozenset({"So", "Sm", "Sc"}), "🏻🏼🏽🏾🏿"
_PERCENT = re.compile(r"\bper\s?cent\b")
_BEGINS = re.compile(r"(?:^|[.!?:]\s)[^\w]*([^\W\d_]+(?:'[^\W\d_]+)*)")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)")
_CODE = re.compile(r"[^\w\s,.;:!?'-]|_|\w[.:]\w")
_PASSIVE = re.compile(r"\b(?:was|were|is|are|be|been|being|gets?|got)\s.*\bby\b")
_NEGATION = frozenset(
    listed(
        "no not never none non without cannot nobody nothing neither nor except unless hardly barely scarcely "
        "nicht kein keine keinen nie niemals ohne pas sans jamais sin nunca senza mai sem não nunca niet geen nooit "
        "zonder inte aldrig utan ikke aldri uden uten nie nigdy bez не нет никогда без"
    )
)
# "NOT", "ALL": said loudly. "IT", "US" and "WHO" are names.
_EMPHASISED = (FUNCTION_WORDS | {"ok"}) - {"it", "us", "who"}
_PERSONS = frozenset(listed("he she him her his hers"))
_SWITCHING = frozenset(listed("turn turns turned turning switch switches switched switching"))
_PREFIXES, _PREFIXED = ("un", "dis", "non", "in", "im", "il", "ir", "de", "mis", "anti"), 4
# "hyperglycemia" is not "hypoglycemia".
_PAIRED = tuple(
    tuple(listed(pair))
    for pair in (
        *("hyper hypo", "exo endo", "pre post", "over under", "inter intra", "macro micro", "up down", "in out"),
        *("in ex", "im ex", "en de"),
    )
)
_ACRONYM = 3
_ARTICLES = frozenset(listed("a an the"))
# Words of one pole rule out those of the others: "before" is not "after", Monday is not Tuesday.
_POLES = (
    "before prior pre | after following post",
    "more | less fewer",
    "max maximum most highest biggest largest longest | min minimum least lowest smallest shortest",
    "big large huge | small little tiny",
    "best | worst",
    "first earliest | last latest",
    "he him | she her",
    "his | her hers",
    "today now | tomorrow | yesterday",
    "monday | tuesday | wednesday | thursday | friday | saturday | sunday",
    "january | february | april | june | july | august | september | october | november | december",
    "daily | weekly | monthly | yearly annual",
    "north northern | south southern | east eastern | west western",
    "summer | winter | spring | autumn",
    "morning | afternoon | evening | night",
    "boil boiling | melt melting | freeze freezing",
    "male man men boy boys | female woman women girl girls",
    "husband | wife",
    "mother mum mom | father dad",
    "brother | sister",
    "born birth | die died death",
    "import | export",
    "upload | download",
    "weekday | weekend",
    "allow allowed permit permitted legal | prohibit prohibited forbid forbidden ban banned illegal",
    "lend | borrow",
    "arrive arrival | depart departure",
    "ascending | descending",
    "horizontal | vertical",
    "inner | outer",
    "progressive | regressive",
    "accept | decline reject refuse",
    "debit | credit",
    "employer | employee",
    "landlord | tenant",
    "encrypt encryption | decrypt decryption",
    "advantage benefit pro pros | disadvantage drawback con cons risk",
    "increase raise boost gain grow | decrease reduce lower cut drop lose shrink",
    "create add make start open enable install | delete remove destroy stop close disable uninstall",
    "push | pull",
    "buy | sell",
    "above over | below under",
    "up | down",
    "left | right",
    "all every | any",
    "always | never | sometimes",
    "and | or",
)
_UNITS = frozenset(
    listed(
        "meter metr byt bit km mile inch foot feet yard cm mm gram kilogram kg pound ounc ton tonn liter "
        "litr gallon pint cup teaspoon tablespoon second minut hour day week month year decad century celsius "
        "fahrenheit kelvin knot dollar euro rupe yen franc peso rubl zloty krona shekel dirham watt volt amp joul "
        "calori"
    )
) | {
    prefix + unit
    for prefix in listed("kilo mega giga tera peta centi milli micro nano")
    for unit in listed("byt bit gram met metr meter lit litr liter watt volt amp joul hertz pascal second calori")
}
_TONGUES = frozenset(
    listed(
        "english german french spanish italian portuguese dutch swedish norwegian danish finnish polish czech russian "
        "ukrainian greek turkish arabic hebrew hindi bengali urdu tamil chinese mandarin cantonese japanese korean "
        "vietnamese thai indonesian swahili latin hungarian romanian bulgarian croatian serbian icelandic irish "
        "python java javascript typescript ruby rust kotlin scala php perl haskell fortran cobol bash sql matlab"
    )
)
_SCOPES = frozenset(listed("only both every each entire whole half sentence paragraph page word bullet list table"))
_ASKED_FOR = {
    **dict.fromkeys(listed("year month day date time century decade"), "when"),
    **dict.fromkeys(listed("city country place town continent"), "where"),
}
_INTERROGATIVES = frozenset(listed("why when where who whom whose how"))
_MEASURED = frozenset(listed("many much long far often old big tall fast high deep large heavy soon"))
_TESTS = frozenset(listed("is are was were do does did can could should would will has have may must am"))
_PAST = frozenset(listed("was were did had"))
_PRESENT = frozenset(listed("is are do does has have am"))
_ADVISING, _PERMITTING = frozenset({"should", "must"}), frozenset({"can", "may", "could"})
# After these, the next word of meaning is where it goes to, or what it is held against.
_TOWARDS = frozenset(listed("to into by than over onto toward towards"))
_JOINING = frozenset(listed("and or vs versus between"))


def reason(left: Text, right: Text) -> str | None:
    """Why the answer to one cannot answer the other; None where nothing certain speaks against it. Symmetric."""
    return next((name for name, unlike in _RULES if unlike(left, right)), None)


def _numbers(left: Text, right: Text) -> bool:
    return left.numbers != right.numbers


def _symbols(left: Text, right: Text) -> bool:
    return _signs(left) != _signs(right)


def _signs(text: Text) -> list[str]:
    raw = _PERCENT.sub("%", text.raw)
    return [sign for sign in raw if not sign.isascii() and _drawn(sign)] + _SYMBOL.findall(raw)


def _drawn(sign: str) -> bool:
    """Whether a character is a picture, a currency, a mathematical sign: an encoder knows few of them apart."""
    return unicodedata.category(sign) in _DRAWN or sign in _SKINS


def _quotes(left: Text, right: Text) -> bool:
    quoted = [["".join(found) for found in _QUOTED.findall(text.raw)] for text in (left, right)]
    return all(quoted) and quoted[0] != quoted[1]


def _negation(left: Text, right: Text) -> bool:
    counts = [sum(word in _NEGATION or word.endswith("n't") for word in text.lower) for text in (left, right)]
    return counts[0] != counts[1]


def _names(left: Text, right: Text) -> bool:
    """A name on one side is on the other too, if only in lower case; what has capitals inside is spelt the same."""
    if _spelt_apart(left, right) and not _typed(left, right):
        return True
    return not (names(left) <= right.stems and names(right) <= left.stems)


def _spelt_apart(left: Text, right: Text) -> bool:
    a, b = _spelt(left), _spelt(right)
    listed_only = _joined(left) and _joined(right) and len({word.lower() for word in a}) == len(a)
    return sorted(a) != sorted(b) if listed_only else a != b


def _typed(left: Text, right: Text) -> bool:
    """Whether one of two texts in plain words was typed without capitals and has all of the other's acronyms so. Not
    "us", "it" and "who", which are other words then, nor units, whose letters may be large or small.
    """
    small, other = (left, right) if left.raw.islower() else (right, left)
    acronyms = [word.lower() for word in _spelt(other) if word.isupper() and word.isalpha() and len(word) >= _ACRONYM]
    if not small.raw.islower() or len(acronyms) != len(_spelt(other)) or _CODE.search(f"{left.raw} {right.raw}"):
        return False
    return bool(acronyms) and FUNCTION_WORDS.isdisjoint(acronyms) and set(acronyms) <= set(small.lower)


def _spelt(text: Text) -> list[str]:
    """Words with capitals inside, in their order: units, brands and acronyms; none in a text that is shouted."""
    if text.raw.isupper():
        return []
    return [word for word in text.words if any(map(str.isupper, word[1:])) and word.lower() not in _EMPHASISED]


def names(text: Text) -> set[str]:
    """Stems of the words that are capitalised though they begin no sentence, unless all of them are."""
    begins = {found.group(1) for found in _BEGINS.finditer(text.raw)}
    rest = [word for word in text.words if word[0].isalpha() and word.lower() not in FUNCTION_WORDS]
    named = [word for word in rest if word[0].isupper() and (word not in begins or _owns(word))]
    if len(named) > 3 and len(named) == len(rest):
        return set()
    return {stem(word.lower()) for word in named}


def _owns(word: str) -> bool:
    """ "Austria's", not "How's"."""
    return word.endswith("'s") and word.removesuffix("'s").lower() not in FUNCTION_WORDS


def _spelling(left: Text, right: Text) -> bool:
    if bool(left.words) != bool(right.words):
        return True
    alike = [word.casefold() for word in left.lower] == [word.casefold() for word in right.lower]
    return alike and _written(left) != _written(right) and not _typed(left, right)


def _written(text: Text) -> str:
    """The text itself where case and spacing may mean something in it, else what is left without them."""
    normal = normalise(text.raw) if text.words else None
    return text.raw.strip() if normal is None else " ".join(_PUNCTUATION.sub(" ", normal).split())


def _opposites(left: Text, right: Text) -> bool:
    a, b = left.stems | _switched(left), right.stems | _switched(right)
    return any(_meets(word, b) for word in a - b) or any(_meets(word, a) for word in b - a)


def _switched(text: Text) -> frozenset[str]:
    """What "turn … on" and "switch … off" do, by the word that the poles know."""
    if _SWITCHING.isdisjoint(text.lower):
        return frozenset()
    return frozenset(stem(verb) for particle, verb in (("on", "enable"), ("off", "disable")) if particle in text.lower)


def _meets(word: str, others: frozenset[str]) -> bool:
    """Whether an opposite of a word is among the others, and nothing that means the word itself."""
    if not others.isdisjoint(lexicon().opposites.get(word, ())):
        return True
    if any(own.isdisjoint(others) and not opposed.isdisjoint(others) for own, opposed in _poles().get(word, ())):
        return True
    if len(word) <= _PREFIXED:
        return False
    bare = [word.removeprefix(prefix) for prefix in _PREFIXES]
    turned = [to + word.removeprefix(of) for pair in _PAIRED for of, to in permutations(pair) if word.startswith(of)]
    return any(rest in others or f"{rest}e" in others for rest in (*bare, *turned))


@cache
def _poles() -> dict[str, list[tuple[frozenset[str], frozenset[str]]]]:
    """For each stem the poles it belongs to, each with all that it rules out."""
    found: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {}
    for line in _POLES:
        poles = [frozenset(map(stem, listed(pole))) for pole in line.split("|")]
        for own in poles:
            opposed = frozenset(word for pole in poles if pole is not own for word in pole)
            for word in own:
                found.setdefault(word, []).append((own, opposed))
    return found


def _pronouns(left: Text, right: Text) -> bool:
    """He or she is somebody, and the other text does not say who."""
    return _PERSONS & set(left.lower) != _PERSONS & set(right.lower)


def _units(left: Text, right: Text) -> bool:
    a, b = (frozenset(map(_unit, _UNITS & (text.stems | set(text.lower)))) for text in (left, right))
    return a != b and bool(a and b)


def _unit(stemmed: str) -> str:
    """One stem for "metre" and "meters", "litre" and "liters"."""
    return re.sub(r"(met|lit)e?r$", r"\1", stemmed)


def _kinds(kinds: frozenset[str]) -> Callable[[Text, Text], bool]:
    """Whether two texts speak of different ones of a kind."""

    def unlike(left: Text, right: Text) -> bool:
        a, b = (kinds & (text.stems | set(text.lower)) for text in (left, right))
        return a != b and bool(a and b)

    return unlike


def _scope(left: Text, right: Text) -> bool:
    a, b = (_SCOPES & (text.stems | set(text.lower)) for text in (left, right))
    return a != b and bool((a and b) or "only" in a | b)


def _question(left: Text, right: Text) -> bool:
    """Why, when, where, who and how much are told apart; "what" may ask for any of them, unless it says
    for which ("what year").
    """
    asks = _asks(left), _asks(right)
    if "" in asks or asks[0] == asks[1]:
        return False
    if "test" in asks:
        return not ({*left.lower, *right.lower} & {"way", "ways", "method", "possible"})
    return True


def _asks(text: Text) -> str:
    for word, after in zip(text.lower, (*text.lower[1:], ""), strict=False):  # no words: none of them
        if word in ("what", "which", "what's", "whats"):
            return _ASKED_FOR.get(after, "")
        if word in _INTERROGATIVES:
            return f"how {after}" if word == "how" and after in _MEASURED else word
    return "test" if text.lower and text.lower[0] in _TESTS else ""


def _mood(left: Text, right: Text) -> bool:
    """ "Should I" against "can I", "is it" against "was it", of questions that are answered by yes or no."""
    if _asks(left) != "test" or _asks(right) != "test":
        return _formerly(left) != _formerly(right)
    if ("becom" in left.stems) != ("becom" in right.stems):
        return True
    first = {left.lower[0], right.lower[0]}
    if first & _ADVISING and first & _PERMITTING:
        return True
    return bool(first & _PAST and first & _PRESENT) or _formerly(left) != _formerly(right)


def _formerly(text: Text) -> bool:
    return any(pair in (("used", "to"), ("use", "to")) for pair in zip(text.lower, text.lower[1:], strict=False))


def _order(left: Text, right: Text) -> bool:
    a, b = left.content, right.content
    common = set(a) & set(b)
    if len(common) < 2:
        return False
    swapped = _only(a, common) != _only(b, common)
    if swapped and sorted(a) == sorted(b) and _skeleton(left) == _skeleton(right) and not _joined(left):
        return True
    goals = _goals(left) & common, _goals(right) & common
    if all(goals) and goals[0].isdisjoint(goals[1]):
        return True
    passive = [bool(_PASSIVE.search(text.raw.lower())) for text in (left, right)]
    return passive[0] != passive[1] and _ends(a, common) == _ends(b, common)


def _only(words: Sequence[str], kept: set[str]) -> list[str]:
    return [word for word in words if word in kept]


def _ends(words: Sequence[str], common: set[str]) -> tuple[str, str]:
    kept = _only(words, common)
    return kept[0], kept[-1]


def _skeleton(text: Text) -> list[str]:
    """The function words in their places, articles aside."""
    return [word if word in FUNCTION_WORDS else "_" for word in text.lower if word not in _ARTICLES]


def _joined(text: Text) -> bool:
    """Whether two things are put side by side, where their order means nothing."""
    return not _JOINING.isdisjoint(text.lower) and _TOWARDS.isdisjoint(text.lower)


def _goals(text: Text) -> set[str]:
    """The words of meaning that follow "to", "into", "by", "than"."""
    found, armed = set(), False
    for word in text.lower:
        if word in _TOWARDS:
            armed = True
        elif armed and word not in FUNCTION_WORDS:
            found.add(stem(word))
            armed = False
    return found


_RULES: tuple[tuple[str, Callable[[Text, Text], bool]], ...] = (
    ("numbers", _numbers),
    ("symbols", _symbols),
    ("quotes", _quotes),
    ("negation", _negation),
    ("names", _names),
    ("spelling", _spelling),
    ("opposites", _opposites),
    ("units", _units),
    ("language", _kinds(_TONGUES)),
    ("scope", _scope),
    ("question", _question),
    ("mood", _mood),
    ("order", _order),
    ("pronouns", _pronouns),
)
