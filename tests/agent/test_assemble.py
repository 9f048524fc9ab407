"""What putting the loops together promises: the settings reach their parts, and there is a model that runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import pytest

from edgecase_agent import assemble
from edgecase_agent.selection import Rules
from edgecase_agent.settings import AgentSettings, SettingsError, load_settings
from edgecase_agent.slots import SlotError, Slots
from edgecase_agent.spool import Spool
from edgecase_agent.watch import Outcome
from edgecase_models.bundle import Bundle
from edgecase_models.detector import Runtime
from support.bundles import a_bundle
from support.pictures import a_folder


@pytest.fixture
def seed(tmp_path: Path) -> Bundle:
    return a_bundle(tmp_path / "model.tar", "seed")


def configured(folder: Path, more: str = "") -> AgentSettings:
    (folder / "state").mkdir(exist_ok=True)
    path = folder / "agent.toml"
    path.write_text(f'data = "."\n[source]\nuri = "pictures"\ncamera = "gate"\n[model]\nbundle = "model.tar"\n{more}')
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


def test_a_committee_is_only_there_for_the_strategy_that_it_refines(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"set committee\.share = 0"):
        assemble.a_committee(
            configured(tmp_path, "[selection]\nstrategy = 'margin'\n[committee]\nshare = 0.5\n"), Runtime()
        )
    assert assemble.a_committee(configured(tmp_path, "[selection]\nstrategy = 'margin'\n"), Runtime()) is None
    assert assemble.a_committee(configured(tmp_path, "[committee]\nshare = 0\n"), Runtime()) is None
    assert assemble.a_committee(configured(tmp_path), Runtime()) is not None


def test_triggers_and_budgets_reach_the_rules(tmp_path: Path) -> None:
    def rules(more: str) -> Rules:
        return assemble.rules_of(configured(tmp_path, more).selection)

    assert rules("[selection.budget]\nframes_per_hour = 7\nbytes_per_day = 1e6\n") == Rules(
        frames_per_hour=7, bytes_per_day=1e6
    )
    assert rules("[selection]\ntriggers = ['audit']\n") == Rules(min_score=math.inf)
    assert rules("[selection]\ntriggers = ['uncertainty']\n") == Rules(audit_share=0)
    assert rules("[selection]\ntriggers = []\n").frames_per_hour == 0


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("[selection]\nstrategy = 'novelty'\n", "selection.strategy"),
        ("[selection.budget]\nframes_per_day = 7\n", "selection.budget.frames_per_day"),
        ("[selection.budget]\nboxes_per_hour = 7\n", "selection.budget.boxes_per_hour"),
    ],
)
def test_what_the_rules_cannot_hold_is_refused_rather_than_left_out(tmp_path: Path, more: str, named: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(named)):
        assemble.rules_of(configured(tmp_path, more).selection)


def test_a_member_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"committee\.member"):
        assemble.a_committee(configured(tmp_path, "[committee]\nmember = 'candidate'\n"), Runtime())
