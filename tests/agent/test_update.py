"""What the update promises: a newer genuine model runs; nothing else ever does, and no failure touches the model that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from edgecase_agent import update as module
from edgecase_agent.slots import Slots
from edgecase_agent.trust import Trust
from edgecase_agent.update import (
    Findings,
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
from edgecase_models.bundle import Bundle, sha256_of
from support.bundles import a_bundle, expecting_more, rewritten
from support.hub import Hub, running_hub


class Device:
    """A device with a first model, and its update loop; time is what the test says."""

    def __init__(self, folder: Path, hub: Hub, *, trial: module.Trial = try_bundle, max_bundle_bytes: int = 1 << 30):
        self.folder = folder
        self.hub = hub
        self.state = folder / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.slots = Slots(folder / "slots")
        self.seed = a_bundle(folder / "seed.tar", "seed")
        self.slots.start(self.seed.path)
        self.trust = Trust(folder / "trust", hub.url, hub.root, max_bundle_bytes=max_bundle_bytes)
        self.update = Update(self.slots, self.trust, self.state, trial, poll_s=60)
        self.now_s = 0.0

    def asks(self) -> module.Outcome:
        """What the loop comes to when it is due."""
        self.now_s += 1000
        return self.update.step(self.now_s)

    def runs(self) -> str:
        """The digest of the model that runs, held against its bytes."""
        active = self.slots.active()
        assert active is not None
        assert sha256_of(active.path) == active.digest
        Bundle.open(active.path).verify_golden()
        assert list(self.folder.glob("slots/*/*.part")) == []
        return active.digest


@pytest.fixture
def device(tmp_path: Path, hub: Hub) -> Device:
    return Device(tmp_path / "device", hub)


def new_bundle(tmp_path: Path, version: str, classes: tuple[str, ...] = ("red", "green")) -> Path:
    return a_bundle(tmp_path / f"{version}.tar", version, classes=classes).path


# ---- what is taken -------------------------------------------------------------------------------------------------


def test_a_release_is_fetched_tried_in_a_process_of_its_own_and_runs(tmp_path: Path, hub: Hub) -> None:
    device = Device(tmp_path / "device", hub, trial=trial_in_a_child)
    digest = hub.publish(new_bundle(tmp_path, "2"), 1)
    assert device.asks() == Switched(digest, 1)
    assert device.runs() == digest
    assert device.asks() == UpToDate("runs release 1")


def test_classes_may_be_added_at_the_end_but_none_may_go(tmp_path: Path, device: Device) -> None:
    new = new_bundle(tmp_path, "2")
    fewer = rewritten(device.seed.path, tmp_path / "fewer.tar", classes=["red"])
    more = rewritten(device.seed.path, tmp_path / "more.tar", classes=["red", "green", "blue"])
    assert try_bundle(new, fewer) == Findings(sha256_of(new))
    assert try_bundle(new, more).problem == "wrong classes: they must begin with red, green, blue, in this order"


def test_the_first_release_of_what_runs_already_only_raises_the_release(tmp_path: Path, device: Device) -> None:
    device.hub.publish(device.seed.path, 3)
    assert device.asks() == UpToDate("runs release 3")
    active = device.slots.active()
    assert active is not None
    assert (active.digest, active.release) == (device.seed.digest, 3)
    device.hub.publish(new_bundle(tmp_path, "older"), 2)
    assert device.asks() == UpToDate("release 2 is not above 3")


def test_nothing_released_yet_is_no_error(device: Device) -> None:
    assert device.asks() == UpToDate("nothing was released yet")


# ---- when ----------------------------------------------------------------------------------------------------------


def test_the_hub_is_asked_once_a_poll_and_at_once_after_a_poke(tmp_path: Path, device: Device) -> None:
    assert isinstance(device.update.step(0.0), UpToDate)
    assert device.update.step(1.0) == NotDue(59.0)
    digest = device.hub.publish(new_bundle(tmp_path, "2"), 1)
    asked = len(device.hub.requests)
    assert device.update.step(2.0) == NotDue(58.0)
    assert len(device.hub.requests) == asked
    note_poke(device.state, wire.Poke(release=1))
    assert device.update.step(3.0) == Switched(digest, 1)
    assert isinstance(device.update.step(4.0), NotDue), "a poke is followed once"


def test_a_hub_with_nothing_new_is_asked_in_two_requests(device: Device) -> None:
    device.asks()
    before = len(device.hub.requests)
    device.asks()
    assert device.hub.requests[before:] == ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"]


def test_an_unreachable_hub_is_asked_again_soon_and_changes_nothing(tmp_path: Path) -> None:
    with running_hub(tmp_path / "hub") as hub:
        device = Device(tmp_path / "device", hub)
        digest = hub.publish(new_bundle(tmp_path, "2"), 1)
        device.asks()
    outcome = device.asks()
    assert isinstance(outcome, Offline)
    assert "metadata" in outcome.why
    waiting = device.update.step(device.now_s)
    assert isinstance(waiting, NotDue)
    assert waiting.wait_s <= 2
    assert device.runs() == digest


def test_without_a_first_model_the_loop_waits_for_it(tmp_path: Path, hub: Hub) -> None:
    trust = Trust(tmp_path / "trust", hub.url, hub.root, max_bundle_bytes=1 << 30)
    update = Update(Slots(tmp_path / "none"), trust, tmp_path, try_bundle)
    assert update.step(0) == UpToDate("there is no first model yet")


# ---- what is refused -----------------------------------------------------------------------------------------------


def flipped(path: str, content: bytes) -> bytes:
    return content[:2000] + bytes([content[2000] ^ 1]) + content[2001:] if "/models/" in path else content


def longer(path: str, content: bytes) -> bytes:
    return content + b"x" if "/models/" in path else content


def shorter(path: str, content: bytes) -> bytes:
    return content[:-1] if "/models/" in path else content


@pytest.mark.parametrize("damage", [flipped, longer, shorter])
def test_a_bundle_changed_on_its_way_is_refused_and_taken_once_it_arrives_whole(
    tmp_path: Path, device: Device, damage: object
) -> None:
    digest = device.hub.publish(new_bundle(tmp_path, "2"), 1)
    whole, device.hub.damage = device.hub.damage, damage  # type: ignore[assignment]
    assert isinstance(device.asks(), Refused)
    assert device.runs() == device.seed.digest
    device.hub.damage = whole
    assert device.asks() == Switched(digest, 1)


def test_a_repository_rolled_back_to_an_older_state_is_refused(tmp_path: Path, device: Device) -> None:
    device.hub.publish(new_bundle(tmp_path, "2"), 1)
    device.asks()
    old = device.hub.copy()
    digest = device.hub.publish(new_bundle(tmp_path, "3"), 2)
    assert device.asks() == Switched(digest, 2)
    device.hub.restore(old)
    outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "BadVersionNumberError" in outcome.why
    assert device.runs() == digest


def test_a_lower_release_signed_anew_is_not_taken(tmp_path: Path, device: Device) -> None:
    newer = device.hub.publish(new_bundle(tmp_path, "2"), 5)
    device.asks()
    device.hub.publish(new_bundle(tmp_path, "1"), 4)
    assert device.asks() == UpToDate("release 4 is not above 5")
    assert device.runs() == newer


def test_expired_metadata_is_refused(tmp_path: Path, device: Device) -> None:
    device.hub.lifetime = timedelta(seconds=-10)
    device.hub.publish(new_bundle(tmp_path, "2"), 1)
    outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "ExpiredMetadataError" in outcome.why


def test_a_hub_with_other_keys_is_refused(tmp_path: Path, hub: Hub) -> None:
    with running_hub(tmp_path / "other") as other:
        hub.url = other.url
        device = Device(tmp_path / "device", hub)
        other.publish(new_bundle(tmp_path, "2"), 1)
        outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "UnsignedMetadataError" in outcome.why
    assert device.runs() == device.seed.digest


@pytest.mark.parametrize(
    "says",
    [
        {"release": 9},
        {"digest": "0" * 64},
        {"target": "models/tiny/unsigned.tar"},
        {"target": "../../etc/passwd"},
        {"release": "many"},
    ],
)
def test_a_channel_cannot_say_of_a_model_what_its_signature_does_not(
    tmp_path: Path, device: Device, says: dict[str, object]
) -> None:
    device.hub.publish(new_bundle(tmp_path, "2"), 1, **says)
    assert isinstance(device.asks(), Refused)
    assert device.runs() == device.seed.digest


def test_a_bundle_longer_than_this_device_allows_is_not_fetched(tmp_path: Path, hub: Hub) -> None:
    device = Device(tmp_path / "device", hub, max_bundle_bytes=1000)
    hub.publish(new_bundle(tmp_path, "2"), 1)
    outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "update.max_bundle_bytes" in outcome.why
    assert not any("models/" in path for path in hub.requests)


# ---- what is genuine and still must not run ------------------------------------------------------------------------


def test_wrong_classes_are_refused_and_the_digest_is_not_tried_again(tmp_path: Path, device: Device) -> None:
    device.hub.publish(new_bundle(tmp_path, "2", ("green", "red")), 1)
    outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "wrong classes: they must begin with red, green" in outcome.why
    fetched = sum("models/" in path for path in device.hub.requests)
    again = device.asks()
    assert isinstance(again, Refused)
    assert "failed here before" in again.why
    assert sum("models/" in path for path in device.hub.requests) == fetched
    assert device.runs() == device.seed.digest
    digest = device.hub.publish(new_bundle(tmp_path, "3"), 2)
    assert device.asks() == Switched(digest, 2)


def test_a_model_that_does_not_see_its_golden_picture_here_is_quarantined_until_a_higher_release(
    tmp_path: Path, hub: Hub
) -> None:
    device = Device(tmp_path / "device", hub, trial=trial_in_a_child)
    bad = rewritten(new_bundle(tmp_path, "2"), tmp_path / "bad.tar", golden=expecting_more)
    digest = hub.publish(bad, 1)
    outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "golden picture 0" in outcome.why
    assert json.loads((device.state / "quarantine.json").read_text())[digest]["release"] == 1
    again = Update(device.slots, device.trust, device.state, trial_in_a_child)
    assert isinstance(again.step(0), Refused), "a restart does not forget"
    hub.publish(bad, 2)
    assert "golden picture 0" in str(device.asks()), "a higher release is tried again"


def test_a_file_that_is_no_bundle_is_refused_although_it_is_signed(tmp_path: Path, device: Device) -> None:
    (tmp_path / "junk.tar").write_bytes(os.urandom(5000))
    device.hub.publish(tmp_path / "junk.tar", 1)
    outcome = device.asks()
    assert isinstance(outcome, Refused)
    assert "not a readable bundle" in outcome.why


@pytest.mark.parametrize(("ending", "problem"), [("kill -SEGV $$", "signal 11"), ("exit 3", "exit code 3")])
def test_a_model_that_takes_its_trial_down_is_a_problem_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, problem: str
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text(f"#!/bin/sh\n{ending}\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    assert problem in trial_in_a_child(tmp_path / "new.tar", tmp_path / "old.tar").problem


def test_a_trial_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = tmp_path / "python"
    endless.write_text("#!/bin/sh\nexec sleep 60\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    assert "did not end" in trial_in_a_child(tmp_path / "new.tar", tmp_path / "old.tar", timeout_s=0.2).problem


def test_a_fault_of_this_device_is_not_held_against_the_model(tmp_path: Path, device: Device) -> None:
    digest = device.hub.publish(new_bundle(tmp_path, "2"), 1)
    device.update._trial = lambda _part, _running: Findings(problem="the running bundle cannot be read", here=True)
    assert isinstance(device.asks(), Refused)
    device.update._trial = try_bundle
    assert device.asks() == Switched(digest, 1)


def test_nothing_is_fetched_while_the_running_model_is_damaged(tmp_path: Path, device: Device) -> None:
    device.hub.publish(new_bundle(tmp_path, "2"), 1)
    active = device.slots.active()
    assert active is not None
    os.truncate(active.path, 10)
    assert "restart the agent" in str(device.asks())
    assert not any("/models/" in path for path in device.hub.requests)


# ---- the disk ------------------------------------------------------------------------------------------------------


def test_every_damaged_file_of_the_trust_cache_is_fetched_again(tmp_path: Path, device: Device) -> None:
    device.hub.publish(new_bundle(tmp_path, "2"), 1)
    device.asks()
    for path in [path for path in (device.folder / "trust").rglob("*") if path.is_file() and not path.is_symlink()]:
        path.write_bytes(b"")
        assert device.asks() == UpToDate("runs release 1"), path


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler:
        while os.statvfs(disk).f_bavail:
            filler.write(bytes(4096))


def test_a_full_disk_is_reported_and_the_model_runs_on(tmp_path: Path, hub: Hub) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted, which only root may do")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        device = Device(disk / "device", hub)
        digest = hub.publish(new_bundle(tmp_path, "2"), 1)
        fill(disk)
        outcome = device.asks()
        assert isinstance(outcome, Offline)
        assert "disk is full" in outcome.why
        assert device.runs() == device.seed.digest
        (disk / "filler").unlink()
        assert device.asks() == Switched(digest, 1)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
