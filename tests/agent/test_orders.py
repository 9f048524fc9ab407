"""What a policy over the air promises: a genuine one that this device can follow is followed; nothing else ever is, and none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from edgecase_agent import update as module
from edgecase_agent.orders import Orders, PolicyFile, try_policy
from edgecase_agent.slots import Slots
from edgecase_agent.trust import Trust
from edgecase_agent.update import (
    Findings,
    Followed,
    NotDue,
    Offline,
    Refused,
    Switched,
    Update,
    UpToDate,
    note_poke,
    trial_in_a_child,
    try_bundle,
)
from edgecase_models import wire
from edgecase_models.policy import MAX_POLICY_BYTES, Policy
from support.bundles import a_bundle
from support.hub import Hub, running_hub


class Device:
    """A device with a model, which follows the hub's policies; time is what the test says."""

    def __init__(
        self, folder: Path, hub: Hub, *, cohorts: tuple[str, ...] = (), trial: module.Trial = try_policy
    ) -> None:
        self.hub = hub
        self.state = folder / "state"
        self.slots = Slots(folder / "slots")
        self.seed = a_bundle(folder / "seed.tar", "seed")
        self.slots.start(self.seed.path)
        self.file = PolicyFile(folder / "policy")
        self.trials = 0
        self._trial = trial
        trust = Trust(folder / "trust", hub.url, hub.root, max_bundle_bytes=1 << 30, cohorts=cohorts)
        self.update = Update(self.slots, trust, self.state, try_bundle, Orders(self.file, self._counted), poll_s=60)
        self.now_s = 0.0

    def _counted(self, part: Path, running: Path) -> Findings:
        self.trials += 1
        return self._trial(part, running)

    def asks(self) -> module.Outcome:
        """What asking for a policy comes to when the loop is due."""
        self.now_s += 1000
        self.update.step(self.now_s)
        return self.update.policy

    def follows(self) -> Policy | None:
        content = self.file.content()
        return None if content is None else Policy.from_json(content)


@pytest.fixture
def device(tmp_path: Path, hub: Hub) -> Device:
    return Device(tmp_path / "device", hub)


def night(frames_per_hour: int = 7) -> Policy:
    return Policy.model_validate(
        {
            "name": "night",
            "selection": {"budget": {"frames_per_hour": frames_per_hour}},
            "campaigns": [{"name": "dark", "when": "luma < 40", "quota_per_day": 3}],
        }
    )


def test_a_policy_is_fetched_tried_in_a_process_of_its_own_and_followed(tmp_path: Path, hub: Hub) -> None:
    trial = partial(trial_in_a_child, command="try-policy")
    device = Device(tmp_path / "device", hub, trial=trial)
    assert device.asks() == UpToDate("no policy was published")
    hub.publish_policy(night().to_json())
    assert device.asks() == Followed(night().digest)
    assert device.follows() == night()
    assert device.asks() == UpToDate(f"follows policy {night().digest[:12]}")
    assert device.trials == 1


def test_a_withdrawn_policy_is_followed_no_more(device: Device) -> None:
    device.hub.publish_policy(night().to_json())
    device.asks()
    device.hub.publish_policy(None)
    assert device.asks() == Followed("")
    assert device.follows() is None
    assert device.asks() == UpToDate("no policy was published")


def test_a_cohort_follows_its_own_policy_and_that_of_all_where_it_has_none(tmp_path: Path, hub: Hub) -> None:
    van, gate = (Device(tmp_path / name, hub, cohorts=(f"{name}-1", name)) for name in ("van", "gate"))
    hub.publish_policy(night(7).to_json())
    hub.publish_policy(night(9).to_json(), "van")
    for device, policy in ((van, night(9)), (gate, night(7))):
        assert device.asks() == Followed(policy.digest)
    hub.publish_policy(None, "van")
    assert van.asks() == Followed(night(7).digest)


