"""Where an invoice and the books differ, why, and by how much.

Both sides are added up per day and model. Every difference has one cause and an amount, invoice − books; the amounts
add up to the difference of the totals exactly, in nano-dollars:

``missing_day``     a day with costs on one side and nothing at all on the other (``where`` it is missing)
``missing_model``   a model that one side does not have on a day on which it has others
``unknown_model``   billed, but no model of this gateway: somebody uses the account past it, or a name has changed
``double_charge``   the same line twice, or twice the requests and tokens there were
``price_change``    the same tokens at another price; days in a row with the same ratio are one difference
``usage``           other tokens than the books have: failed tries, traffic past the gateway, estimated rows
``amount``          another cost, where the invoice does not say for which tokens
``rounding``        no more than the invoice's own rounding can make
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import msgspec

from gateway.reconcile.invoice import Invoice, Line
from gateway.reconcile.names import plain
from gateway.types import NANO, Usage

Kind = Literal[
    "missing_day",
    "missing_model",
    "unknown_model",
    "double_charge",
    "price_change",
    "usage",
    "amount",
    "rounding",
]
Where = Literal["books", "invoice", ""]
Place = tuple[date, str]
Reprice = Callable[[str, Usage], int | None]
_RATIO = Decimal("0.0001")


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of one model on one day (UTC). ``estimated``: requests without reported usage.

    Not ``counted``: of some of it only what it cost, as of embeddings; its tokens are then not compared.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    estimated: int = 0
    counted: bool = True


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """``since`` to ``until``, both included. ``amount_nano`` is invoice − books."""

    kind: Kind
    since: date
    until: date
    model: str
    amount_nano: int
    invoice_nano: int
    books_nano: int
    invoice_tokens: int | None
    books_tokens: int
    where: Where = ""
    ratio: Decimal | None = None
    text: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """``invoice_nano`` − ``books_nano`` is the sum of all differences' amounts."""

    invoice_nano: int
    books_nano: int
    differences: tuple[Difference, ...]

    @property
    def wrong_nano(self) -> int:
        """The sum of what differs, either way, beyond rounding: what a tolerance is held against."""
        return sum(abs(one.amount_nano) for one in self.differences if one.kind != "rounding")


