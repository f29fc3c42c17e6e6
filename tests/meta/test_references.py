"""What a docstring refers to is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = re.compile(r":(?:mod|func|class|attr|meth|data|exc):`~?(?P<name>gateway[\w.]*)`")


def is_there(name: str) -> bool:
    """Whether the name leads to a module, and what follows to a word in it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        file = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
        if file.exists():
            text = file.read_text(encoding="utf-8")
            return all(re.search(rf"\b{word}\b", text) for word in parts[count:])
    return False


def test_a_name_that_is_gone_is_noticed() -> None:
    assert is_there("gateway.pricing.book.PriceBook.load")
    assert not is_there("gateway.pricing.book.PriceScroll")
    assert not is_there("gateway.pricing.scroll")


def test_docstrings_refer_to_what_is_there() -> None:
    files = sorted((ROOT / "gateway").rglob("*.py"))
    found = [(file, one["name"]) for file in files for one in REFERENCE.finditer(file.read_text(encoding="utf-8"))]
    assert found
    assert [(str(file.relative_to(ROOT)), name) for file, name in found if not is_there(name)] == []
