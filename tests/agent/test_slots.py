"""What the slots promise: there is always a model that can run, whole and known, whatever is cut off or damaged."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgecase_agent.slots import SlotError, Slots
from edgecase_models.bundle import Bundle, sha256_of
from support.bundles import a_bundle, expecting_more, rewritten


@pytest.fixture
def seed(tmp_path: Path) -> Bundle:
    return a_bundle(tmp_path / "seed.tar")


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "slots")


def lay_down(slots: Slots, bundle: Bundle, release: int) -> None:
    part = slots.part()
    part.write_bytes(bundle.path.read_bytes())
    slots.switch(part, bundle.digest, release)


def test_the_first_start_seeds_from_the_configured_bundle(slots: Slots, seed: Bundle) -> None:
    assert slots.active() is None
    started = slots.start(seed.path)
    assert (started.digest, started.release) == (seed.digest, 0)
    assert started.path != seed.path
    assert Bundle.open(started.path).digest == seed.digest
    assert slots.active() == started == slots.start(seed.path)


def test_a_switch_runs_the_new_model_and_keeps_the_old_one_in_the_other_slot(
    slots: Slots, seed: Bundle, tmp_path: Path
) -> None:
    first = slots.start(seed.path)
    second = a_bundle(tmp_path / "2.tar", "2")
    lay_down(slots, second, 5)
    active = slots.start(seed.path)
    assert (active.digest, active.release, active.slot != first.slot) == (second.digest, 5, True)
    assert sha256_of(first.path) == seed.digest


def test_a_restart_without_the_seed_file_runs_what_is_active(slots: Slots, seed: Bundle) -> None:
    started = slots.start(seed.path)
    seed.path.unlink()
    assert slots.start(seed.path) == started


def test_a_bundle_placed_by_hand_takes_over_and_keeps_the_release(slots: Slots, seed: Bundle, tmp_path: Path) -> None:
    slots.start(seed.path)
    lay_down(slots, a_bundle(tmp_path / "2.tar", "2"), 5)
    by_hand = a_bundle(tmp_path / "hand.tar", "hand")
    active = slots.start(by_hand.path)
    assert (active.digest, active.release) == (by_hand.digest, 5)
    assert slots.start(by_hand.path) == active


def test_a_damaged_active_bundle_falls_back_to_what_ran_before_and_may_be_fetched_again(
    slots: Slots, seed: Bundle, tmp_path: Path
) -> None:
    slots.start(seed.path)
    lay_down(slots, a_bundle(tmp_path / "2.tar", "2"), 5)
    active = slots.active()
    assert active is not None
    os.truncate(active.path, 100)
    fallen = slots.start(seed.path)
    assert (fallen.digest, fallen.release) == (seed.digest, 4)


def test_a_model_that_cannot_be_loaded_gives_way_to_the_one_before_it(
    slots: Slots, seed: Bundle, tmp_path: Path
) -> None:
    first = slots.start(seed.path)
    lay_down(slots, a_bundle(tmp_path / "2.tar", "2"), 5)
    failed = slots.active()
    assert failed is not None
    back = slots.step_back(failed)
    assert back is not None
    assert (back.slot, back.digest) == (first.slot, seed.digest)
    assert slots.step_back(failed) == back, "another model is active by now"
    assert slots.step_back(back) is not None, "each can be gone back from as long as the other is whole"


def test_with_both_slots_damaged_the_seed_runs(slots: Slots, seed: Bundle, tmp_path: Path) -> None:
    slots.start(seed.path)
    lay_down(slots, a_bundle(tmp_path / "2.tar", "2"), 5)
    for path in (tmp_path / "slots").glob("*/bundle.tar"):
        path.write_bytes(b"")
    assert slots.start(seed.path).digest == seed.digest


def test_an_unreadable_record_starts_from_the_seed(slots: Slots, seed: Bundle, tmp_path: Path) -> None:
    slots.start(seed.path)
    (tmp_path / "slots" / "active.json").write_text("{")
    assert slots.active() is None
    assert slots.start(seed.path).digest == seed.digest


def test_the_release_only_rises(slots: Slots, seed: Bundle) -> None:
    slots.start(seed.path)
    for release, expected in ((3, 3), (2, 3), (4, 4)):
        slots.raise_release(release)
        active = slots.active()
        assert active is not None
        assert active.release == expected


def test_a_seed_that_cannot_run_is_one_clear_error_and_nothing_is_laid_down(
    slots: Slots, seed: Bundle, tmp_path: Path
) -> None:
    missing, corrupt = tmp_path / "none.tar", tmp_path / "corrupt.tar"
    corrupt.write_bytes(seed.path.read_bytes()[:3000])
    failing = rewritten(seed.path, tmp_path / "failing.tar", golden=expecting_more)
    for path, why in ((missing, "cannot be copied"), (corrupt, "not a readable bundle"), (failing, "golden picture 0")):
        with pytest.raises(SlotError) as caught:
            slots.start(path)
        assert why in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert slots.active() is None
    assert list((tmp_path / "slots").glob("*/*.part")) == []


SWITCHER = """
import sys, shutil
from pathlib import Path
from edgecase_agent.slots import Slots
slots = Slots(Path(sys.argv[1]))
bundles = [(Path(p), d) for p, d in zip(sys.argv[2::2], sys.argv[3::2])]
print("ready", flush=True)
release = slots.active().release
while True:
    release += 1
    path, digest = bundles[release % len(bundles)]
    part = slots.part()
    shutil.copyfile(path, part)
    slots.switch(part, digest, release)
"""


def test_a_kill_in_the_middle_of_a_switch_leaves_one_whole_model_that_runs(
    slots: Slots, seed: Bundle, tmp_path: Path
) -> None:
    slots.start(seed.path)
    bundles = [seed, a_bundle(tmp_path / "2.tar", "2"), a_bundle(tmp_path / "3.tar", "3")]
    arguments = [text for bundle in bundles for text in (str(bundle.path), bundle.digest)]
    chance = random.Random(3)
    released = 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", SWITCHER, str(tmp_path / "slots"), *arguments], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        threading.Event().wait(chance.uniform(0, 0.05))  # the random moment
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        active = slots.active()
        assert active is not None
        assert sha256_of(active.path) == active.digest in {bundle.digest for bundle in bundles}
        assert slots.start(seed.path).release == active.release >= released
        released = active.release
    assert released > 0
    assert json.loads((tmp_path / "slots" / "active.json").read_text())["seed_digest"] == seed.digest
