"""What hosted embedders and cross-encoders cost, and where nobody has said."""

from __future__ import annotations

from pathlib import Path

from gateway.config import GatewayConfig, load
from gateway.pricing import PriceBook, check
from gateway.pricing.helpers import hosted_helpers
from gateway.types import Usage

OPENAI = "embedder: {url: 'https://api.openai.com/v1', model: text-embedding-3-small%s}"
ELSEWHERE = "embedder: {url: 'http://embeds.example/v1', model: text-embedding-3-small%s}"


def config(folder: Path, text: str) -> GatewayConfig:
    (folder / "gateway.yaml").write_text(text)
    return load(folder / "gateway.yaml", env={}).config


def book(folder: Path, text: str) -> PriceBook:
    found = config(folder, text)
    return PriceBook.load((), helpers=hosted_helpers(found))


def million(prices: PriceBook) -> int | None:
    period = prices.helper("embedder", prices.now_ms)
    return period.compiled.cost_nano(Usage(prompt_tokens=1_000_000)) if period else None


def test_openais_own_is_in_the_price_map(tmp_path: Path) -> None:
    prices = book(tmp_path, OPENAI % "")
    assert million(prices) == 20_000_000
    assert prices.paid("embedder")
    [checked] = check(prices)
    assert (checked.model, checked.upstream) == ("embedder", "text-embedding-3-small")
    assert checked.price is not None
    assert checked.price.source.startswith("litellm")


def test_what_is_written_comes_first(tmp_path: Path) -> None:
    assert million(book(tmp_path, OPENAI % ", price: {input: 0.5, per_request: 0.001}")) == 501_000_000


def test_elsewhere_a_name_says_nothing(tmp_path: Path) -> None:
    prices = book(tmp_path, ELSEWHERE % "")
    assert million(prices) is None
    assert not prices.paid("embedder")
    assert [each.problems for each in check(prices)] == [("no known price",)]


def test_free_is_to_be_said(tmp_path: Path) -> None:
    prices = book(tmp_path, ELSEWHERE % ", price: {input: 0}")
    assert (million(prices), prices.paid("embedder")) == (0, False)
    assert [each.problems for each in check(prices)] == [()]


def test_what_runs_here_or_not_at_all_has_no_price(tmp_path: Path) -> None:
    assert hosted_helpers(config(tmp_path, "{}")) == {}
    assert hosted_helpers(config(tmp_path, OPENAI % ", enabled: false")) == {}
    both = "cache: {cross_encoder: {model: m, url: 'http://r/v1', price: {input: 1}}}"
    assert list(hosted_helpers(config(tmp_path, both))) == ["cross_encoder"]