class _Cell:
    """One model on one day of the invoice."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    @property
    def stated(self) -> bool:
        return any(line.cost is not None for line in self.lines)

    @property
    def cost_nano(self) -> int:
        return _nano(line.cost for line in self.lines)

    @property
    def tokens(self) -> int | None:
        """Prompt and completion; None where no line says."""
        said = [line for line in self.lines if line.input_tokens is not None or line.output_tokens is not None]
        return sum((line.input_tokens or 0) + (line.output_tokens or 0) for line in said) if said else None

    @property
    def requests(self) -> int | None:
        said = [line.requests for line in self.lines if line.requests is not None]
        return sum(said) if said else None

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=sum(line.input_tokens or 0 for line in self.lines),
            cached_tokens=sum(line.cached_tokens or 0 for line in self.lines),
            completion_tokens=sum(line.output_tokens or 0 for line in self.lines),
        )

    def repeated(self) -> list[Line]:
        """Lines that stand there once more, cell for cell."""
        seen: Counter[tuple[str, ...]] = Counter()
        again = []
        for line in self.lines:
            if seen[line.cells]:
                again.append(line)
            seen[line.cells] += 1
        return again

    def without(self, lines: Sequence[Line]) -> _Cell:
        rest = _Cell()
        gone = list(lines)
        for line in self.lines:
            if line in gone:
                gone.remove(line)
            else:
                rest.lines.append(line)
        return rest


def reconcile(invoice: Invoice, books: Mapping[Place, Booked], known: Iterable[str], reprice: Reprice) -> Result:
    """Compare. ``books`` has the days and models that the invoice should have, by the names of :func:`plain`.

    ``known``: every model of this gateway, by the same names. ``reprice``: what tokens cost by the price book, for
    exports that state tokens alone; None where the model has no price.
    """
    cells: dict[Place, _Cell] = {}
    for line in invoice.lines:
        cells.setdefault((line.day, plain(line.model)), _Cell()).lines.append(line)
    books = {place: booked for place, booked in books.items() if booked.requests or booked.cost_nano}
    matcher = _Matcher(invoice, cells, books, frozenset(known), reprice)
    found = [one for place in sorted(cells.keys() | books.keys()) for one in matcher.compare(place)]
    return Result(
        invoice_nano=sum(matcher.invoiced(place) for place in cells),
        books_nano=sum(booked.cost_nano for booked in books.values()),
        differences=tuple(_in_a_row(found)),
    )


class _Matcher:
    def __init__(
        self,
        invoice: Invoice,
        cells: Mapping[Place, _Cell],
        books: Mapping[Place, Booked],
        known: frozenset[str],
        reprice: Reprice,
    ) -> None:
        self._invoice, self._cells, self._books = invoice, cells, books
        self._known, self._reprice = known | {model for _, model in books}, reprice
        self._days_in_books = {day for day, _ in books}
        self._days_in_invoice = {day for day, _ in cells}

    def invoiced(self, place: Place) -> int:
        """The invoice's cost of a model on a day; from the price book where it states tokens alone."""
        cell, booked = self._cells[place], self._books.get(place)
        if cell.stated:
            return cell.cost_nano
        billed = self._reprice(place[1], cell.usage)
        if billed is None:
            return booked.cost_nano if booked is not None else 0
        if booked is None or not booked.counted:
            return billed
        expected = self._reprice(place[1], _usage(booked)) or 0
        return booked.cost_nano + billed - expected

    def compare(self, place: Place) -> list[Difference]:
        cell, booked = self._cells.get(place), self._books.get(place)
        if cell is None or booked is None:
            return self._one_sided(place)
        again = cell.repeated()
        rest = cell.without(again)
        if again and self._nearer(rest, cell, booked):
            doubled = self._double(place, cell, rest, f"{len(again)} of its {len(cell.lines)} lines stand there twice")
            return [doubled, *self._two_sided(place, rest, self.invoiced(place) - doubled.amount_nano)]
        return self._two_sided(place, cell, self.invoiced(place))

    def _one_sided(self, place: Place) -> list[Difference]:
        day, model = place
        where: Where = "books" if place in self._cells else "invoice"
        days = self._days_in_books if where == "books" else self._days_in_invoice
        kind: Kind = "missing_model" if day in days else "missing_day"
        if where == "books" and model not in self._known:
            kind = "unknown_model"
        other = "the books" if where == "books" else "the invoice"
        text = {
            "missing_day": f"{other} has nothing at all on this day".replace("the books has", "the books have"),
            "missing_model": f"not in {other} on this day",
            "unknown_model": "billed, but no model of this gateway",
        }[kind]
        difference = self._difference(kind, place, self._cells.get(place), text=text, where=where)
        return [difference] if difference.invoice_nano or difference.books_nano or difference.invoice_tokens else []

    def _nearer(self, rest: _Cell, cell: _Cell, booked: Booked) -> bool:
        """Whether the books are closer to the lines without their repetitions."""
        if booked.counted and cell.tokens is not None and rest.tokens is not None:
            wanted = booked.input_tokens + booked.output_tokens
            return abs(rest.tokens - wanted) < abs(cell.tokens - wanted)
        return abs(rest.cost_nano - booked.cost_nano) < abs(cell.cost_nano - booked.cost_nano)

    def _double(self, place: Place, cell: _Cell, rest: _Cell, text: str) -> Difference:
        if cell.stated:
            amount = cell.cost_nano - rest.cost_nano
        else:
            amount = (self._reprice(place[1], cell.usage) or 0) - (self._reprice(place[1], rest.usage) or 0)
        return self._difference("double_charge", place, cell, amount=amount, text=text)

    def _two_sided(self, place: Place, cell: _Cell, invoiced: int) -> list[Difference]:
        """``cell`` without repeated lines; ``invoiced`` is what remains of its cost."""
        booked = self._books[place]
        amount = invoiced - booked.cost_nano
        tokens, wanted = cell.tokens if booked.counted else None, booked.input_tokens + booked.output_tokens
        if tokens is not None and tokens != wanted:
            times = _times(cell, booked)
            if times:
                return [self._difference("double_charge", place, cell, amount=amount, text=f"{times} times the usage")]
            text = f"{tokens - wanted:+,} tokens"
            if booked.estimated:
                text += f"; {booked.estimated} rows of the books are estimated"
            return [self._difference("usage", place, cell, amount=amount, text=text)]
        if not amount:
            return []
        if abs(amount) <= self._rounding(cell, booked):
            return [self._difference("rounding", place, cell, amount=amount, text="rounding")]
        ratio = Decimal(invoiced) / booked.cost_nano if booked.cost_nano else None
        if tokens is None:
            twice = ratio is not None and abs(ratio - 2) <= _RATIO
            text = "the invoice does not say for which tokens" if booked.counted else "the books have no tokens of it"
            kind: Kind = "double_charge" if twice else "amount"
            return [self._difference(kind, place, cell, amount=amount, ratio=ratio, text=text)]
        text = (
            f"the same tokens at {ratio:.4f} times the price" if ratio is not None else "a price where there was none"
        )
        return [self._difference("price_change", place, cell, amount=amount, ratio=ratio, text=text)]

    def _rounding(self, cell: _Cell, booked: Booked) -> int:
        """Half a step of the invoice a line, half a nano-dollar a row of the books."""
        return int(self._invoice.step * NANO / 2 * len(cell.lines)) + booked.requests

    def _difference(
        self,
        kind: Kind,
        place: Place,
        cell: _Cell | None,
        *,
        amount: int | None = None,
        text: str,
        where: Where = "",
        ratio: Decimal | None = None,
    ) -> Difference:
        booked = self._books.get(place, Booked())
        invoiced = self.invoiced(place) if place in self._cells else 0
        return Difference(
            kind=kind,
            since=place[0],
            until=place[0],
            model=place[1],
            amount_nano=invoiced - booked.cost_nano if amount is None else amount,
            invoice_nano=invoiced,
            books_nano=booked.cost_nano,
            invoice_tokens=cell.tokens if cell else 0,
            books_tokens=booked.input_tokens + booked.output_tokens,
            where=where,
            ratio=ratio,
            text=text,
        )