def test_a_cohort_runs_the_model_of_its_own_channel(tmp_path: Path, hub: Hub) -> None:
    van, gate = (Device(tmp_path / name, hub, cohorts=(f"{name}-1", name)) for name in ("van", "gate"))
    first = hub.publish(a_bundle(tmp_path / "2.tar", "2").path, 1)
    second = hub.publish(a_bundle(tmp_path / "3.tar", "3").path, 2, cohort="van")
    for device, outcome in ((van, Switched(second, 2)), (gate, Switched(first, 1))):
        device.asks()
        assert device.update.last == outcome


def test_a_poke_for_a_policy_is_followed_at_once_and_once(device: Device) -> None:
    device.update.step(0.0)
    device.hub.publish_policy(night().to_json())
    note_poke(device.state, wire.Poke(release=0, policy=4))
    device.update.step(1.0)
    assert device.update.policy == Followed(night().digest)
    assert isinstance(device.update.step(2.0), NotDue)


def test_nothing_new_costs_two_requests_and_no_trial(device: Device) -> None:
    device.hub.publish_policy(night().to_json())
    device.asks()
    before = len(device.hub.requests)
    device.asks()
    assert device.hub.requests[before:] == ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"]


# ---- what is refused -----------------------------------------------------------------------------------------------


def flipped(path: str, content: bytes) -> bytes:
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:] if "targets/policies/" in path else content


def longer(path: str, content: bytes) -> bytes:
    return content + b" " if "targets/policies/" in path else content


def forged(path: str, content: bytes) -> bytes:
    return content.replace(b"policies/", b"policiez/") if path.endswith(".policies.json") else content


@pytest.mark.parametrize("damage", [flipped, longer, forged])
def test_a_policy_changed_on_its_way_is_refused_and_followed_once_it_arrives_whole(
    device: Device, damage: object
) -> None:
    device.hub.publish_policy(night(7).to_json())
    device.asks()
    device.hub.publish_policy(night(9).to_json())
    whole, device.hub.damage = device.hub.damage, damage  # type: ignore[assignment]
    assert isinstance(device.asks(), Refused)
    assert device.follows() == night(7)
    device.hub.damage = whole
    assert device.asks() == Followed(night(9).digest)


def test_an_older_policy_is_refused(device: Device) -> None:
    device.hub.publish_policy(night(7).to_json())
    device.asks()
    old = device.hub.copy()
    device.hub.publish_policy(night(9).to_json())
    assert device.asks() == Followed(night(9).digest)
    device.hub.restore(old)
    device.asks()
    assert isinstance(device.update.last, Refused)
    assert "BadVersionNumberError" in device.update.last.why
    assert device.follows() == night(9)


def test_a_hub_that_is_frozen_in_the_past_changes_nothing(device: Device) -> None:
    device.hub.publish_policy(night(7).to_json())
    device.asks()
    device.hub.lifetime = timedelta(seconds=-10)
    device.hub.publish_policy(night(9).to_json())
    device.asks()
    assert isinstance(device.update.last, Refused)
    assert "ExpiredMetadataError" in device.update.last.why
    assert device.follows() == night(7)


def test_a_policy_that_is_too_long_is_not_fetched(device: Device) -> None:
    device.hub.publish_policy(night().to_json().ljust(MAX_POLICY_BYTES + 1))
    outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "100,001 bytes, more than 100,000" in outcome.why
    assert not any("targets/policies/" in path for path in device.hub.requests)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"not json", "not valid JSON"),
        (night().to_json().replace(b"luma <", b"lumma <"), 'did you mean "luma"'),
        (b'{"selection":{"later":1}}', 'unknown key "selection.later"'),
        (b'{"selection":{"strategy":"novelty"}}', '"novelty" needs features'),
        (b'{"committee":{"bundle":"/etc/passwd"}}', "a file that no device has"),
        (b'{"committee":{"share":0.5},"selection":{"strategy":"margin"}}', "set committee.share = 0"),
    ],
)
def test_a_policy_that_this_device_cannot_follow_is_refused_with_its_reason_once(
    device: Device, content: bytes, problem: str
) -> None:
    device.hub.publish_policy(night().to_json())
    device.asks()
    device.hub.publish_policy(content)
    for _ in range(2):
        outcome = device.asks()
        assert isinstance(outcome, Refused)
        assert problem in outcome.why
        assert device.follows() == night()
    assert device.trials == 2, "what was refused is not tried again"


