"""What the command promises: it does the whole way with what it is given, or says in one line what to change."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgecase_agent.spool import Spool
from edgecase_models import wire
from support.bundles import a_bundle, expecting_more, rewritten
from support.hub import Hub, running_hub
from support.identities import an_identity, complete, self_made
from support.pictures import a_folder
from support.store import Store
from support.tiny_cloud import TinyCloud, serve
from support.wait import until


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgecase_agent", *map(str, arguments)]


def ran(*arguments: str | Path, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGECASE_")}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
    )


@dataclass
class Site:
    """A device's folder with its settings."""

    folder: Path
    pictures: int = 30

    def __post_init__(self) -> None:
        self.bundle = a_bundle(self.folder / "model.tar", "seed")
        a_folder(self.folder / "pictures", self.pictures)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def configure(self, more: str = "", **tables: str) -> Path:
        """Write agent.toml: eager selection, short intervals; `tables` replace whole tables."""
        known = {
            "source": 'uri = "pictures"\nlive = false',
            "model": 'bundle = "model.tar"',
            "selection": "window_s = 2\ngap_s = 0\nrepeat_bits = -1\nbudget = { frames_per_hour = 3600 }",
            "spool": "min_free_bytes = 0",
            "uplink": "status_every_s = 0.2",
            "update": "poll_s = 1",
        }
        path = self.folder / "agent.toml"
        content = "".join(f"[{name}]\n{body}\n" for name, body in (known | tables).items())
        path.write_text(f"{more}\n{content}")
        return path

    def enrol(self, device: str, mqtt_port: int, identity: Path, hub: Hub) -> str:
        """Write the enrolment; the line that names it."""
        folder = shutil.copytree(identity, self.folder / "enrolment", dirs_exist_ok=True)
        complete(folder, device, mqtt_port=mqtt_port, hub_url=hub.url, root=hub.root)
        return 'enrolment = "enrolment"'

    def watched(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.data / "state" / "watch.json").read_text()))
        except FileNotFoundError:
            return {}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


def test_help_and_commands_are_there_without_loading_what_they_need() -> None:
    heavy = {
        "numpy",
        "cv2",
        "onnxruntime",
        "pydantic",
        "paho",
        "tuf",
        "cryptography",
        "structlog",
        "sqlite3",
        "av",
        "msgspec",
    }
    script = f"import edgecase_agent.cli, sys; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "set()"
    assert {"enroll", "run", "check", "status"} <= set(ran("--help").stdout.split())
    assert ran("--version").stdout.strip()


# ---- the whole way -------------------------------------------------------------------------------------------------


def test_a_recording_without_a_cloud_is_watched_to_its_end_and_its_frames_wait(site: Site) -> None:
    done = ran("run", "-c", site.configure())
    assert done.returncode == 0, done.stderr
    assert site.watched()["frames_seen"] == 30
    balance = Spool.look(site.data / "spool").balance
    assert balance.kept == balance.spooled > 0
    seen = json.loads(ran("status", "-c", site.folder / "agent.toml", "--json").stdout)
    assert seen["balance"]["kept"] == balance.kept
    assert seen["active"]["digest"] == site.bundle.digest == seen["watch"]["running_digest"]
    assert seen["uplink"] is None
    shown = ran("status", "-c", site.folder / "agent.toml").stdout
    assert site.bundle.digest[:12] in shown
    assert "30 frames seen" in shown


def test_a_recording_is_watched_sent_and_acknowledged_and_then_the_run_ends(
    site: Site, broker, store: Store, hub: Hub
) -> None:
    cloud = TinyCloud(store)
    client = serve(cloud, broker)
    enrolment = site.enrol("cli-1", broker.port, broker.add_device("cli-1"), hub)
    done = ran("run", "-c", site.configure(enrolment))
    client.leave()
    assert done.returncode == 0, done.stderr
    balance = Spool.look(site.data / "spool").balance
    assert balance.kept == balance.acknowledged == len(store.objects) > 5
    for offer in cloud.offers.values():
        content = store.objects[f"frames/cli-1/{offer.frame_id}.jpg"]
        assert hashlib.sha256(content).hexdigest() == offer.sha256
        assert offer.model_digest == site.bundle.digest
    last = cloud.statuses[-1]
    assert (last.online, last.balance, last.frames_seen) == (False, balance, 30)
    assert last.running_digest == site.bundle.digest
    assert last.bytes_sent == Spool.look(site.data / "spool").bytes_sent > sum(map(len, store.objects.values()))
    assert list((site.data / "spool" / "frames").iterdir()) == []