def _times(cell: _Cell, booked: Booked) -> int:
    """How many times the books' usage the invoice has, where that is a whole number above one; else 0."""
    wanted = booked.input_tokens + booked.output_tokens
    times, rest = divmod(cell.tokens or 0, wanted) if wanted else (0, 0)
    same = cell.requests is None or cell.requests == times * booked.requests
    return times if rest == 0 and times > 1 and same else 0


def _in_a_row(found: Sequence[Difference]) -> list[Difference]:
    """Price changes of one model at one ratio on consecutive days as one; by day, then model."""
    merged: list[Difference] = []
    last: dict[str, int] = {}
    for one in found:
        at = last.get(one.model)
        if one.kind == "price_change" and at is not None and _goes_on(merged[at], one):
            before = merged[at]
            sums = {
                name: getattr(before, name) + getattr(one, name)
                for name in ("amount_nano", "invoice_nano", "books_nano", "invoice_tokens", "books_tokens")
            }
            merged[at] = msgspec.structs.replace(before, until=one.until, **sums)
        else:
            last[one.model] = len(merged)
            merged.append(one)
    return merged


def _goes_on(before: Difference, now: Difference) -> bool:
    if before.kind != "price_change" or before.ratio is None or now.ratio is None:
        return False
    return now.since - before.until == timedelta(days=1) and abs(now.ratio - before.ratio) <= _RATIO


def _usage(booked: Booked) -> Usage:
    return Usage(
        prompt_tokens=booked.input_tokens, cached_tokens=booked.cached_tokens, completion_tokens=booked.output_tokens
    )


def _nano(costs: Iterable[Decimal | None]) -> int:
    total = sum((cost for cost in costs if cost is not None), Decimal(0))
    return int((total * NANO).quantize(Decimal(1), ROUND_HALF_EVEN))