def test_what_a_device_could_not_follow_is_tried_again_with_another_model(tmp_path: Path, device: Device) -> None:
    device.hub.publish_policy(b'{"selection":{"strategy":"novelty"}}')
    device.asks()
    device.hub.publish(a_bundle(tmp_path / "2.tar", "2").path, 1)
    device.asks()
    assert device.trials == 2


def test_a_policy_that_cannot_be_believed_keeps_no_model_from_running(tmp_path: Path, device: Device) -> None:
    device.hub.publish_policy(b"x".ljust(MAX_POLICY_BYTES + 1))
    digest = device.hub.publish(a_bundle(tmp_path / "2.tar", "2").path, 1)
    assert isinstance(device.asks(), Refused)
    assert device.update.last == Switched(digest, 1)


def test_a_hub_that_breaks_off_changes_nothing_and_is_asked_again_soon(tmp_path: Path) -> None:
    with running_hub(tmp_path / "hub") as hub:
        device = Device(tmp_path / "device", hub)
        hub.publish_policy(night().to_json())
        device.asks()
        hub.publish_policy(night(9).to_json())
        next((hub.folder / "targets/policies").glob(f"{night(9).digest}.*")).unlink()
        assert isinstance(device.asks(), Offline)
        waiting = device.update.step(device.now_s)
        assert isinstance(waiting, NotDue)
        assert waiting.wait_s <= 2
    assert device.follows() == night()


# ---- a kill at any moment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["other", "withdrawn"])
def test_a_kill_at_any_moment_leaves_the_old_policy_or_the_new_one(tmp_path: Path, new: str) -> None:
    """The process is killed before its n-th change to the disk, for each n until it comes through."""
    script = """
import os, signal, sys
from pathlib import Path
from edgecase_agent.orders import Orders, PolicyFile
from edgecase_agent.slots import ActiveSlot
from edgecase_agent.update import Findings

class Offered:
    def policy(self):
        return Path(sys.argv[3]).read_bytes() if sys.argv[3] else None

def take(left):
    def killed(event, args):
        nonlocal left
        if event in ("os.rename", "os.remove") or (event == "open" and args[2] & (os.O_CREAT | os.O_DIRECTORY)):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
    sys.addaudithook(killed)
    Orders(file, lambda part, running: Findings("x")).take(Offered(), ActiveSlot("a", "0" * 64, 1, Path()))
    os._exit(0)

file = PolicyFile(Path(sys.argv[1]))
for n in range(20):
    part = file.part()
    part.write_bytes(Path(sys.argv[2]).read_bytes())
    file.lay_down(part)
    child = os.fork() or take(n)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, (file.content() or b"").decode())
    if code == 0:
        break
"""
    paths = {name: tmp_path / name for name in ("old", "other")}
    for name, policy in (("old", night(7)), ("other", night(9))):
        paths[name].write_bytes(policy.to_json())
    arguments = (str(tmp_path / "policy"), str(paths["old"]), str(paths.get(new, "")))
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    wanted = night(9).to_json().decode() if new == "other" else ""
    *killed, whole = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert whole == ["0", wanted]
    assert len(killed) >= 2
    assert {code for code, _ in killed} == {str(-signal.SIGKILL)}
    assert {content for _, content in killed} == {night(7).to_json().decode(), wanted}


def test_a_full_disk_leaves_the_policy_in_force(tmp_path: Path, hub: Hub) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted, which only root may do")
    device = Device(tmp_path / "device", hub)
    hub.publish_policy(night(7).to_json())
    device.asks()
    small = tmp_path / "device" / "policy"
    held = device.file.content()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=True)
    try:
        (small / "policy.json").write_bytes(held or b"")
        with (small / "filler").open("wb", buffering=0) as filler:
            while os.statvfs(small).f_bavail:
                filler.write(bytes(4096))
        hub.publish_policy(night(9).to_json())
        outcome = device.asks()
        assert isinstance(outcome, Offline)
        assert "disk is full" in outcome.why
        assert device.follows() == night(7)
        (small / "filler").unlink()
        assert device.asks() == Followed(night(9).digest)
    finally:
        subprocess.run(["umount", "-l", small], check=True)
