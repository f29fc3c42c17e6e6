"""A second model that drafts: the text is the first one's own whatever is drafted; it rests when it does not pay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from local_models import prune
from local_models.chat.build import Wanted, build
from local_models.chat.drafting import Drafter, check_vocabulary
from local_models.chat.engine import Engine
from local_models.chat.metrics import Metrics
from local_models.chat.model import LoadError
from local_models.chat.sampling import Sampler
from tests.support.engines import ask, read
from tests.support.models import chat_model

QUESTIONS = ["What is the capital of France?", "Name three colours.", "Write one sentence about the sea."]
WARM = Sampler(temperature=0.8, top_p=0.9, seed=4)


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The chat model, for which a copy without some of its layers drafts: often right, and often wrong."""
    small = prune.prune(chat_model(), tmp_path_factory.mktemp("draft") / "small.gguf", prune.layers("22-23"))
    made = build(Wanted(chat_model(), draft=small, context=2048, slots=4), Metrics())
    yield made
    made.close()


def steep(rows: int) -> float:
    """About what a step costs on two cores: the first row most."""
    return 1.0 + 0.2 * (rows - 1)


async def answers(made: Engine, speculative: bool) -> list[tuple[str, int, int]]:
    """Greedy and drawn, one after another and together: texts, drafted tokens, and those that came true."""
    more: dict[str, Any] = {"speculative": speculative}
    streams = [ask(made, text, **more) for text in QUESTIONS] + [ask(made, QUESTIONS[2], sampler=WARM, **more)]
    ended = [*await asyncio.gather(*map(read, streams)), await read(ask(made, QUESTIONS[2], 40, **more))]
    return [(text, last.timings.draft_n, last.timings.draft_n_accepted) for text, last in ended if last.timings]


async def test_a_drafted_answer_is_the_models_own(drafting: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Drafter, "worth", lambda *_: 3)
    drafted = await answers(drafting, speculative=True)
    plain = await answers(drafting, speculative=False)
    assert [text for text, *_ in drafted] == [text for text, *_ in plain]
    assert all(count for _, count, _ in drafted)
    assert not any(count for _, count, _ in plain)
    assert 0 < sum(right for *_, right in drafted) < sum(count for _, count, _ in drafted)


async def test_a_draft_model_slower_than_the_model_itself_rests(drafting: Engine) -> None:
    drafter = drafting._batching._drafter
    assert drafter is not None
    drafter._seconds = 10 * drafting._batching._cost.seconds(1)
    read_so_far = [held.size for held in drafter._held]
    await read(ask(drafting, QUESTIONS[2], 40, ignore_eos=True))
    assert [held.size for held in drafter._held] == read_so_far


async def test_a_draft_model_that_is_never_right_rests_and_is_tried_again_later(drafting: Engine) -> None:
    drafter = drafting._batching._drafter
    assert drafter is not None
    drafter._seconds = 0.0
    assert drafter.worth(1, 7, steep) > 0
    for _ in range(200):
        drafter.acceptance.record(0, 3)
    tries = [drafter.worth(1, 7, steep) for _ in range(300)]
    assert tries[0] == tries[100] == 0
    assert any(tries)


async def test_a_long_prompt_is_read_in_pieces_before_anything_is_drafted(drafting: Engine) -> None:
    drafter = drafting._batching._drafter
    assert drafter is not None
    tokens = drafting.model.tokenize("one two three four five six seven eight nine ten " * 20)
    assert drafter.draft(0, tokens, 3) == []
    while not (drafted := drafter.draft(0, tokens, 3)):
        pass
    assert len(drafted) == 3
    assert drafter.draft(0, [*tokens, *drafted[:2]], 1) == drafted[2:]


async def test_a_draft_model_out_of_room_forgets_and_reads_again(drafting: Engine) -> None:
    before = drafting._batching._drafter
    assert before is not None
    small = Drafter(before.model, 256, 2, 1)
    tokens = drafting.model.tokenize("one two three four five six seven eight nine ten " * 16)
    assert 128 < len(tokens) < 250
    for slot in (0, 1):
        for _ in range(8):
            drafted = small.draft(slot, tokens, 3)
        assert len(drafted) == 3
    small._context.close()


class Vocabulary:
    """As much of a model as tells its vocabulary."""

    def __init__(self, *pieces: str, end: int = 0) -> None:
        self.vocabulary, self.ends, self._pieces = len(pieces), frozenset([end]), pieces

    def piece(self, token: int, special: bool = False) -> bytes:
        return self._pieces[token].encode()


@pytest.mark.parametrize("other", [Vocabulary("a", "b"), Vocabulary("a", "c", "b"), Vocabulary("a", "b", "c", end=1)])
def test_a_model_of_another_vocabulary_cannot_draft(other: Vocabulary) -> None:
    mine = Vocabulary("a", "b", "c")
    check_vocabulary(mine, mine)  # type: ignore[arg-type]
    with pytest.raises(LoadError, match="another vocabulary"):
        check_vocabulary(mine, other)  # type: ignore[arg-type]
