"""Features: what each sees, on text of many kinds, on rubbish, and how long it takes."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.features import estimate_tokens, extract
from gateway.privacy import LOOK, classify
from gateway.tokens import WHOLE
from gateway.types import ChatRequest, Features, Principal, RequestOptions
from tests.support.pace import allowed


def features(content: Any = "Hello", *, body: dict[str, Any] | None = None, **kwargs: Any) -> Features:
    principal = kwargs.pop("principal", Principal(key_id="key-1", team="research", tags=("b", "a")))
    messages = kwargs.pop("messages", None) or [{"role": "user", "content": content}]
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in (body or {}).items()}
    request = ChatRequest(id="r", model="auto", messages=messages, fields=fields, **kwargs)
    return extract(request, principal, default_max_tokens=1024)


def conversation(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]


class TestRequest:
    def test_a_short_question(self) -> None:
        found = features("What is the capital of France?")
        assert (found.turns, found.messages, found.words, found.question) == (1, 1, 6, "what")
        assert (found.language, found.code, found.maths, found.privacy) == ("en", False, False, "")
        assert found.last_user_text == "What is the capital of France?"
        assert (found.key, found.team, found.model) == ("key-1", "research", "auto")
        assert found.needs == ()

    def test_tags_add_and_never_remove(self) -> None:
        assert features(options=RequestOptions(tags=("c", "a"))).tags == ("a", "b", "c")
        assert features().tags == ("a", "b")

    @pytest.mark.parametrize(("asked", "used"), [(None, 1024), (0, 1024), (-3, 1024), (7, 7)])
    def test_max_tokens(self, asked: int | None, used: int) -> None:
        assert features(max_tokens=asked).max_tokens == used

    @pytest.mark.parametrize(("asked", "used"), [(None, 5), (0, 0), (10, 10)])
    def test_quality(self, asked: int | None, used: int) -> None:
        assert features(options=RequestOptions(quality=asked)).quality == used

    def test_roles(self) -> None:
        found = features(
            messages=[
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "developer", "content": "Answer in one line."},
                *conversation("Hi", "Hello!", "Where is Rome?"),
            ]
        )
        assert (found.turns, found.messages, found.last_user_text) == (2, 5, "Where is Rome?")
        assert found.system_tokens == pytest.approx(12, abs=3)
        assert found.last_user_tokens == estimate_tokens("Where is Rome?")
        assert found.prompt_tokens > found.system_tokens + found.last_user_tokens

    def test_parts_are_joined(self) -> None:
        content = [{"type": "text", "text": "Who wrote"}, "this", {"type": "text", "text": "book?"}]
        assert features(content).last_user_text == "Who wrote\nthis\nbook?"


class TestNeeds:
    TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}  # noqa: RUF012

    @pytest.mark.parametrize("body", [{"tools": [TOOL]}, {"functions": [{"name": "f"}]}])
    def test_tools(self, body: dict[str, Any]) -> None:
        found = features(body=body)
        assert found.needs == ("tools",)
        assert found.prompt_tokens > features().prompt_tokens

    @pytest.mark.parametrize("body", [{"tools": []}, {"tools": None}, {"tools": "x"}, {"functions": {}}])
    def test_no_tools(self, body: dict[str, Any]) -> None:
        assert features(body=body).needs == ()

    def test_tools_in_the_conversation(self) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Rome"}'}}
        said = features(messages=[{"role": "assistant", "content": None, "tool_calls": [call]}])
        assert said.needs == ("tools",)
        assert said.prompt_tokens > 8
        assert features(messages=[{"role": "tool", "tool_call_id": "1", "content": "12 °C"}]).needs == ("tools",)

    def test_images(self) -> None:
        found = features([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}])
        assert found.needs == ("vision",)
        assert found.prompt_tokens > 765

    def test_audio(self) -> None:
        found = features([{"type": "input_audio", "input_audio": {"data": "A" * 200_000, "format": "mp3"}}])
        assert found.needs == ("audio",)
        assert found.prompt_tokens >= 100
        assert features(body={"modalities": ["text", "audio"]}).needs == ("audio",)

    @pytest.mark.parametrize(
        ("format_", "needs"),
        [
            ({"type": "json_object"}, ("json",)),
            ({"type": "json_schema", "json_schema": {"name": "x"}}, ("json",)),
            ({"type": "text"}, ()),
            ({"type": 7}, ()),
            ("json", ()),
            (None, ()),
        ],
    )
    def test_json(self, format_: Any, needs: tuple[str, ...]) -> None:
        assert features(body={"response_format": format_}).needs == needs

    def test_several_are_sorted(self) -> None:
        body = {"tools": [self.TOOL], "response_format": {"type": "json_object"}}
        assert features([{"type": "image_url"}], body=body).needs == ("json", "tools", "vision")


LANGUAGES = {
    "en": "What is the capital of France?",
    "de": "Wie heißt die Hauptstadt von Frankreich?",
    "fr": "Quelle est la capitale de la France ?",
    "es": "¿Cuál es la capital de Francia?",
    "it": "Qual è la capitale della Francia?",
    "pt": "Qual é a capital da França?",
    "nl": "Wat is de hoofdstad van Frankrijk?",
    "sv": "Vad är det för huvudstad i Frankrike och varför?",
    "pl": "Jaka jest stolica Francji i dlaczego?",
    "tr": "Fransa'nın başkenti neresi ve bu şehir neden çok ünlü?",
    "ru": "Какая столица Франции?",
    "zh": "法国的首都是哪里？",
    "ja": "フランスの首都はどこですか？",
    "ko": "프랑스의 수도는 어디입니까?",
    "ar": "ما هي عاصمة فرنسا؟",
    "he": "מהי בירת צרפת?",
    "hi": "फ़्रांस की राजधानी क्या है?",
    "th": "เมืองหลวงของฝรั่งเศสคืออะไร",
    "el": "Ποια είναι η πρωτεύουσα της Γαλλίας;",
    "und": "xyzzy 12345",
}


@pytest.mark.parametrize(("language", "text"), LANGUAGES.items())
def test_languages(language: str, text: str) -> None:
    assert features(text).language == language


def test_a_foreign_word_does_not_change_the_language() -> None:
    assert features("What does the word Привет mean in English, and how do I say it?").language == "en"


def test_words_are_counted_where_none_are_spaced() -> None:
    assert 3 <= features("法国的首都是哪里？").words <= 8
    assert features("one two  three\nfour").words == 4


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Write a Python function", True),
        ("```\nx = 1\n```", True),
        ("for (int i = 0; i < n; i++) { total(); }", True),
        ("#include <stdio.h>", True),
        ("SELECT * FROM users in SQL", True),
        ("What is the capital of France?", False),
        ("I like tea (with milk); do you?", False),
    ],
)
def test_code(text: str, code: bool) -> None:
    assert features(text).code is code


@pytest.mark.parametrize(
    ("text", "maths"),
    [
        ("Prove the theorem", True),
        ("What is 12 + 30?", True),
        ("x^2 = 2", True),
        ("Show that \\frac{1}{2} holds", True),
        ("∑ n", True),
        ("$$a$$", True),
        ("What is the capital of France?", False),
        ("I was born in 1980", False),
    ],
)
def test_maths(text: str, maths: bool) -> None:
    assert features(text).maths is maths


@pytest.mark.parametrize(
    ("text", "word"),
    [("What's up?", "what"), ("Tell me why it rains", "why"), ("Where is it", "where"), ("Go on", ""), ("", "")],
)
def test_question(text: str, word: str) -> None:
    assert features(text).question == word


def test_constraints_are_words_that_bind_and_items_of_lists() -> None:
    assert features("It must be short, without jokes, and include exactly three names.").constraints == 4
    assert features("Do this:\n- one\n- two\n3. three\nplain").constraints == 3
    assert features("What is the capital of France?").constraints == 0


class TestContinuation:
    """A turn that only continues is read as the task that it continues."""

    TASK = "Write a Python function that must sort a list without recursion and explain its complexity."

    def test_yes_takes_over_the_task(self) -> None:
        found = features(messages=conversation(self.TASK, "Shall I?", "yes, do that"))
        assert (found.code, found.last_user_text) == (True, "yes, do that")
        assert found.constraints == 2

    def test_a_question_of_its_own_does_not(self) -> None:
        assert not features(messages=conversation(self.TASK, "Done.", "What is the capital of France?")).code

    def test_nothing_to_continue(self) -> None:
        assert features(messages=conversation("Hi", "Hello", "yes")).words == 1


class TestPrivacy:
    @pytest.mark.parametrize(
        ("text", "class_"),
        [
            ("Write to anna.schmidt+x@mail.example.co.uk today", "email"),
            ("call +49 30 12345678 now", "phone"),
            ("call (415) 555-2671 now", "phone"),
            ("ring 030 1234567", "phone"),
            ("Card 4111 1111 1111 1111, exp 12/26", "card"),
            ("order 12345 4111-1111-1111-1111", "card"),
            ("amex 378282246310005", "card"),
            ("ssn 123-45-6789", "id"),
            ("cpf 529.982.247-25", "id"),
            ("IBAN DE89 3704 0044 0532 0130 00", "id"),
            ("NR 12 DE89 3704 0044 0532 0130 00", "id"),
            ("pay to GB29NWBK60161331926819 please", "id"),
            ("NI number AB 12 34 56 C", "id"),
            ("AB123456C", "id"),
            ("key sk-proj-abcdefghijklmnopqrstuvwx", "secret"),
            ("AKIAIOSFODNN7EXAMPLE", "secret"),
            ("token ghp_abcdefghijklmnopqrstuvwxyz0123456789", "secret"),
            ("eyJhbGciOiJIUzI1NiIsInR5cCI6.eyJzdWIiOiIxMjM0NTY3ODkwIn0.x", "secret"),
            ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
            ("password = 'correct-horse'", "secret"),
            ('{"api_key": "0123456789abcdef"}', "secret"),
        ],
    )
    def test_found(self, text: str, class_: str) -> None:
        assert classify(text) == class_
        assert classify(f"Lorem ipsum dolor.\n{text}\nSit amet.") == class_

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "What is the capital of France?",
            "Card 4111 1111 1111 1112",
            "1234567890123456",
            "0000 0000 0000 0000",
            "On 2024-01-15 10:30 it was 3.14159265358979",
            "ssn 000-45-6789",
            "cpf 529.982.247-26",
            "IBAN DE89 3704 0044 0532 0130 01",
            "def f(@decorator): pass",
            "a @ b, npm install x@1.2.3",
            "task-management-and-risk-assessment-in-practice",
            "What is a password?",
            "password = input()",
            "1 + 2 - 3 / 4 (5) 6.7",
        ],
    )
    def test_not_found(self, text: str) -> None:
        assert classify(text) == ""

    def test_the_gravest_class_wins(self) -> None:
        assert classify("a@b.org and 4111 1111 1111 1111") == "card"
        assert classify("a@b.org and +49 30 12345678") == "email"
        assert classify("4111111111111111 sk-abcdefghijklmnopqrstuvwx") == "secret"

    def test_every_message_is_looked_at(self) -> None:
        for role in ("system", "user", "assistant", "tool"):
            messages = [{"role": role, "content": "mail a@b.org"}, {"role": "user", "content": "Hello"}]
            assert features(messages=messages).privacy == "email"
        call = {"function": {"name": "f", "arguments": '{"to": "a@b.org"}'}}
        assert features(messages=[{"role": "assistant", "tool_calls": [call]}]).privacy == "email"

    def test_what_is_too_long_to_be_read_fails_closed(self) -> None:
        assert classify("a " * (LOOK // 2)) == ""
        assert classify("a " * (LOOK // 2) + "a") == "unknown"
        assert classify("12/34/56 7 a " * 2_000) == "unknown"


def _cl100k() -> Any:
    """OpenAI's tokenizer, whose ranks lie in the litellm wheel (which is not imported)."""
    tiktoken = pytest.importorskip("tiktoken")
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no litellm wheel here")
    folder = Path(next(iter(spec.submodule_search_locations))) / "litellm_core_utils" / "tokenizers"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return tiktoken.get_encoding("cl100k_base")