def test_a_release_is_swapped_in_while_the_camera_runs_and_a_stop_ends_all(
    site: Site, broker, store: Store, hub: Hub, tmp_path: Path
) -> None:
    cloud = TinyCloud(store)
    client = serve(cloud, broker)
    enrolment = site.enrol("cli-2", broker.port, broker.add_device("cli-2"), hub)
    config = site.configure(enrolment, source='uri = "pictures"\nlive = true', update="poll_s = 3600")
    with subprocess.Popen(command("run", "-c", config), stderr=subprocess.PIPE, text=True) as agent:
        until(lambda: site.watched().get("running_digest") == site.bundle.digest, within_s=60, what="the first model")
        until((site.data / "state" / "update.json").exists, within_s=60, what="the first question to the hub")
        new = a_bundle(tmp_path / "new.tar", "new")
        hub.publish(new.path, 1)
        client.send("edgecase/1/down/cli-2/poke", wire.encode(wire.Poke(release=1)), retain=True)
        until(lambda: site.watched().get("running_digest") == new.digest, within_s=60, what="the new model")
        until(lambda: cloud.statuses[-1].running_digest == new.digest, what="the cloud to know")
        seen = site.watched()
        assert (seen["swaps"], seen["release"], seen["frames_failed"]) == (1, 1, 0)
        children = [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]
        assert len(children) == 3
        agent.send_signal(signal.SIGTERM)
        _, said = agent.communicate(timeout=30)
    client.leave()
    assert agent.returncode == 0, said
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not cloud.statuses[-1].online


def test_a_run_killed_again_and_again_loses_no_frame_it_kept_and_doubles_none(
    tmp_path: Path, broker, store: Store, hub: Hub
) -> None:
    site = Site(tmp_path / "site", pictures=60)
    cloud = TinyCloud(store)
    client = serve(cloud, broker)
    enrolment = site.enrol("cli-3", broker.port, broker.add_device("cli-3"), hub)
    config = site.configure(enrolment)
    chance = random.Random(5)
    for _ in range(2):
        with subprocess.Popen(command("run", "-c", config), stderr=subprocess.DEVNULL) as agent:
            before = Spool.look(site.data / "spool").balance.kept
            until(lambda before=before: Spool.look(site.data / "spool").balance.kept > before, within_s=60)
            threading.Event().wait(chance.uniform(0, 0.4))  # the random moment
            agent.kill()
    done = ran("run", "-c", config)
    client.leave()
    assert done.returncode == 0, done.stderr
    balance = Spool.look(site.data / "spool").balance
    assert balance.kept == balance.acknowledged == len(store.objects) == len(cloud.acknowledged)
    for offer in cloud.offers.values():
        assert hashlib.sha256(store.objects[f"frames/cli-3/{offer.frame_id}.jpg"]).hexdigest() == offer.sha256


# ---- what cannot be used -------------------------------------------------------------------------------------------


def _no_video(site: Site) -> dict[str, str]:
    (site.folder / "film.mp4").write_bytes(b"this is no film" * 100)
    return {"source": 'uri = "film.mp4"'}


