"""What following a policy promises: it takes over between two frames, nothing is forgotten over it, and a restart changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgecase_agent.by_policy import a_judge, rules_of
from edgecase_agent.frames import FrameMeta
from edgecase_agent.in_force import InForce
from edgecase_agent.judge import Judge
from edgecase_agent.orders import PolicyFile
from edgecase_agent.running import Model, RunningModel
from edgecase_agent.selection import Selection, SelectionState
from edgecase_agent.source import Frame, SourceState
from edgecase_agent.spool import Put, PutResult
from edgecase_agent.watch import Outcome, Shot, Watch, WatchOptions
from edgecase_agent.watch_status import read_selection
from edgecase_models.detector import Detector
from edgecase_models.policy import Policy, PolicyError
from support.clips import squares
from support.tiny_onnx import GOLDEN


def a_policy(name: str, frames_per_hour: float = 7200, **selection: Any) -> Policy:
    chosen = {"window_s": 1, "gap_s": 0.2, "audit_share": 0, "repeat_bits": -1} | selection
    content = {"selection": chosen | {"budget": {"frames_per_hour": frames_per_hour}}, "committee": {"share": 0}}
    return Policy.model_validate(content | {"name": name})


def make(policy: Policy, spent: SelectionState | None) -> Judge[Shot]:
    return a_judge(policy, Selection(rules_of(policy), spent, Shot.compact))


def a_model() -> Model:
    detector = Detector(GOLDEN)
    return Model(detector, "a" * 64, detector.names, detector.thresholds.score)


class Slot:
    def version(self) -> object:
        return "one"

    def load(self) -> Model:
        return a_model()


class Pictures:
    """Ten pictures a second."""

    name = "pictures"
    live = False
    state = SourceState.PLAYING

    def __init__(self, count: int, first: int = 0) -> None:
        self._indices = range(first, first + count)

    def close(self) -> None:
        self.state = SourceState.ENDED

    def __iter__(self) -> Iterator[Frame]:
        since = datetime(2026, 1, 1, tzinfo=UTC)
        for index in self._indices:
            yield Frame(squares(index), index, since + timedelta(seconds=index / 10), index)


class Collected:
    def __init__(self) -> None:
        self.frames: list[FrameMeta] = []

    def put(self, _jpeg: bytes, meta: FrameMeta) -> PutResult:
        self.frames.append(meta)
        return PutResult(Put.KEPT)


class Device:
    """A watch loop that follows `file`, and `own` without one."""

    def __init__(self, folder: Path, own: Policy, *, count: int = 100, first: int = 0) -> None:
        self.file = PolicyFile(folder / "policy")
        self.sink = Collected()

        def make(policy: Policy, spent: SelectionState | None) -> Judge[Shot]:
            rules = rules_of(policy)
            return a_judge(policy, Selection(rules, spent or read_selection(folder, rules), Shot.compact))

        self.in_force = InForce(own, make, self.file, poll_s=0)
        model = RunningModel(Slot(), poll_s=0)
        options = WatchOptions(status_every_s=0)
        self.watch = Watch(
            Pictures(count, first), model, self.in_force.start(), self.sink, folder, options, commander=self.in_force
        )

    def steps(self, count: int) -> None:
        assert [self.watch.step() for _ in range(count)] == [Outcome.LOOKED] * count

    def ends(self) -> None:
        while self.watch.step() is not Outcome.ENDED:
            pass
        self.watch.close()

    @property
    def kept(self) -> list[int]:
        return sorted(meta.frame_index for meta in self.sink.frames)


def lay_down(file: PolicyFile, content: bytes) -> None:
    part = file.part()
    part.write_bytes(content)
    file.lay_down(part)


def test_another_policy_takes_over_between_two_frames_and_the_window_is_not_lost(tmp_path: Path) -> None:
    own, other = a_policy("own", window_s=3600, leaders=1000), a_policy("other", min_score=1e9)
    device = Device(tmp_path, own)
    device.steps(50)
    assert device.kept == []
    lay_down(device.file, other.to_json())
    device.steps(1)
    assert device.watch.status.policy_digest == other.digest
    assert device.kept, "what the open window held was decided on by the policy that held it"
    before = device.kept
    device.ends()
    assert device.kept == before, "nothing is doubtful enough for the other policy"
    assert (device.watch.status.frames_seen, device.watch.status.frames_failed) == (100, 0)
    assert max(before) < 50


def test_what_was_spent_stays_spent_over_policies_and_restarts(tmp_path: Path) -> None:
    first = Device(tmp_path, a_policy("own", 1))
    first.steps(60)
    lay_down(first.file, a_policy("other", 1, gap_s=0.1).to_json())
    first.ends()
    again = Device(tmp_path, a_policy("own", 1), first=100)
    assert again.in_force.policy == a_policy("other", 1, gap_s=0.1)
    again.file.withdraw()
    again.ends()
    assert again.in_force.policy == a_policy("own", 1)
    assert (len(first.kept), len(again.kept)) == (1, 0)


def test_a_higher_budget_over_the_air_gives_what_is_left_of_it(tmp_path: Path) -> None:
    device = Device(tmp_path, a_policy("own", 1))
    device.steps(40)
    assert len(device.kept) == 1
    lay_down(device.file, a_policy("other", 3600).to_json())
    device.ends()
    assert len(device.kept) > 2


def test_the_last_accepted_policy_is_followed_from_the_first_frame_after_a_restart(tmp_path: Path) -> None:
    other = a_policy("other")
    lay_down(PolicyFile(tmp_path / "policy"), other.to_json())
    device = Device(tmp_path, a_policy("own"))
    assert device.in_force.policy == other
    device.steps(1)
    assert (device.watch.status.policy, device.watch.status.policy_failure) == ("other", "")
    device.watch.close()


@pytest.mark.parametrize("content", [b"", b"{", b'{"format":"edgecase-policy/2"}'])
def test_a_stored_policy_that_cannot_be_read_leaves_the_devices_own_and_says_why(
    tmp_path: Path, content: bytes
) -> None:
    lay_down(PolicyFile(tmp_path / "policy"), content)
    device = Device(tmp_path, a_policy("own"))
    device.steps(1)
    assert device.watch.status.policy == "own"
    assert "the policy over the air" in device.watch.status.policy_failure
    device.watch.close()


def test_own_settings_that_cannot_be_followed_stop_a_start_and_no_device_that_runs(tmp_path: Path) -> None:
    def only_others(policy: Policy, spent: SelectionState | None) -> Judge[Shot]:
        if policy.name == "own":
            raise PolicyError("committee.bundle is gone")
        return make(policy, spent)

    own, other, file = a_policy("own"), a_policy("other"), PolicyFile(tmp_path)
    with pytest.raises(PolicyError, match="is gone"):
        InForce(own, only_others, file, poll_s=0).start()
    lay_down(file, other.to_json())
    in_force = InForce(own, only_others, file, poll_s=0)
    in_force.start()
    assert (in_force.policy, in_force.failure) == (other, "")
    file.withdraw()
    assert in_force.poll()
    assert in_force.judge(None) is None
    assert in_force.policy == other
    assert "committee.bundle is gone" in in_force.failure


def test_the_disk_is_asked_once_in_a_while(tmp_path: Path) -> None:
    now_s = 0.0
    in_force = InForce(a_policy("own"), make, PolicyFile(tmp_path), poll_s=1, clock=lambda: now_s)
    in_force.start()
    lay_down(PolicyFile(tmp_path), a_policy("other").to_json())
    assert not in_force.poll()
    now_s = 1.0
    assert in_force.poll()
    assert not in_force.poll()