PARAGRAPHS = {
    "en": "The river rose in the night and by the morning the lower fields were under water. Nobody had expected it so "
    "early in the year, and the sheep had to be brought up the hill before breakfast. ",
    "de": "Der Fluss stieg in der Nacht, und am Morgen standen die unteren Felder unter Wasser. Niemand hatte damit so "
    "früh im Jahr gerechnet, und die Schafe mussten vor dem Frühstück auf den Hügel gebracht werden. ",
    "ru": "Ночью река поднялась, и к утру нижние поля оказались под водой. Никто не ожидал этого так рано, и овец "
    "пришлось перегнать на холм ещё до завтрака. ",
    "zh": "河水在夜里上涨，到了早晨，低处的田地都被淹没了。没有人料到今年会来得这么早，早饭前就得把羊赶上山去。",
    "ja": "川は夜のうちに増水し、朝には低い畑が水に浸かっていた。こんなに早い時期に起こるとは誰も思っていなかった。",
    "ko": "강물은 밤사이에 불어났고 아침이 되자 낮은 밭들은 물에 잠겼다. 아무도 이렇게 이른 시기에 그럴 줄은 몰랐다.",
    "ar": "ارتفع النهر في الليل، وفي الصباح كانت الحقول المنخفضة تحت الماء. لم يتوقع أحد ذلك في وقت مبكر من السنة.",
}


