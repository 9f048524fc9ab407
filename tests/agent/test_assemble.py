"""What putting the loops together promises: the settings reach their parts, and there is a model that runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgecase_agent import assemble, status
from edgecase_agent.orders import PolicyFile
from edgecase_agent.settings import AgentSettings, load_settings
from edgecase_agent.slots import SlotError, Slots
from edgecase_agent.spool import Spool
from edgecase_agent.watch import Outcome
from edgecase_models import wire
from edgecase_models.bundle import Bundle
from edgecase_models.detector import Runtime
from edgecase_models.policy import Policy, PolicyError
from support.bundles import a_bundle
from support.identities import complete, self_made
from support.pictures import a_folder


@pytest.fixture
def seed(tmp_path: Path) -> Bundle:
    return a_bundle(tmp_path / "model.tar", "seed")


def configured(folder: Path, more: str = "", before: str = "") -> AgentSettings:
    (folder / "state").mkdir(exist_ok=True)
    path = folder / "agent.toml"
    path.write_text(
        f'data = "."\n{before}[source]\nuri = "pictures"\ncamera = "gate"\n[model]\nbundle = "model.tar"\n{more}'
    )
    return load_settings(path)


def test_a_whole_model_that_cannot_be_loaded_gives_way_to_the_one_before_it_and_is_set_apart(
    tmp_path: Path, seed: Bundle
) -> None:
    settings = configured(tmp_path)
    assemble.a_model(settings, Runtime()).close()
    slots = Slots(tmp_path / "slots")
    part = slots.part()
    part.write_bytes(b"this is no bundle")
    digest = hashlib.sha256(b"this is no bundle").hexdigest()
    slots.switch(part, digest, 7)
    model = assemble.a_model(settings, Runtime())
    assert model.current.digest == seed.digest
    model.close()
    assert json.loads((tmp_path / "state" / "quarantine.json").read_text())[digest]["release"] == 7


def test_without_any_model_that_runs_the_error_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match=r"model\.bundle .*model\.tar: cannot be copied"):
        assemble.a_model(configured(tmp_path), Runtime())


def test_novelty_is_refused_for_a_seed_without_features_and_left_for_a_release_without_them(
    tmp_path: Path, seed: Bundle
) -> None:
    a_folder(tmp_path / "pictures", 3)
    settings = configured(tmp_path, '[selection]\nstrategy = "novelty"\n')
    with Spool(tmp_path / "spool", 10_000_000, putting=True) as spool:
        with pytest.raises(
            PolicyError, match=f'"novelty" needs features, which model {seed.digest[:12]} does not .* --features'
        ):
            assemble.a_watch(settings, spool)
        slots = Slots(tmp_path / "slots")
        released = a_bundle(slots.part(), "released")
        slots.switch(slots.part(), released.digest, 7)
        watch = assemble.a_watch(settings, spool)
        assert [watch.step() for _ in range(3)] == [Outcome.LOOKED] * 3
        watch.close()
    assert (watch.status.running_digest, watch.status.strategy, watch.status.frames_failed) == (
        released.digest,
        "ede",
        0,
    )
    assert "novelty needs features" in watch.status.strategy_failure


def test_campaigns_for_the_enrolled_device_and_for_its_cohorts_reach_its_frames(tmp_path: Path, seed: Bundle) -> None:
    a_folder(tmp_path / "pictures", 5)
    complete(self_made(tmp_path / "cam-7"), "cam-7")
    table = '[[campaigns]]\nname = "{0}"\nwhen = "true"\nquota_per_day = 9\ncohort = ["{0}"]\n'
    campaigns = "".join(table.format(name) for name in ("cam-7", "vans", "cars"))
    settings = configured(
        tmp_path, f'[selection]\ntriggers = ["campaign"]\n{campaigns}', 'enrolment = "cam-7"\ncohorts = ["vans"]\n'
    )
    with Spool(tmp_path / "spool", 10_000_000, putting=True) as spool:
        watch = assemble.a_watch(settings, spool)
        while watch.step() is not Outcome.ENDED:
            pass
        watch.close()
        reasons = {reason.strategy for reason in spool.meta(spool.due(1, 0)[0]).reasons}
    assert {reason for reason in reasons if reason.startswith("campaign:")} == {"campaign:cam-7", "campaign:vans"}


def test_the_settings_reach_the_watch_and_its_frames_the_spool(tmp_path: Path, seed: Bundle) -> None:
    a_folder(tmp_path / "pictures", 20)
    settings = configured(
        tmp_path,
        "[selection]\nwindow_s = 1\ngap_s = 0\nrepeat_bits = -1\n[selection.budget]\nframes_per_hour = 3600\n[committee]\nshare = 1\n",
    )
    with Spool(tmp_path / "spool", 10_000_000, putting=True) as spool:
        watch = assemble.a_watch(settings, spool)
        while watch.step() is not Outcome.ENDED:
            pass
        watch.close()
        entries = spool.due(100, 0)
        assert entries
        meta = spool.meta(entries[0])
        assert (meta.camera, meta.model_digest, meta.classes) == ("gate", seed.digest, ["red", "green"])
        assert watch.status.second_looks > 0


@pytest.mark.parametrize(
    ("more", "follows"),
    [("", True), ("[update]\npolicies = false\n", False)],
    ids=["followed", "switched off"],
)
def test_an_accepted_policy_is_followed_and_told_to_the_cloud_unless_the_settings_say_otherwise(
    tmp_path: Path, seed: Bundle, more: str, follows: bool
) -> None:
    a_folder(tmp_path / "pictures", 3)
    enrolment = complete(self_made(tmp_path / "enrolment"), "van-1")
    settings = configured(tmp_path, more).model_copy(update={"enrolment": enrolment})
    campaign = {"name": "vans", "when": 'device == "van-1"', "quota_per_day": 9, "cohort": ["van-*"]}
    policy = Policy.model_validate(
        {"name": "air", "selection": {"triggers": ["campaign"], "repeat_bits": -1, "gap_s": 0}, "campaigns": [campaign]}
    )
    file = PolicyFile(tmp_path / assemble.POLICIES)
    part = file.part()
    part.write_bytes(policy.to_json())
    file.lay_down(part)
    with Spool(tmp_path / "spool", 10_000_000, putting=True) as spool:
        watch = assemble.a_watch(settings, spool)
        while watch.step() is not Outcome.ENDED:
            pass
        watch.close()
        told = status.message(tmp_path, "van-1", spool, wire.now(), "s")
        again = status.message(tmp_path, "van-1", spool, wire.now(), "another session")
        reasons = {reason.strategy for entry in spool.due(9, 0) for reason in spool.meta(entry).reasons}
    assert (again.run, again.boot_id) == (told.run, told.boot_id), "one process, whatever its connections"
    assert 0 < told.monotonic_ns < again.monotonic_ns  # type: ignore[operator]  # both are told
    assert told.policy_digest == (policy if follows else settings.policy).digest
    assert ("campaign:vans" in reasons) == follows, "the device's name is that of its enrolment"
