"""The price book: where a price comes from, and what calls cost to the nano-dollar."""

from __future__ import annotations

import ast
import subprocess
import sys
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import pricing
from gateway.config import DEFAULT_MODELS, ModelConfig, PriceConfig
from gateway.errors import ConfigError
from gateway.pricing import PriceBook, check
from gateway.types import Usage

OWN = ModelConfig(
    name="big",
    provider="openai_compatible",
    base_url="http://h/v1",
    upstream_model="gpt-4o",
    price=PriceConfig(input=2.5, output=10, cached_input=1.25, cache_write=3.125),
)
MINI = ModelConfig(name="gpt-4o-mini", provider="openai")
LOCAL = ModelConfig(name="local-small", local="smollm2-135m-instruct", usd_per_hour=0.04, timeout=60)
TODAY = date(2026, 11, 22)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.load([OWN, LOCAL, *DEFAULT_MODELS[1:]], today=TODAY)


@pytest.fixture
def overrides(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "prices:\n"
        "  - {model: gpt-4o-mini, from: 2026-01-01, input: 0.3, output: 1.2, source: january}\n"
        "  - {model: gpt-4o-mini, from: 2026-11-01, input: 0.1, output: 0.4, cached_input: 0.01, source: november}\n"
        "  - {model: gpt-4o-mini, from: 2027-01-01, input: 9, output: 9, source: the future}\n"
        "  - {model: gpt-4o, from: 2026-11-01, input: 7, output: 7, source: november}\n"
        "litellm: {}\n"
    )
    return path


