"""A request on its way through the engine: what it has drawn, where its tokens lie, what it has cost."""

from __future__ import annotations

import math
import time

import numpy as np

from local_models.chat.confidence import Tally
from local_models.chat.context import Logits, Tokens
from local_models.chat.model import Model
from local_models.chat.sampling import Drawer, log_normaliser
from local_models.chat.schedule import Lane
from local_models.chat.speculate import Acceptance, Lookup
from local_models.chat.stream import Delta, Finish, Stream, Timings, TokenLogprob
from local_models.chat.text import TextStream


class NotNumbers(RuntimeError):
    """A model computed infinities, or what is no number at all."""


class Task:
    """Owned by the engine's thread once it has been queued.

    `tokens` is the prompt and the answer so far; the first `computed` of them are in the KV cache as `sequence`. It may
    lose its sequence and go on later: everything else stays.
    """

    def __init__(self, stream: Stream, model: Model, limit: int, deadline: float) -> None:
        """`limit`: tokens the answer may have at most; `deadline`: by `time.perf_counter`, when to give up waiting."""
        generation = stream.generation
        self.stream, self.generation, self.limit, self.deadline = stream, generation, limit, deadline
        self.lane: Lane = generation.lane
        self.tokens: list[int] = list(generation.prompt)
        self.sequence, self.computed = -1, 0
        # Another task that is computing the beginning of this prompt, and how much of it they share.
        self.leader: Task | None = None
        self.shared = 0
        self.lookup: Lookup | None = None
        # The token that lookup would have drafted, whether or not that paid.
        self.guess: int | None = None
        self.acceptance = Acceptance()
        # Who answers for the draft under way: this answer's own lookup, or the draft model.
        self.judge = self.acceptance
        self.drawn = self.drafted = self.accepted = self.cached = 0
        self.busy, self.queued_at, self.started_at, self.first_at, self.last_at = (
            0.0,
            time.perf_counter(),
            0.0,
            0.0,
            0.0,
        )
        self._model, self._text, self._tally = model, TextStream(generation.stop), Tally()
        self._drawer: Drawer | None = None
        self._held: list[TokenLogprob] = []

    def start(self, sequence: int, computed: int, now: float) -> None:
        """It has a slot, and a sequence whose first `computed` tokens are its own. Raises GrammarRefused."""
        self.sequence, self.computed = sequence, computed
        if self._drawer is None:
            generation = self.generation
            # A grammar that is complete leaves nothing to draw but the end.
            endless = generation.ignore_eos and not generation.sampler.grammar
            self._drawer = Drawer(self._model, generation.sampler, self._model.ends if endless else frozenset())
            self.started_at, self.cached = now, computed

    @property
    def pending(self) -> int:
        """Tokens not computed yet; never none while it runs."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether what is pending is the last token it drew."""
        return self.drawn > 0 and self.pending == 1

    @property
    def left(self) -> int:
        """How many more tokens it may draw."""
        return self.limit - self.drawn

    def held(self) -> Tokens:
        """The tokens its sequence holds."""
        return np.asarray(self.tokens[: self.computed], np.int32)

    def draft(self, most: int) -> list[int]:
        """At most `most` tokens that may come next, if this answer repeats something."""
        if self.lookup is None:
            self.lookup = Lookup()
            self.lookup.extend(self.tokens)
        return self.lookup.draft(most)

    def draw(self, row: Logits) -> tuple[int, Delta | None]:
        """Draw the next token from its logits; the delta it makes, if there is text to send or an end.

        Raises NotNumbers, GrammarRefused.
        """
        assert self._drawer, "it has been started"
        best = int(row.argmax())
        # The arg-max of a row with a NaN is that NaN; llama.cpp's samplers end the process on it.
        if not math.isfinite(top := float(row[best])):
            raise NotNumbers("the model's logits are not numbers: its file is damaged, or its weights overflow here")
        token = self._drawer.draw(row, best)
        self.drawn += 1
        total = log_normaliser(row, top, self._model.scratch)
        self._tally.add(float(row[token]) - total, self._model.piece(token))
        ends = token in self._model.ends
        if self.generation.logprobs is not None and not ends:
            self._held.append(self._logprob(row, token, total, self.generation.logprobs))
        return token, self._delta(token, ends)

    def _delta(self, token: int, ends: bool) -> Delta | None:
        if ends:
            return self._end(self._text.rest(), "stop")
        self.tokens.append(token)
        if self.lookup:
            self.lookup.extend((token,))
        out = self._text.feed(self._model.piece(token))
        if self._text.stopped:
            return self._end(out, "stop")
        if self.drawn >= self.limit:
            return self._end(out + self._text.rest(), "length")
        return Delta(out, confidence=self._tally.so_far(), logprobs=self._reported()) if out else None

    def _end(self, text: str, finish: Finish) -> Delta:
        return Delta(text, finish, None, self._tally.so_far(), self._reported())

    def _reported(self) -> tuple[TokenLogprob, ...]:
        held, self._held = tuple(self._held), []
        return held

    def _logprob(self, row: Logits, token: int, total: float, count: int) -> TokenLogprob:
        ids = np.argpartition(row, -count)[-count:] if count else np.empty(0, np.int64)
        top = tuple(
            (self._model.piece(int(at), special=True), float(row[at]) - total) for at in ids[np.argsort(-row[ids])]
        )
        return TokenLogprob(self._model.piece(token, special=True), float(row[token]) - total, top)

    def timings(self, now: float) -> Timings:
        """The account of a finished request."""
        return Timings(
            prompt_n=len(self.generation.prompt) - self.cached,
            cache_n=self.cached,
            prompt_ms=(self.first_at - self.started_at) * 1e3,
            predicted_n=self.drawn,
            predicted_ms=(now - self.first_at) * 1e3,
            queue_ms=(self.started_at - self.queued_at) * 1e3,
            busy_seconds=self.busy,
            draft_n=self.drafted,
            draft_n_accepted=self.accepted,
        )

    def close(self) -> None:
        """Give back what it holds outside Python."""
        if self._drawer:
            self._drawer.close()
