"""Where prices come from: the map's keys, what people write, and which of them holds on which day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import ModelConfig, PriceConfig, TierConfig, TiersConfig, load
from gateway.errors import ConfigError
from gateway.pricing import PriceBook, check
from gateway.pricing.diff import against_file, against_map
from gateway.pricing.price_map import PriceMap
from gateway.pricing.sheet import Sheet
from gateway.types import Usage

MINI = ModelConfig(name="mini", provider="openai", upstream_model="gpt-4o-mini")
TODAY = date(2026, 11, 22)


def ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def mapped(tmp_path: Path, **entries: Any) -> PriceMap:
    file = tmp_path / "map.json"
    file.write_bytes(msgspec.json.encode(entries))
    return PriceMap.read(file, "a map", date(2026, 1, 1))


def only(tmp_path: Path, **entry: Any) -> Sheet | None:
    price_map = mapped(tmp_path, m=entry)
    return price_map.sheet(price_map.named("m"))


class TestTheMap:
    def test_every_key_that_prices_a_token(self, tmp_path: Path) -> None:
        sheet = only(
            tmp_path,
            input_cost_per_token=1e-6,
            output_cost_per_token=2e-6,
            cache_read_input_token_cost=1e-7,
            cache_creation_input_token_cost=1.25e-6,
            cache_creation_input_token_cost_above_1hr=2e-6,
            cache_creation_input_token_cost_above_1hr_above_200k_tokens=4e-6,
            input_cost_per_token_above_200k_tokens=2e-6,
            input_cost_per_token_above_200k_tokens_priority=5e-6,
            input_cost_per_token_batches=5e-7,
            output_cost_per_token_flex=1e-6,
            input_cost_per_audio_token=3e-6,
            output_cost_per_audio_token=4e-6,
            input_cost_per_image_token=5e-6,
            output_cost_per_image_token=6e-6,
            output_cost_per_reasoning_token=7e-6,
            input_cost_per_request=0.005,
            max_tokens=5,
        )
        assert sheet is not None
        standard = {name: str(price.normalize()) for name, price in sheet.rates().items()}
        assert standard == {
            "input": "1",
            "cached_input": "0.1",
            "cache_write": "1.25",
            "cache_write_1h": "2",
            "audio_input": "3",
            "image_input": "5",
            "output": "2",
            "reasoning": "7",
            "audio_output": "4",
            "image_output": "6",
        }
        assert sheet.rates("", 200_000)["cache_write_1h"] == 4
        assert sheet.rates("priority", 200_000)["input"] == 5
        assert sheet.rates("batch")["input"] == Decimal("0.5")
        assert sheet.rates("flex")["output"] == 1
        assert (sheet.per_request, sheet.source, sheet.dated) == (Decimal("0.005"), "a map", date(2026, 1, 1))

    def test_steps_by_prompt_length(self, tmp_path: Path) -> None:
        steps = [
            {"input_cost_per_token": 5e-8, "output_cost_per_token": 4e-7, "range": [0, 256000.0]},
            {"input_cost_per_token": 2.5e-7, "output_cost_per_token": 2e-6, "range": [256000.0, 1000000.0]},
        ]
        sheet = only(tmp_path, tiered_pricing=steps)
        assert sheet is not None
        assert sheet.thresholds == (0, 256_000)
        assert (sheet.rates()["input"], sheet.rates("", 256_000)["output"]) == (Decimal("0.05"), Decimal(2))

    def test_a_price_for_half_a_call_is_none(self, tmp_path: Path) -> None:
        assert only(tmp_path, input_cost_per_token=1e-6) is None
        assert only(tmp_path, output_cost_per_token=1e-6) is None
        assert only(tmp_path, mode="chat") is None

    def test_seconds(self, tmp_path: Path) -> None:
        sheet = only(tmp_path, input_cost_per_second=0.0001, output_cost_per_second=0.0002)
        assert sheet is not None
        assert (sheet.per_second, sheet.rates()["input"]) == (Decimal("0.0003"), Decimal(0))

    def test_the_threshold_is_long_already_where_the_provider_says_so(self, tmp_path: Path) -> None:
        prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
        xai = only(tmp_path, **prices, litellm_provider="xai")
        other = only(tmp_path, **prices, litellm_provider="openai")
        assert xai is not None
        assert other is not None
        assert (xai.inclusive, other.inclusive) == (True, False)

    @pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-5.4", "gemini/gemini-2.5-flash", "dashscope/qwen-flash"])
    def test_the_installed_one_has_what_people_use(self, model: str) -> None:
        price_map = PriceMap.installed({})
        sheet = price_map.sheet(price_map.named(model))
        assert sheet is not None
        assert 0 < sheet.rates()["input"] < sheet.rates()["output"]

    def test_every_entry_of_the_installed_one_compiles_exactly(self) -> None:
        """A million tokens cost what the map says of one, times a million, to the last digit."""
        price_map = PriceMap.installed({})
        names = [name for index, name in enumerate(price_map.names) if index % 7 == 0]
        models = [ModelConfig(name=name, provider="litellm", upstream_model=name) for name in names]
        book, compared = PriceBook.load(models), 0
        for name in names:
            period = book.period(name)
            if period and not period.sheet.thresholds[1:] and not period.sheet.timed:
                cost = book.cost_nano(name, Usage(prompt_tokens=10**6)) - int(period.sheet.per_request * 10**9)
                assert cost == (period.sheet.rates()["input"] * 10**9).to_integral_value()
                compared += 1
        assert compared > 200


class TestWritten:
    def test_a_whole_price(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text(
            "models:\n"
            "  - name: m\n"
            "    provider: openai\n"
            "    price:\n"
            "      - {from: 2026-01-01, input: 3, output: 15}\n"
            "      - from: 2026-12-01\n"
            "        input: 2\n"
            "        output: 10\n"
            "        cache_write_1h: 4\n"
            "        per_request: 0.01\n"
            "        above: {200000: {input: 4, output: 15}}\n"
            "        tiers: {batch: {input: 1, output: 5, above: {200000: {input: 2}}}}\n"
        )
        book = PriceBook.load(load(file, {}).config.models)
        before, after = ms("2026-11-30T23:59:59.999"), ms("2026-12-01T00:00:00")
        used = Usage(prompt_tokens=1000, completion_tokens=100)
        assert book.cost_nano("m", used, before) == 4_500_000
        assert book.cost_nano("m", used, after) == 3_000_000 + 10_000_000
        long = Usage(prompt_tokens=200_001, tier="batch")
        assert book.cost_nano("m", long, after) == 200_001 * 2_000 + 10_000_000
        price = book.price("m", after)
        assert price is not None
        assert (price.input, price.source, price.date) == ("2", "gateway.yaml", "2026-12-01")

    @pytest.mark.parametrize(
        ("price", "told"),
        [
            ("{input: -1, output: 1}", "a price cannot be negative"),
            ("{input: 1, output: 1, above: {5: {input: -1}}}", "a price cannot be negative"),
            ("[{input: 1, output: 1}, {input: 2, output: 1}]", "two prices hold from the same day"),
            ("{input: 1, output: 1, tiers: {turbo: {input: 1}}}", r"unknown key 'turbo'"),
            ("{input: 1, output: 1, cachd_input: 1}", r"did you mean 'cached_input'"),
            ("{input: 1}", "output"),
        ],
    )
    def test_a_wrong_price_is_told_with_its_place(self, tmp_path: Path, price: str, told: str) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text(f"models:\n  - {{name: m, provider: openai, price: {price}}}\n")
        with pytest.raises(ConfigError, match=told) as caught:
            load(file, {})
        assert caught.value.line == 2

    def test_before_its_first_day_a_model_has_no_price(self) -> None:
        later = ModelConfig(name="m", provider="openai", price=PriceConfig(input=1, output=1, since=date(2027, 1, 1)))
        book = PriceBook.load([later], today=TODAY)
        assert book.price("m") is None
        assert check(book)[0].problems == ("no known price before 2027-01-01",)
        with pytest.raises(KeyError):
            book.worst_case_nano("m", 1, 1)
        assert book.price("m", ms("2027-01-01")) is not None

    def test_a_row_is_priced_at_its_time_across_all_sources(self, tmp_path: Path) -> None:
        file = tmp_path / "prices.yaml"
        file.write_text("prices:\n  - {model: gpt-4o-mini, from: 2026-06-01, input: 1, output: 1, source: june}\n")
        own = msgspec.structs.replace(MINI, price=PriceConfig(input=2, output=2, since=date(2026, 9, 1)))
        book = PriceBook.load([own], file)
        sources = {day: book.price("mini", ms(day)) for day in ("2026-05-31", "2026-06-01", "2026-08-31", "2026-09-01")}
        assert [price and price.source for price in sources.values()] == [
            "litellm 1.106.2",
            "prices.yaml (june)",
            "prices.yaml (june)",
            "gateway.yaml",
        ]

    def test_the_same_day_twice_in_prices_yaml(self, tmp_path: Path) -> None:
        row = "  - {model: m, from: 2026-06-01, input: 1, output: 1, source: june}\n"
        (tmp_path / "prices.yaml").write_text("prices:\n" + row + row)
        with pytest.raises(ConfigError, match=r"prices\.yaml:3.*two prices from 2026-06-01"):
            PriceBook.load([MINI], tmp_path / "prices.yaml")

    def test_a_price_by_the_second_is_bounded_by_the_timeout(self) -> None:
        model = ModelConfig(
            name="m", provider="openai", timeout=30, price=PriceConfig(input=0, output=0, per_second=0.01)
        )
        book = PriceBook.load([model])
        assert book.timed("m")
        assert book.worst_case_nano("m", 10**6, 10**6) == 300_000_000


def problems(model: ModelConfig, overrides: Path | None = None) -> str:
    return "; ".join(check(PriceBook.load([model], overrides, today=TODAY))[0].problems)


class TestCheck:
    def test_a_sound_price(self) -> None:
        assert problems(MINI) == ""
        assert problems(ModelConfig(name="l", local="smollm2", usd_per_hour=0.04)) == ""

    @pytest.mark.parametrize(
        ("price", "told"),
        [
            (PriceConfig(input=0.00000015, output=0.0000006), "is that the price of one"),
            (PriceConfig(input=5000, output=10), "input costs $5000 a million"),
            (PriceConfig(input=1.6, output=0.6), "input is $1.6, which litellm 1.106.2 has at $0.15"),
            (PriceConfig(input=0.15, output=0.6, cached_input=0.2), "a cached token costs more"),
            (
                PriceConfig(input=0.15, output=0.6, above={1000: TierConfig(input=0.1)}),
                "more than 1,000 tokens costs less",
            ),
            (
                PriceConfig(input=0.15, output=0.6, tiers=TiersConfig(batch=TierConfig(input=0.3))),
                "batch tier is dearer",
            ),
            (
                PriceConfig(input=0.15, output=0.6, tiers=TiersConfig(priority=TierConfig(input=0.1))),
                "priority tier is cheaper",
            ),
        ],
    )
    def test_absurd(self, price: PriceConfig, told: str) -> None:
        found = problems(msgspec.structs.replace(MINI, price=price))
        assert told in found

    def test_free_by_hearsay_but_not_by_ones_own_word(self) -> None:
        gemma = ModelConfig(name="g", provider="litellm", upstream_model="gemini/gemma-3-27b-it")
        assert "free, its source says" in problems(gemma)
        assert problems(msgspec.structs.replace(gemma, price=PriceConfig(input=0, output=0))) == ""

    def test_retired_and_stale(self) -> None:
        old = ModelConfig(name="d", provider="litellm", upstream_model="deepseek/deepseek-chat")
        assert "retired this model on 2026-07-24" in problems(old)
        later = check(PriceBook.load([MINI], today=date(2027, 6, 1)))[0]
        assert later.problems == ("the price is 223 days old",)

    def test_off_peak_prices_are_not_applied_and_that_is_said(self) -> None:
        model = ModelConfig(name="d", provider="litellm", upstream_model="deepseek-flash")
        assert "cheaper off peak" in problems(model)

    def test_an_override_older_than_the_map_that_says_otherwise(self, tmp_path: Path) -> None:
        file = tmp_path / "prices.yaml"
        row = "  - {model: gpt-4o-mini, from: 2026-09-01, input: 0.2, output: 0.6, source: a page}\n"
        file.write_text("prices:\n" + row + "litellm: {1.106.2: 2026-10-21}\n")
        assert "prices.yaml (a page) of 2026-09-01 differs from litellm 1.106.2 of 2026-10-21" in problems(MINI, file)


class TestDiff:
    def test_what_is_written_against_the_map(self) -> None:
        own = msgspec.structs.replace(MINI, price=PriceConfig(input=0.3, output=0.6))
        found = {one.what: (one.ours, one.theirs, one.change) for one in against_map([own])}
        assert found["input"] == ("0.3", "0.15", "-50%")
        assert found["cached_input"] == (None, "0.075", "new")
        assert "output" not in found
        assert against_map([MINI]) == []

    def test_another_map(self, tmp_path: Path) -> None:
        installed = PriceMap.installed({}).named("gpt-4o-mini")
        entry = {**installed, "input_cost_per_token": Decimal("0.0000030")}
        entry.pop("cache_read_input_token_cost")
        file = tmp_path / "new.json"
        file.write_bytes(msgspec.json.Encoder(decimal_format="number").encode({"gpt-4o-mini": entry}))
        found = {one.what: (one.ours, one.theirs, one.change) for one in against_file([MINI], file)}
        assert found == {"input": ("0.15", "3", "× 20"), "cached_input": ("0.075", None, "gone")}
        everything = against_file([], file, everything=True)
        assert {"gpt-4o", "gpt-4o-mini"} <= {one.upstream for one in everything}

    def test_no_map(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("[]")
        with pytest.raises(ConfigError, match="not a price map"):
            against_file([MINI], tmp_path / "x.json")
