"""How the next token is drawn from a row of logits: llama.cpp's sampler chain, one per sequence.

Most rows never reach it. Greedy is an arg-max over the row where it lies; a chain that neither penalises nor biases is
given only the tokens that could be drawn at all, since building its table of the whole vocabulary takes longer than a
token of a small model. Under a grammar a token is drawn freely first and looked up in the grammar after: only where it
does not fit is the grammar asked about the others.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from local_models.chat.context import Logits
from local_models.chat.model import Model

# Tokens less likely than the likeliest by this factor's exponential are left out before drawing (e^-14 < 10^-6).
_NEGLIGIBLE = 14.0
_GRAMMAR_FIRST = 256
_PENALTY_WINDOW = 64


class Sampler(msgspec.Struct, frozen=True):
    """How a token is drawn. temperature 0 is greedy; neutral values (top_k 0, top_p 1 …) are left out of the chain."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    grammar: str = ""

    @property
    def plain(self) -> bool:
        """Whether the logits are drawn from as they are: nothing is penalised or biased."""
        return not self.penalises and not self.logit_bias

    @property
    def penalises(self) -> bool:
        """Whether a token's logit depends on those drawn before."""
        return self.repeat_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0


class GrammarRefused(ValueError):
    """llama.cpp cannot read the grammar."""


def check_grammar(model: Model, grammar: str) -> None:
    """Raise GrammarRefused where llama.cpp cannot read it."""
    made = model.llama.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not made:
        raise GrammarRefused("the grammar cannot be read")
    model.llama.llama_sampler_free(made)


class Drawer:
    """Draws one sequence's tokens. `draw` also accepts the token: penalties, grammar and random state move on."""

    def __init__(self, model: Model, how: Sampler, forbidden: frozenset[int] = frozenset()) -> None:
        """`forbidden` tokens are never drawn. Raises GrammarRefused."""
        self._llama, self._how = model.llama, how
        self._table = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._never, self._forbidden = forbidden, np.fromiter(forbidden, np.int64, len(forbidden))
        self._grammar: Any = self._new_grammar(model)
        self.greedy = how.temperature <= 0 and how.plain and not self._grammar
        self._chain: Any = None if self.greedy else self._new_chain(model)

    def _new_grammar(self, model: Model) -> Any:
        if not self._how.grammar:
            return None
        made = self._llama.llama_sampler_init_grammar(model.vocab, self._how.grammar.encode(), b"root")
        if not made:
            raise GrammarRefused("the grammar cannot be read")
        return made

    def _new_chain(self, model: Model) -> Any:
        llama, how = self._llama, self._how
        links = []
        if how.logit_bias:
            biases = (llama.llama_logit_bias * len(how.logit_bias))(*how.logit_bias)
            links.append(llama.llama_sampler_init_logit_bias(model.vocabulary, len(how.logit_bias), biases))
        if how.penalises:
            links.append(
                llama.llama_sampler_init_penalties(
                    model.vocabulary, _PENALTY_WINDOW, how.repeat_penalty, how.frequency_penalty, how.presence_penalty
                )
            )
        if how.temperature <= 0:
            links.append(llama.llama_sampler_init_greedy())
        else:
            links += [llama.llama_sampler_init_top_k(how.top_k)] if how.top_k > 0 else []
            links += [llama.llama_sampler_init_top_p(how.top_p, 1)] if how.top_p < 1 else []
            links += [llama.llama_sampler_init_min_p(how.min_p, 1)] if how.min_p > 0 else []
            links.append(llama.llama_sampler_init_temp(how.temperature))
            links.append(llama.llama_sampler_init_dist(how.seed))
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for link in links:
            llama.llama_sampler_chain_add(chain, link)
        return chain

    def draw(self, row: Logits, best: int) -> int:
        """The next token from logits [vocabulary]; `best` is the row's arg-max."""
        if self.greedy:
            return best if best not in self._never else int(self._open(row).argmax())
        token = self._pick(self._likely(row))
        if self._grammar and not self._fits(token):
            token = self._pick(self._allowed(row))
        self._llama.llama_sampler_accept(self._chain, token)
        if self._grammar:
            self._llama.llama_sampler_accept(self._grammar, token)
        return token

    def _open(self, row: Logits) -> Logits:
        if self._forbidden.size:
            row = row.copy()
            row[self._forbidden] = -math.inf
        return row

    def _likely(self, row: Logits) -> npt.NDArray[Any]:
        row = self._open(row)
        if not self._how.plain:
            return self._rows(row, np.arange(row.size))
        cut = row.max() - _NEGLIGIBLE * max(1.0, self._how.temperature)
        return self._rows(row, np.flatnonzero(row >= cut))

    def _allowed(self, row: Logits) -> npt.NDArray[Any]:
        """The tokens the grammar takes next: among the likeliest, or among all where none of those fits."""
        row = self._open(row)
        for count in (_GRAMMAR_FIRST, row.size):
            table = self._rows(row, np.argpartition(row, -count)[-count:])
            self._apply(self._grammar, table)
            fitting = table[table["logit"] > -math.inf]
            if fitting.size:
                return fitting
        raise GrammarRefused("no token of this model continues the grammar")

    def _fits(self, token: int) -> bool:
        table = np.zeros(1, self._table)
        table["id"] = token
        self._apply(self._grammar, table)
        return bool(table["logit"][0] > -math.inf)

    def _rows(self, row: Logits, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        table = np.zeros(ids.size, self._table)
        table["id"], table["logit"] = ids, row[ids]
        return table

    def _pick(self, table: npt.NDArray[Any]) -> int:
        array = self._apply(self._chain, table)
        return int(array.data[array.selected].id)

    def _apply(self, sampler: Any, table: npt.NDArray[Any]) -> Any:
        array = self._llama.llama_token_data_array()
        array.data = ctypes.cast(table.ctypes.data, ctypes.POINTER(self._llama.llama_token_data))
        array.size, array.selected, array.sorted = table.size, -1, False
        self._llama.llama_sampler_apply(sampler, ctypes.byref(array))
        return array

    def close(self) -> None:
        """Give the chain's memory back; safe to call again."""
        for sampler in filter(None, (self._chain, self._grammar)):
            self._llama.llama_sampler_free(sampler)
        self._chain = self._grammar = None


def log_normaliser(row: Logits, top: float, scratch: Logits) -> float:
    """log of the sum of the exponentials of logits [vocabulary] whose largest is `top`; `scratch` is overwritten."""
    np.subtract(row, np.float32(top), out=scratch)
    np.exp(scratch, out=scratch)
    return top + math.log(float(scratch.sum()))
