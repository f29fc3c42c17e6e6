"""Who computes what in the next step, with jobs and costs that are only numbers."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from local_models.chat.cost import StepCost
from local_models.chat.schedule import BATCH_STEP, LEAST_PIECE, PAUSE, Lane, Limits, Planner, Queue, victim

LINEAR = {1: 0.010, 101: 0.110}


class Job(msgspec.Struct, eq=False):
    lane: Lane = "interactive"
    pending: int = 1
    decoding: bool = True
    deadline: float = 1e9
    stream: object = msgspec.field(default_factory=object)


def prompt(tokens: int, lane: Lane = "interactive") -> Job:
    return Job(lane, tokens, decoding=False)


def planned(*jobs: Job, planner: Planner | None = None, batch: int = 256) -> dict[int, int]:
    taken = (planner or Planner(Limits(batch))).plan(jobs, StepCost(LINEAR))
    return {jobs.index(job): count for job, count in taken}


def test_a_long_prompt_beside_streams_is_cut_so_that_their_gap_stays_bounded() -> None:
    streams = [Job() for _ in range(8)]
    taken = planned(*streams, prompt(1500))
    cost = StepCost(LINEAR)
    assert [taken[at] for at in range(8)] == [1] * 8
    assert cost.seconds(sum(taken.values())) <= 2 * cost.seconds(8) + 1e-9
    assert taken[8] > 8


def test_a_prompt_alone_takes_the_whole_step() -> None:
    assert planned(prompt(1500)) == {0: 256}
    assert planned(prompt(1500), Job("batch"))[0] == 256


def test_a_short_question_overtakes_a_long_document_which_still_gets_on() -> None:
    taken = planned(prompt(5000), prompt(900), prompt(40))
    assert taken == {0: 128, 1: 88, 2: 40}


def test_the_batch_lane_sits_out_while_an_interactive_request_waits_for_its_first_token() -> None:
    planner = Planner(Limits(256))
    jobs = (prompt(10_000), Job("batch"), prompt(500, "batch"))
    steps = [planned(*jobs, planner=planner) for _ in range(PAUSE + 2)]
    assert all(step.keys() == {0} for step in steps[:PAUSE])
    assert steps[PAUSE].keys() == {0, 1}
    assert steps[PAUSE + 1].keys() == {0}


def test_batch_prompts_go_in_small_pieces_so_that_a_step_is_never_long() -> None:
    assert planned(prompt(5000, "batch"), Job("batch")) == {0: BATCH_STEP - 1, 1: 1}
    rows = [Job("batch") for _ in range(30)]
    assert planned(*rows, prompt(5000, "batch"))[30] == LEAST_PIECE


@given(
    st.lists(
        st.builds(Job, st.sampled_from(["interactive", "batch"]), st.integers(1, 3000), st.booleans()), max_size=40
    )
)
def test_a_step_is_never_larger_than_the_batch_and_never_empty(jobs: list[Job]) -> None:
    jobs = [Job(job.lane, 1, True) if job.decoding else job for job in jobs]
    taken = Planner(Limits(64)).plan(jobs, StepCost(LINEAR))
    assert sum(count for _, count in taken) <= 64
    assert all(0 < count <= job.pending for job, count in taken)
    assert bool(taken) == bool(jobs)


def test_lanes_take_turns_for_slots_and_batch_always_has_one_of_several() -> None:
    queue: Queue[Job] = Queue()
    batch, urgent = prompt(1, "batch"), prompt(1)
    queue.add(batch)
    queue.add(urgent)
    assert queue.peek(["batch"], 16) is urgent
    assert queue.peek([], 16) is batch
    assert queue.peek([], 2) is urgent
    queue.take(urgent)
    assert queue.peek(["batch"], 16) is batch


def test_who_lost_a_slot_comes_first_again_and_who_left_is_forgotten() -> None:
    queue: Queue[Job] = Queue()
    first, second = prompt(1), prompt(2)
    queue.add(first)
    queue.back(second)
    assert queue.peek([], 4) is second
    assert queue.remove(lambda job: job is second) == [second]
    assert (queue.peek([], 4), len(queue), queue.count("batch")) == (first, 1, 0)
    assert queue.forget("interactive", first.stream) is first
    assert queue.forget("interactive", first.stream) is None
    assert (queue.peek([], 4), len(queue)) == (None, 0)


def test_an_interactive_request_takes_the_slot_of_the_last_batch_job_but_not_the_only_one() -> None:
    old, new = Job("batch"), Job("batch")
    assert victim([old, Job(), new], 16, "interactive") is new
    assert victim([old, Job()], 16, "interactive") is None
    assert victim([old, Job()], 2, "interactive") is old
    assert victim([old, new], 16, "batch") is None


def test_the_cost_of_a_step_follows_the_machine_and_keeps_its_shape() -> None:
    cost = StepCost({1: 0.010, 16: 0.040, 64: 0.160})
    assert abs(cost.seconds(32) - 0.080) < 1e-9
    assert abs(cost.seconds(128) - 0.320) < 1e-9
    assert cost.within(0.04, 256) == 16
    assert cost.within(0.001, 256) == 0
    for _ in range(60):
        cost.observe(16, 0.080)
    assert 0.07 < cost.seconds(16) < 0.09
    assert 0.25 < cost.seconds(64) < 0.40
    before = cost.seconds(1)
    cost.observe(1, 1000.0)
    assert cost.seconds(1) < 1.5 * before