class TestTokens:
    @pytest.mark.parametrize("language", PARAGRAPHS)
    def test_prose_is_within_15_percent_of_a_real_tokenizer(self, language: str) -> None:
        text = PARAGRAPHS[language] * 5
        assert estimate_tokens(text) == pytest.approx(len(_cl100k().encode(text)), rel=0.15)

    def test_code_is_within_15_percent_of_a_real_tokenizer(self) -> None:
        encoding = _cl100k()
        texts = [path.read_text() for path in sorted((Path(__file__).parents[2] / "gateway").glob("*.py"))]
        real = sum(len(encoding.encode(text, disallowed_special=())) for text in texts)
        assert sum(map(estimate_tokens, texts)) == pytest.approx(real, rel=0.15)

    def test_edges(self) -> None:
        assert estimate_tokens("") == 0
        assert estimate_tokens("\n") == 1
        assert estimate_tokens("\ud800") >= 1

    def test_a_long_text_is_sampled_evenly(self) -> None:
        text = (PARAGRAPHS["en"] * (WHOLE // 100))[: WHOLE + 1]
        exact = estimate_tokens(text[: WHOLE // 2]) + estimate_tokens(text[WHOLE // 2 :])
        assert estimate_tokens(text) == pytest.approx(exact, rel=0.02)
        half_code = PARAGRAPHS["zh"] * 8_000 + PARAGRAPHS["en"] * 3_000
        parts = estimate_tokens(PARAGRAPHS["zh"]) * 8_000 + estimate_tokens(PARAGRAPHS["en"]) * 3_000
        assert estimate_tokens(half_code) == pytest.approx(parts, rel=0.1)


RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "text", "role", "content", "function", "arguments", "input_audio", "data", "x"]),
        inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name"]), RUBBISH, max_size=4)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(messages=st.lists(MESSAGE, max_size=4))
def test_rubbish_never_raises(messages: list[dict[str, Any]]) -> None:
    request = ChatRequest(id="r", model="auto", messages=messages, fields={})
    found = extract(request, Principal(key_id="k"), default_max_tokens=1)
    assert found.messages == len(messages)


@settings(deadline=None)
@given(text=st.text())
def test_any_text_is_read_twice_alike(text: str) -> None:
    assert features(text) == features(text)
    assert features(text).prompt_tokens >= 6


HOSTILE = [
    "a",
    "1 ",
    "4111 ",
    "@a.",
    "eyJ",
    "sk-",
    "password='",
    "AB12 ",
    "+0 ",
    "\n- ",
    "é",
    "-----BEGIN ",
    "(((",
    "GB29 ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_ten_mebibytes_of_anything_do_not_hold_the_loop(unit: str) -> None:
    text = unit * (10 * 1024 * 1024 // len(unit))
    begun = time.perf_counter()
    features(text)
    assert time.perf_counter() - begun < allowed(1.0)


def test_a_request_takes_microseconds() -> None:
    def quickest(content: str) -> float:
        times = []
        for _ in range(30):
            begun = time.perf_counter()
            features(content)
            times.append(time.perf_counter() - begun)
        return min(times)

    assert quickest("What is the capital of France?") < allowed(200e-6)
    assert quickest(PARAGRAPHS["en"] * 45) < allowed(1500e-6)
