"""What a policy may look at, computed once from a request: pure, no model, no I/O, never raises.

Counts of characters and tokens and the privacy class cover the whole conversation (:mod:`gateway.tokens` and
:mod:`gateway.privacy` say how much of a very long one). Words, language, code, maths, question and constraints are
those of the *task*: the last user turn, of which the first and the last 2,000 characters are looked at; where that
turn only continues ("yes, do that"), the user turn before it, so that a conversation keeps its tier. The meaning of
every field stands in ``docs/policies.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.privacy import classify
from gateway.recency import latest_year, says_now
from gateway.tokens import estimate_tokens
from gateway.types import ChatRequest, Features, Principal

__all__ = ["estimate_tokens", "extract", "prompt_texts"]

PER_MESSAGE, PER_REPLY, PER_IMAGE = 3, 3, 765
AUDIO_CHARACTERS_PER_TOKEN = 2_000
DEFAULT_QUALITY = 5
WINDOW = 2_000
FOLLOW_UP_WORDS = 6
EXPERIMENT_TAG = "experiment:"
"""How the tag begins that says which arm of an experiment a request is in: nobody else may give one."""

_CONTINUING = {
    "yes", "yeah", "yep", "no", "ok", "okay", "sure", "do", "go", "continue", "and", "but", "more", "please",
    "again", "why", "now", "same", "that", "this", "it", "then", "also", "great", "perfect", "thanks", "try",
    "fix", "next", "keep", "proceed", "elaborate", "shorter", "longer", "sounds", "looks", "option", "both",
    "neither", "all", "so",
}  # fmt: skip
_MARKS = '.,;:!?"()[]{}<>*_`~|/-\n\t\r'
# A table of all of ASCII: of a mapping each character that it lacks would cost an exception inside ``translate``.
_EDGES = "".join(" " if char in _MARKS else char for char in map(chr, range(128)))
_WIDE_MARKS = _MARKS + "«»„“”‘’¿¡…—–。，、？！「」（）：；"
_QUESTIONS = {"what", "who", "whom", "whose", "where", "when", "why", "how", "which"}
_CONTRACTED = {f"{word}'s": word for word in _QUESTIONS} | {"what're": "what", "whats": "what", "who're": "who"}
_ASKED = {word: word for word in _QUESTIONS} | _CONTRACTED
_CONSTRAINTS = {
    "must", "should", "shall", "exactly", "only", "without", "least", "most", "avoid", "include", "including",
    "ensure", "never", "always", "except", "unless", "limit", "maximum", "minimum", "format", "required",
    "require", "requires", "constraint", "constraints", "cannot", "mustn't", "don't", "between",
}  # fmt: skip
_LIST_ITEM = re.compile(r"\n[ \t]{0,8}(?:[-*•]|[0-9]{1,3}[.)]|[a-z]\))[ \t]")
_CODE_WORDS = {
    "python", "javascript", "typescript", "java", "c++", "c#", "golang", "rust", "kotlin", "sql", "regex",
    "bash", "html", "css", "json", "yaml", "api", "code", "coding", "compile", "compiler", "debug", "refactor",
    "algorithm", "django", "flask", "react", "numpy", "pandas", "pytorch", "docker", "kubernetes", "git",
    "linux", "ansible", "verilog", "vhdl", "matlab", "powershell", "excel", "vba", "php", "ruby", "perl",
    "swift", "scala", "haskell", "npm", "async", "mutex", "webpack", "terraform", "postgres", "postgresql",
    "mysql", "mongodb", "programming", "def", "elif", "printf", "println", "struct", "nullptr", "malloc",
    "lambda", "endpoint", "unittest", "stacktrace", "traceback", "segfault", "script", "javafx", "nodejs",
    "codebase",
}  # fmt: skip
_CODE_MARKS = ("```", "()", "=>", "==", "!=", "+=", "&&", "::", "</", "};", "#include", "print(", "++", "#!/")
_MATHS_WORDS = {
    "prove", "proof", "theorem", "lemma", "integral", "integrate", "derivative", "differentiate", "equation",
    "equations", "matrix", "matrices", "eigenvalue", "eigenvalues", "polynomial", "probability", "logarithm",
    "modulo", "calculus", "algebra", "geometry", "trigonometry", "triangle", "vector", "factorial", "prime",
    "primes", "fraction", "hypotenuse", "arithmetic", "calculate", "compute", "solve", "sum", "multiply",
    "multiplied", "divided", "times", "plus", "minus", "percent", "percentage", "variance", "permutations",
    "combinatorics", "differential", "converges", "bijection", "isomorphic", "homomorphism", "topology",
    "topological", "manifold", "irrational", "integers", "squared", "average", "median", "root",
}  # fmt: skip
_LATEX_MARKS = ("\\(", "\\[", "\\frac", "\\sum", "\\int")
_MATHS_SIGNS = "∑∫√≤≥∈∀∃π∞≡×÷"
_OPERATION = re.compile(r"[+*^=] ?\(?[0-9]")

_STOP_WORDS = {
    "en": "the of and to in is are was what how for that with this you it on as be can who why where which do does an "
    "from by at or my me please your have not i a hello hi hey thanks yes no give tell write explain make describe",
    "de": "der die das und ist sind ein eine einen nicht wie was warum für mit auf von zu den dem ich du sie es wir "
    "bitte auch im wer wo kann hallo danke ja nein schreibe erkläre mir über als bei",
    "fr": "le la les des et est un une que qui pour dans sur avec pas ce cette je vous nous il elle au aux du quel "
    "quelle comment pourquoi bonjour merci oui où sont mon mes explique écris",
    "es": "el la los las de y es un una que en por para con no se su como qué cómo cuál dónde quién al del mi más hola "
    "gracias sí son está explica escribe porque",
    "it": "il lo la gli le di e è un una che per con non come cosa perché quale dove chi del della sono mi ciao grazie "
    "dei nel al spiega scrivi più",
    "pt": "o a os as de e é um uma que em por para com não se como qual onde quem do da dos das no na olá obrigado são "
    "você mais está explique escreva",
    "nl": "de het een en is van dat niet wat hoe waarom voor met op ik je zijn wie waar aan te bij hallo dank ook kan",
    "sv": "och är det att en ett som på för med inte vad hur varför jag du av till den hej tack var vem kan",
    "pl": "i w na z jest nie to się że jak co dlaczego dla do czy kto gdzie proszę są po od cześć dziękuję",
    "tr": "ve bir bu ne nasıl neden için ile mi mı da de çok var değil kim nerede merhaba lütfen olan",
    "vi": "và là của không một có những được cho trong người với này tại gì như thế xin chào",
    "id": "dan yang di ini itu dengan untuk dari tidak apa bagaimana mengapa adalah saya ke pada siapa halo",
}
_SCRIPT_LANGUAGES = (
    ("ja", "\u3040", "\u30ff"), ("ko", "\uac00", "\ud7af"), ("zh", "\u4e00", "\u9fff"), ("ru", "\u0400", "\u04ff"),
    ("ar", "\u0600", "\u06ff"), ("he", "\u0590", "\u05ff"), ("hi", "\u0900", "\u097f"), ("th", "\u0e00", "\u0e7f"),
    ("el", "\u0370", "\u03ff"),
)  # fmt: skip
_NO_SPACES = {"ja", "th", "zh"}


def _by_word(stop_words: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for language, words in stop_words.items():
        for word in words.split():
            found[word] = (*found.get(word, ()), language)
    return found


_LANGUAGES_OF = _by_word(_STOP_WORDS)


class _Type(msgspec.Struct):
    type: str = ""


_FORMAT = msgspec.json.Decoder(_Type)


class _Talk:
    """One pass over the messages: their texts by whose they are, and what is not text."""

    __slots__ = ("audio", "images", "system", "texts", "tools", "user_turns")

    def __init__(self, messages: Iterable[Any]) -> None:
        self.texts: list[str] = []
        self.system: list[str] = []
        self.user_turns: list[str] = []
        self.images, self.audio, self.tools = 0, 0, False
        for message in messages:
            if isinstance(message, dict):
                self._message(message)

    def _message(self, message: dict[str, Any]) -> None:
        content = message.get("content")
        text = content if isinstance(content, str) else self._parts(content)
        if text:
            self.texts.append(text)
        role = message.get("role")
        if role == "user":
            self.user_turns.append(text)
        elif role == "system" or role == "developer":
            self.system.append(text)
        elif role == "tool" or role == "function":
            self.tools = True
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            self.tools = True
            self.texts += _arguments(calls)

    def _parts(self, content: Any) -> str:
        if not isinstance(content, list):
            return ""
        texts: list[str] = []
        for part in content:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, dict):
                text = part.get("text")
                if isinstance(text, str):
                    texts.append(text)
                self._media(part)
        return "\n".join(texts)

    def _media(self, part: dict[str, Any]) -> None:
        kind = part.get("type")
        if kind in ("image_url", "input_image", "image"):
            self.images += 1
        elif kind == "input_audio":
            audio = part.get("input_audio")
            data = audio.get("data") if isinstance(audio, dict) else None
            self.audio += max(1, len(data) if isinstance(data, str) else 0)


def _arguments(calls: list[Any]) -> list[str]:
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    written = [function.get("arguments") for function in functions if isinstance(function, dict)]
    return [text for text in written if isinstance(text, str)]


def extract(
    request: ChatRequest, principal: Principal, *, default_max_tokens: int, default_quality: int = DEFAULT_QUALITY
) -> Features:
    """The features of a request. ``max_tokens`` is what the request asks for, else ``default_max_tokens``.

    ``tags`` are the key's and the header's together, sorted; ``needs`` are sorted too.
    """
    talk = _Talk(request.messages)
    last = talk.user_turns[-1] if talk.user_turns else ""
    whole = "\n".join(talk.texts)
    tools = _written(request, "tools") or _written(request, "functions")
    task, words = _task(talk.user_turns)
    head = task if len(task) <= 2 * WINDOW else task[:WINDOW] + "\n" + task[-WINDOW:]
    lowered = head.lower()
    words = words or _split(lowered)
    known = set(words)
    language = _language(lowered, words)
    last_tokens = estimate_tokens(last)
    text_tokens = last_tokens if whole == last else estimate_tokens(whole)
    return Features(
        prompt_tokens=text_tokens + _beside_text(request, talk) + (estimate_tokens(tools) if tools else 0),
        max_tokens=request.max_tokens if request.max_tokens and request.max_tokens > 0 else default_max_tokens,
        turns=len(talk.user_turns),
        messages=len(request.messages),
        needs=_needs(request, talk, bool(tools)),
        tags=_tags(principal, request),
        language=language,
        code=not known.isdisjoint(_CODE_WORDS) or _looks_like_code(head),
        maths=not known.isdisjoint(_MATHS_WORDS) or _looks_like_maths(head),
        privacy=classify(whole),
        question=_question(words),
        constraints=_constraints(head, words),
        words=_count_words(task, head, words, language),
        stream=request.stream,
        quality=default_quality if request.options.quality is None else request.options.quality,
        system_tokens=estimate_tokens("\n".join(talk.system)) if talk.system else 0,
        last_user_tokens=last_tokens,
        key=principal.key_id,
        team=principal.team,
        model=request.model,
        about_now=says_now(head, words),
        year=latest_year(head),
        last_user_text=last,
    )


def prompt_texts(request: ChatRequest) -> tuple[list[str], int]:
    """What is text of a request, and the estimated tokens of all that is not."""
    talk = _Talk(request.messages)
    tools = _written(request, "tools") or _written(request, "functions")
    return [*talk.texts, *([tools] if tools else [])], _beside_text(request, talk)


def _beside_text(request: ChatRequest, talk: _Talk) -> int:
    media = PER_IMAGE * talk.images + talk.audio // AUDIO_CHARACTERS_PER_TOKEN
    return PER_MESSAGE * len(request.messages) + PER_REPLY + media


def _task(user_turns: list[str]) -> tuple[str, list[str]]:
    """The newest user turn that says more than "yes, do that"; the last one where none does. Its words, if they had to
    be looked at for that.
    """
    for turn in reversed(user_turns[-4:]):
        if len(turn) > 80 or not turn.isascii():
            if turn.strip():
                return turn, []
        elif not _continues(words := _split(turn.lower())):
            return turn, words
    return user_turns[-1] if user_turns else "", []


def _continues(words: list[str]) -> bool:
    return len(words) <= 2 or (len(words) <= FOLLOW_UP_WORDS and words[0] in _CONTINUING)


def _written(request: ChatRequest, field: str) -> str:
    """The JSON of a list the client sent; '' where there is none."""
    raw = request.fields.get(field)
    text = bytes(raw).decode("utf-8", "replace").strip() if raw is not None else ""
    return text if text.startswith("[") and text[1:].lstrip() != "]" else ""


def _needs(request: ChatRequest, talk: _Talk, tools: bool) -> tuple[str, ...]:
    needs = []
    if talk.audio or _wants_audio(request):
        needs.append("audio")
    if _wants_json(request):
        needs.append("json")
    if tools or talk.tools:
        needs.append("tools")
    if talk.images:
        needs.append("vision")
    return tuple(needs)


def _wants_json(request: ChatRequest) -> bool:
    raw = request.fields.get("response_format")
    if raw is None:
        return False
    try:
        return _FORMAT.decode(raw).type in ("json_object", "json_schema")
    except msgspec.MsgspecError:
        return False


def _wants_audio(request: ChatRequest) -> bool:
    raw = request.fields.get("modalities")
    return raw is not None and b'"audio"' in bytes(raw)


def _tags(principal: Principal, request: ChatRequest) -> tuple[str, ...]:
    tags = {*principal.tags, *request.options.tags}
    return () if not tags else tuple(sorted(tag for tag in tags if not tag.startswith(EXPERIMENT_TAG)))


def _split(lowered: str) -> list[str]:
    """Words without the punctuation around them."""
    if lowered.isascii():
        return lowered.translate(_EDGES).split()
    words = [word.strip(_WIDE_MARKS).replace("’", "'") for word in lowered.replace("-", " ").split()]
    return [word for word in words if word]


def _language(lowered: str, words: list[str]) -> str:
    """By script where that says it, else by stop words among the first 120; ``und`` where neither does."""
    if not lowered.isascii() and (language := _language_of_script(lowered[:200])):
        return language
    counts: dict[str, int] = {}
    for languages in filter(None, map(_LANGUAGES_OF.get, words[:120])):
        for language in languages:
            counts[language] = counts.get(language, 0) + 1
    return max(counts, key=counts.__getitem__) if counts else "und"


def _language_of_script(text: str) -> str:
    """The first listed script with a fifth of the letters beyond Latin, where those are a quarter of all letters.

    Kana stands before Chinese characters: Japanese uses both.
    """
    letters = [char for char in text if char > "\u024f" and char.isalpha()]
    if len(letters) * 4 < sum(map(str.isalpha, text)):
        return ""
    for language, first, last in _SCRIPT_LANGUAGES:
        if sum([first <= char <= last for char in letters]) * 5 > len(letters):
            return language
    return ""


def _looks_like_code(text: str) -> bool:
    """Single characters first: they are found a hundred times as fast as the marks."""
    if "`" in text or "=" in text or "#" in text or "(" in text or "</" in text or "::" in text:
        return any(mark in text for mark in _CODE_MARKS)
    return False


def _looks_like_maths(text: str) -> bool:
    if "$$" in text or ("\\" in text and any(mark in text for mark in _LATEX_MARKS)):
        return True
    if not text.isascii() and any(sign in text for sign in _MATHS_SIGNS):
        return True
    return _OPERATION.search(text) is not None


def _constraints(text: str, words: list[str]) -> int:
    """Words that bind the answer and items of lists."""
    return len(list(filter(_CONSTRAINTS.__contains__, words))) + (len(_LIST_ITEM.findall(text)) if "\n" in text else 0)


def _question(words: list[str]) -> str:
    """The first question word among the first forty words."""
    return _ASKED.get(next(filter(_ASKED.__contains__, words[:40]), ""), "")


def _count_words(task: str, head: str, words: list[str], language: str) -> int:
    """Scaled up where only a window was looked at; two characters are a word where words are written together."""
    if language in _NO_SPACES:
        return max(len(words), len(task) // 2)
    return len(words) if len(task) == len(head) else len(words) * len(task) // len(head)
