"""`experiment:` in a policy: what is refused, with its line; who is in which arm; and when a run begins anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.config import DEFAULT_MODELS
from gateway.errors import ConfigError
from gateway.policy.compile import policy_hash
from gateway.policy.experiments import Declared, Reader, State, Stopped, read_folder, states_in, tag
from gateway.policy.inherit import inherited
from gateway.policy.loader import compile_documents
from gateway.policy.model import Policy
from gateway.policy.situation import identities
from gateway.pricing import PriceBook
from gateway.yamlfile import Document

CONTROL = """name: default
rules:
  - {name: all, use: [claude]}
"""
SAVER = """name: cost-saver
rules:
  - {name: all, use: [local-small]}
"""
BETTER = SAVER.replace("cost-saver", "better")
EXPERIMENT = """experiment:
  name: cheaper
  arms: {cost-saver: 0.2, better: 0.3}
  by: session
  stop: {cost: +20%, errors: +2%, quality: -0.05}
"""


def written(folder: Path, experiment: str = EXPERIMENT, **policies: str) -> Path:
    texts = {"default": CONTROL + experiment, "saver": SAVER, "better": BETTER} | policies
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def declared(folder: Path, experiment: str = EXPERIMENT, **policies: str) -> Declared:
    found = read_folder(written(folder, experiment, **policies))
    assert list(found) == ["default"]
    return found["default"]


def arm_of(experiment: Declared, session: str) -> str:
    return experiment.arm(experiment.draw(identities("r", session, "", "k")))


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("experiment", "line", "reason"),
        [
            (EXPERIMENT.replace("cost-saver", "cost-saber"), 6, "no policy is called 'cost-saber' (did you mean"),
            (EXPERIMENT.replace("arms", "arm"), 6, "unknown key 'arm' (did you mean 'arms'?)"),
            (EXPERIMENT.replace("cost-saver", "default"), 6, "'default' is the control"),
            (EXPERIMENT.replace("0.3", "0.8"), 6, "the shares come to 1 and leave nothing for the control"),
            (EXPERIMENT.replace("0.3", "0"), 6, "`float` > 0.0"),
            (EXPERIMENT.replace("session", "sessions"), 7, "sessions"),
            (EXPERIMENT.replace("cost:", "costs:"), 8, "unknown key 'costs' (did you mean 'cost'?)"),
            (EXPERIMENT.replace("+20%", "20"), 8, "`str"),
            (EXPERIMENT.replace("-0.05", "0.05"), 8, "quality: Expected `float` <"),
        ],
    )
    def test_with_its_line(self, tmp_path: Path, experiment: str, line: int, reason: str) -> None:
        with pytest.raises(ConfigError) as caught:
            declared(tmp_path, experiment)
        assert reason in str(caught.value)
        assert (Path(caught.value.file).name, caught.value.line) == ("default.yaml", line)

    def test_two_experiments_of_one_name(self, tmp_path: Path) -> None:
        other = BETTER + EXPERIMENT.replace("better: 0.3", "default: 0.3")
        with pytest.raises(ConfigError, match="'cheaper' is already defined in"):
            declared(tmp_path, better=other)

    def test_an_arm_may_stand_in_a_file_beside_the_one_that_is_checked(self, tmp_path: Path) -> None:
        folder = written(tmp_path)
        document = Document.read(folder / "default.yaml")
        prices, beside = PriceBook.load(DEFAULT_MODELS), sorted(folder.glob("*.yaml"))
        assert list(compile_documents([document], DEFAULT_MODELS, prices, beside=beside)) == ["default"]
        with pytest.raises(ConfigError, match="no policy is called 'cost-saver'"):
            compile_documents([document], DEFAULT_MODELS, prices)


class TestWhoIsInWhichArm:
    def test_the_shares_are_kept_and_a_session_stays(self, tmp_path: Path) -> None:
        experiment = declared(tmp_path)
        arms = [arm_of(experiment, f"s{n}") for n in range(4000)]
        assert [arm_of(experiment, f"s{n}") for n in range(4000)] == arms
        for name, share in {"cost-saver": 0.2, "better": 0.3, "default": 0.5}.items():
            assert arms.count(name) / 4000 == pytest.approx(share, abs=0.03)

    def test_a_growing_first_arm_keeps_whom_it_has(self, tmp_path: Path) -> None:
        one = "experiment: {name: cheaper, arms: {cost-saver: 0.1}}\n"
        small, large = declared(tmp_path, one), declared(tmp_path, one.replace("0.1", "0.4"))
        had = {f"s{n}" for n in range(500) if arm_of(small, f"s{n}") == "cost-saver"}
        assert had
        assert {arm_of(large, session) for session in had} == {"cost-saver"}

    def test_two_experiments_do_not_split_alike(self, tmp_path: Path) -> None:
        one = declared(tmp_path)
        other = declared(tmp_path, EXPERIMENT.replace("cheaper", "another"))
        in_both = sum(arm_of(one, f"s{n}") == arm_of(other, f"s{n}") == "default" for n in range(2000))
        assert in_both / 2000 == pytest.approx(0.25, abs=0.05)

    def test_what_a_stopped_arm_had_goes_to_the_control(self, tmp_path: Path) -> None:
        experiment = declared(tmp_path)
        lost = {"better": Stopped(at_ms=1, metric="cost", reason="costs more")}
        state = State(run=experiment.definition, stopped=lost)
        assert experiment.shares_now(state) == pytest.approx({"default": 0.8, "cost-saver": 0.2, "better": 0.0})
        assert not experiment.over(state)


class TestRuns:
    """What may be compared: nothing that was edited meanwhile."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"experiment": EXPERIMENT.replace("0.2", "0.25")},
            {"experiment": EXPERIMENT.replace("session", "user")},
            {"experiment": EXPERIMENT.replace("+20%", "+30%")},
            {"saver": SAVER.replace("local-small", "gpt-4o-mini")},
            {"default": CONTROL.replace("claude", "gpt-4o-mini") + EXPERIMENT},
        ],
        ids=["share", "identity", "rule", "an arm", "the control"],
    )
    def test_an_edit_begins_a_new_one_with_nothing_stopped(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        before = declared(tmp_path)
        stopped = {"cheaper": State(run=before.definition, stopped={"better": Stopped(at_ms=1, metric="m", reason="")})}
        assert before.state(stopped).stopped
        after = declared(tmp_path, **changes)
        assert after.definition != before.definition
        assert after.state(stopped) == State(run=after.definition)

    def test_another_policy_or_a_comment_does_not(self, tmp_path: Path) -> None:
        before = declared(tmp_path)
        after = declared(tmp_path, saver="# cheap\n" + SAVER, fourth=SAVER.replace("cost-saver", "fourth"))
        assert after.definition == before.definition

    def test_to_be_resumed_is_another_run(self, tmp_path: Path) -> None:
        experiment = declared(tmp_path)
        first, second = State(run=experiment.definition), State(run=experiment.definition, round=1)
        assert experiment.run(first) != experiment.run(second)
        assert (
            tag("cheaper", experiment.run(second), "better") == f"experiment:cheaper@{experiment.definition}.1/better"
        )

    def test_the_control_is_the_same_policy_with_and_without_it(self, tmp_path: Path) -> None:
        def control(experiment: str) -> Policy:
            folder = written(tmp_path, experiment)
            return inherited(map(Document.read, sorted(folder.glob("*.yaml"))))["default"].policy

        assert policy_hash(control(EXPERIMENT)) == policy_hash(control(""))

    def test_an_arm_that_extends_the_control_is_not_split_again(self, tmp_path: Path) -> None:
        assert declared(tmp_path, better="name: better\nextends: default\ncache: {ttl: 1h}\n").control == "default"


class TestReader:
    def test_reads_what_has_changed_and_keeps_the_last_good(self, tmp_path: Path) -> None:
        reader, path = Reader(), written(tmp_path) / "default.yaml"
        first = reader.read(tmp_path)["default"]
        assert reader.read(tmp_path)["default"] is first
        path.write_text(CONTROL + EXPERIMENT.replace("0.2", "oops"))
        assert reader.read(tmp_path)["default"] == first
        path.write_text(CONTROL)
        os.utime(path, ns=(1, 1))
        assert reader.read(tmp_path) == {}


def test_definitions_of_other_kinds_are_no_states() -> None:
    fields = {b"budget:b": b"{}", b"experiment:gone": b"", b"experiment:e": b'{"run":"r","round":2,"stopped":{}}'}
    assert states_in(fields) == {"e": State(run="r", round=2)}