class TestProvenance:
    def test_the_wheels_map(self, book: PriceBook) -> None:
        price = book.price("gpt-4o-mini")
        assert price is not None
        assert (price.input, price.output, price.cached_input) == ("0.15", "0.6", "0.075")
        assert (price.source, price.date) == ("litellm 1.106.2", "2026-10-21")

    def test_a_providers_prefix(self, book: PriceBook) -> None:
        price = book.price("claude")
        assert price is not None
        assert (price.input, price.output, price.cached_input, price.cache_write) == ("3", "15", "0.3", "3.75")

    def test_a_prefix_of_another_provider_is_not_taken_for_the_model(self) -> None:
        wrong = ModelConfig(name="x", provider="litellm", upstream_model="nosuch/gpt-4o")
        assert PriceBook.load([wrong]).price("x") is None

    def test_what_the_operator_wrote_comes_first(self, overrides: Path) -> None:
        own = PriceBook.load([OWN], overrides, today=TODAY).price("big")
        assert own is not None
        assert (own.input, own.source, own.date) == ("2.5", "gateway.yaml", "")

    def test_then_the_newest_override_whose_day_has_come(self, overrides: Path) -> None:
        price = PriceBook.load([MINI], overrides, today=TODAY).price("gpt-4o-mini")
        assert price is not None
        assert (price.input, price.cached_input, price.source) == ("0.1", "0.01", "prices.yaml (november)")
        assert price.date == "2026-11-01"
        earlier = PriceBook.load([MINI], overrides, today=date(2026, 10, 31)).price("gpt-4o-mini")
        assert earlier is not None
        assert (earlier.input, earlier.cached_input) == ("0.3", "0.3")

    def test_a_server_of_ones_own_is_not_priced_by_the_name_of_its_model(self) -> None:
        mine = ModelConfig(name="mine", provider="openai_compatible", base_url="http://h", upstream_model="gpt-4o")
        found = PriceBook.load([mine])
        assert found.price("mine") is None
        assert found.context("mine") is None

    def test_unknown_is_not_free_and_free_is_not_unknown(self) -> None:
        free = ModelConfig(name="free", provider="openai", price=PriceConfig(input=0, output=0))
        unknown = ModelConfig(name="no-such-model", provider="openai")
        found = PriceBook.load([free, unknown])
        assert found.price("free") is not None
        assert found.cost_nano("free", Usage(prompt_tokens=10, completion_tokens=10)) == 0
        assert found.price("no-such-model") is None
        with pytest.raises(KeyError):
            found.cost_nano("no-such-model", Usage())
        with pytest.raises(KeyError):
            found.worst_case_nano("never-configured", 1, 1)
        assert found.baseline_nano("no-such-model", Usage()) is None

    def test_a_wrong_file_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "prices.yaml"
        path.write_text("prices:\n  - {model: a, from: 2026-01-01, input: 1, outptu: 2, source: x}\n")
        with pytest.raises(ConfigError, match=r"prices\.yaml:2.*unknown key 'outptu' \(did you mean 'output'\?\)"):
            PriceBook.load([MINI], path)

    def test_check_tells_age_and_problems(self, overrides: Path) -> None:
        unknown = ModelConfig(name="no-such-model", provider="openai")
        rows = {row.model: row for row in check(PriceBook.load([MINI, unknown, LOCAL], overrides, today=TODAY))}
        assert rows["gpt-4o-mini"].age_days == 21
        assert rows["gpt-4o-mini"].problems == ()
        assert rows["no-such-model"].problems == ("no known price",)
        assert rows["local-small"].price is not None
        assert rows["local-small"].price.usd_per_hour == "0.04"
        later = check(PriceBook.load([MINI], overrides, today=date(2027, 6, 1)))[0]
        assert "the price is 151 days old" in later.problems

    def test_without_the_wheel_there_is_no_map(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert PriceBook.load([MINI]).price("gpt-4o-mini") is None


class TestCapabilities:
    def test_from_the_map(self, book: PriceBook) -> None:
        assert book.context("gpt-4o-mini") == 128_000
        assert book.supports("gpt-4o-mini") == {"tools", "vision", "json"}

    def test_from_the_configuration(self) -> None:
        model = ModelConfig(name="gpt-4o", provider="openai", context=4000, supports=("json",))
        found = PriceBook.load([model])
        assert found.context("gpt-4o") == 4000
        assert found.supports("gpt-4o") == {"json"}

    def test_a_local_model_has_none_unless_it_says_so(self, book: PriceBook) -> None:
        assert book.supports("local-small") == set()
        assert book.context("local-small") == 8192

    def test_a_hosted_model_nobody_knows_may_do_all(self, book: PriceBook) -> None:
        assert book.supports("big") == {"tools", "vision", "json", "audio"}
        assert book.context("nobody") is None


class TestCost:
    @pytest.mark.parametrize(
        ("usage", "nano"),
        [
            (Usage(prompt_tokens=1000, completion_tokens=500), 7_500_000),
            (Usage(prompt_tokens=1000, completion_tokens=500, cached_tokens=400), 7_000_000),
            (Usage(prompt_tokens=1000, completion_tokens=0, cache_write_tokens=1000), 3_125_000),
            (Usage(prompt_tokens=100, completion_tokens=1, cached_tokens=60, cache_write_tokens=30), 203_750),
            (Usage(prompt_tokens=10, completion_tokens=10, reasoning_tokens=8), 125_000),
            (Usage(prompt_tokens=10, cached_tokens=50), 62_500),
            (Usage(), 0),
        ],
    )
    def test_by_hand(self, book: PriceBook, usage: Usage, nano: int) -> None:
        assert book.cost_nano("big", usage) == nano

    @pytest.mark.parametrize(("tokens", "nano"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
    def test_half_a_nano_dollar_goes_to_the_even_one(self, tokens: int, nano: int) -> None:
        half = ModelConfig(name="half", provider="openai", price=PriceConfig(input=0.0005, output=0))
        assert PriceBook.load([half]).cost_nano("half", Usage(prompt_tokens=tokens)) == nano

    def test_a_local_model_costs_its_busy_time(self, book: PriceBook) -> None:
        used = Usage(prompt_tokens=9999, completion_tokens=9999, busy_s=1.5)
        assert book.cost_nano("local-small", used) == 16_667  # 1.5 s × $0.04 / 3600 s
        assert book.cost_nano("local-small", Usage(busy_s=3600.0)) == 40_000_000
        assert book.cost_nano("local-small", Usage(prompt_tokens=5)) == 0
        assert book.cost_nano("local-small", Usage(busy_s=-1.0)) == 0

    def test_the_time_a_hosted_model_takes_is_free(self, book: PriceBook) -> None:
        assert book.cost_nano("big", Usage(prompt_tokens=1000, busy_s=99.0)) == 2_500_000

    def test_the_baseline(self, book: PriceBook) -> None:
        used = Usage(prompt_tokens=1000, completion_tokens=1000, busy_s=2.0)
        assert book.baseline_nano("gpt-4o-mini", used) == 750_000
        assert book.baseline_nano("nobody", used) is None


class TestWorstCase:
    def test_every_token_at_the_dearest_input_price(self, book: PriceBook) -> None:
        assert book.worst_case_nano("big", 1000, 100) == 1000 * 3_125 + 100 * 10_000

    def test_a_local_model_is_bounded_by_its_timeout(self, book: PriceBook) -> None:
        second = Decimal("0.04") * 10**9 / 3600
        assert book.worst_case_nano("local-small", 0, 10) == (5 * second).to_integral_value("ROUND_CEILING")
        assert book.worst_case_nano("local-small", 10**6, 10**6) == (60 * second).to_integral_value("ROUND_CEILING")

    @given(prompt=st.integers(0, 10**6), cached=st.integers(0, 10**6), answer=st.integers(0, 10**5))
    def test_no_call_costs_more_than_was_reserved(self, prompt: int, cached: int, answer: int) -> None:
        used = Usage(prompt_tokens=prompt, completion_tokens=answer, cached_tokens=min(prompt, cached))
        assert BOOK.cost_nano("big", used) <= BOOK.worst_case_nano("big", prompt, answer)


BOOK = PriceBook.load([OWN])
_tokens = st.integers(0, 10**9)


@given(plain=_tokens, cached=_tokens, written=_tokens, answer=_tokens)
def test_a_cost_is_the_sum_of_its_parts_rounded_once(plain: int, cached: int, written: int, answer: int) -> None:
    total = BOOK.cost_nano(
        "big",
        Usage(
            prompt_tokens=plain + cached + written,
            cached_tokens=cached,
            cache_write_tokens=written,
            completion_tokens=answer,
        ),
    )
    assert type(total) is int
    exact = (
        plain * Decimal("2.5") + cached * Decimal("1.25") + written * Decimal("3.125") + answer * Decimal(10)
    ) * 1000
    assert total == exact.quantize(Decimal(1), ROUND_HALF_EVEN)


def test_no_float_is_computed_with() -> None:
    """Every number written in the package is an int or a Decimal, and nothing is made a float."""
    for file in Path(pricing.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text())
        floats = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is float]
        names = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "float"]
        assert (file.name, floats, names) == (file.name, [], [])


def test_litellm_is_not_imported() -> None:
    code = (
        "import sys\n"
        "from gateway.config import DEFAULT_MODELS\n"
        "from gateway.pricing import PriceBook\n"
        "assert PriceBook.load(DEFAULT_MODELS).price('gpt-4o-mini') is not None\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'litellm']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)