def _corrupt_model(site: Site) -> dict[str, str]:
    content = bytearray(site.bundle.path.read_bytes())
    content[len(content) // 2] ^= 1
    site.bundle.path.write_bytes(content)
    return {}


def _model_that_fails(site: Site) -> dict[str, str]:
    rewritten(site.bundle.path, site.folder / "bad.tar", golden=expecting_more)
    return {"model": 'bundle = "bad.tar"'}


@pytest.mark.parametrize(
    ("command", "change", "expected"),
    [
        ("run", lambda _site: {"source": 'uri = "nothing.mp4"'}, "nothing.mp4"),
        ("watch", _no_video, "film.mp4"),
        ("watch", lambda _site: {"model": 'bundle = "nothing.tar"'}, "nothing.tar"),
        ("watch", _corrupt_model, "model.tar"),
        ("watch", _model_that_fails, "golden picture 0"),
        ("run", lambda _site: {"selecton": "window_s = 1"}, 'did you mean "selection.window_s"?'),
        (
            "watch",
            lambda _site: {"selection": 'strategy = "margin"', "committee": "share = 0.5"},
            "committee.share = 0",
        ),
        ("uplink", lambda _site: {}, "no enrolment is set"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(site: Site, command: str, change: Any, expected: str) -> None:
    done = ran(command, "-c", site.configure(**change(site)))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert expected in errors[0]
    assert "Traceback" not in done.stderr


def test_a_second_run_on_the_same_data_is_refused(site: Site) -> None:
    config = site.configure(source='uri = "pictures"\nlive = true')
    with subprocess.Popen(command("run", "-c", config), stderr=subprocess.DEVNULL) as agent:
        until(site.watched, within_s=60, what="the first to run")
        done = ran("run", "-c", config)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "another edgecase-agent is using it" in done.stderr
        agent.terminate()
        assert agent.wait(30) == 0


# ---- check ---------------------------------------------------------------------------------------------------------


def findings(config: Path) -> tuple[int, dict[str, tuple[bool | None, str]]]:
    done = ran("check", "-c", config, "--json")
    return done.returncode, {found["name"]: (found["ok"], found["detail"]) for found in json.loads(done.stdout)}


def test_check_tries_every_part_for_real(site: Site, broker, hub: Hub) -> None:
    hub.publish(site.bundle.path, 4)
    enrolment = site.enrol("cli-4", broker.port, broker.add_device("cli-4"), hub)
    code, found = findings(site.configure(enrolment))
    assert code == 0, found
    assert list(found) == ["configuration", "disk", "model", "policy", "privacy", "source", "broker", "hub"]
    assert all(ok for name, (ok, _) in found.items() if name != "privacy"), found
    assert found["privacy"] == (None, "off: pictures leave UNREDACTED, faces and plates as they are; no position")
    assert "128 x 128" in found["source"][1]
    assert "release 4" in found["hub"][1]


def test_check_without_an_enrolment_says_what_that_means(site: Site) -> None:
    shown = ran("check", "-c", site.configure())
    assert shown.returncode == 0
    assert (shown.stdout.count("✓"), shown.stdout.count("–"), shown.stdout.count("✗")) == (5, 3, 0)
    assert "frames stay here" in shown.stdout


def test_check_holds_the_policy_against_the_model(site: Site) -> None:
    code, found = findings(site.configure(selection='strategy = "novelty"'))
    assert (code, {name for name, (ok, _) in found.items() if ok is False}) == (2, {"policy"})
    assert "choose another strategy" in found["policy"][1]


@pytest.mark.parametrize(
    ("privacy", "ok", "says"),
    [
        (
            'classes = ["green"]\nposition_decimals = 1',
            True,
            "blur: green, from a score of 0.05 on, painted over; without it no pixels",
        ),
        (
            'mode = "drop"\nbundle = "model.tar"',
            True,
            "finds, red, green, from a score of 0.05 on, a reason to keep a frame's pixels here",
        ),
        ('bundle = "none.tar"', False, "none.tar: no such file"),
        ('classes = ["gren"]', False, 'the model knows no "gren"; did you mean "green"?'),
    ],
)
def test_check_tries_what_redacts_and_says_in_one_line_what_leaves(
    site: Site, privacy: str, ok: bool, says: str
) -> None:
    code, found = findings(site.configure(privacy=privacy))
    assert (code, found["privacy"][0]) == (0 if ok else 2, ok)
    assert says in found["privacy"][1]
    assert ("positions to 1 decimals" in found["privacy"][1]) == ("position" in privacy)


def test_check_says_which_campaigns_are_for_this_device(site: Site) -> None:
    campaigns = "".join(
        f'[[campaigns]]\nname = "{name}"\nwhen = "luma < 40"\nquota_per_day = 1\ncohort = ["{name}"]\n'
        for name in ("vans", "cars")
    )
    config = site.configure('cohorts = ["vans"]')
    config.write_text(config.read_text() + campaigns)
    assert findings(config)[1]["policy"] == (
        True,
        "strategy ede; committee flipped; 1 of 2 campaigns for this device: vans",
    )


def test_check_names_all_that_fails_and_its_cure(site: Site, broker, hub: Hub) -> None:
    broker.add_device("cli-5")
    replaced = an_identity(site.folder / "replaced", broker.authority, "cli-5", "an earlier enrolment")
    enrolment = site.enrol("cli-5", broker.port, replaced, hub)
    (site.folder / "enrolment" / "root.json").write_bytes(b"{}")
    shutil.rmtree(site.folder / "pictures")
    _corrupt_model(site)
    code, found = findings(site.configure(enrolment, spool=f"min_free_bytes = {1 << 60}"))
    assert code == 2
    assert {name for name, (ok, _) in found.items() if ok is False} == {"disk", "model", "source", "broker", "hub"}
    assert "free some space" in found["disk"][1]
    assert "not let in" in found["broker"][1]
    assert "enrol it again" in found["broker"][1]
    assert "enrol it again" in found["hub"][1]


def test_check_with_servers_that_are_away_says_so(site: Site, tmp_path: Path) -> None:
    with running_hub(tmp_path / "gone") as hub:
        pass
    enrolment = site.enrol("cli-6", 9, self_made(tmp_path / "cli-6"), hub)
    code, found = findings(site.configure(enrolment))
    assert code == 2
    assert "cannot be reached" in found["broker"][1]
    assert "cannot be reached" in found["hub"][1]


def test_check_of_a_wrong_configuration_is_one_finding(site: Site) -> None:
    code, found = findings(site.configure(selecton="window_s = 1"))
    assert code == 2
    assert list(found) == ["configuration"]
    assert "did you mean" in found["configuration"][1]
