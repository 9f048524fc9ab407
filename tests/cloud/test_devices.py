"""What adding a device promises: a folder it can enrol with, a broker that knows it, and nothing half done."""

from __future__ import annotations

import hashlib
import os
import threading
import tomllib
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgecase_cloud import broker, devices, durable, migrations, services, settings
from edgecase_cloud.catalogue import Catalogue, Device, Event
from edgecase_cloud.devices import DeviceError
from edgecase_cloud.services import Services
from edgecase_cloud.store import ObjectStore
from edgecase_models import wire
from support.cloud import NOW, Cloud, make_services, shot
from support.wait import until

ROOT = b'{"signed": {}}'


@pytest.fixture
def parts(tmp_path: Path) -> Services:
    return make_services(tmp_path, ObjectStore("http://127.0.0.1:1", "", ""))


def names(parts: Services) -> list[str]:
    return [user.name for user in devices.broker_users(parts)]


def test_the_enrolment_holds_all_that_a_device_needs_and_its_password_is_for_it_alone(parts: Services) -> None:
    folder = devices.add(parts, "cam-1", ROOT, NOW)
    assert folder == parts.settings.path("devices", "cam-1")
    assert tomllib.loads((folder / "device.toml").read_text()) == {
        "device": "cam-1",
        "mqtt_host": "127.0.0.1",
        "mqtt_port": 8701,
        "mqtt_username": "cam-1",
        "hub_url": "http://127.0.0.1:8700",
    }
    assert (folder / "root.json").read_bytes() == ROOT
    assert (folder / "password").stat().st_mode & 0o077 == 0
    with parts.catalogue.session() as session:
        row = session.get_one(Device, "cam-1")
        assert row.password_sha256 == hashlib.sha256((folder / "password").read_bytes()).hexdigest()
        assert session.scalars(sa.select(Event.kind)).all() == ["device added"]


def test_every_device_has_a_password_of_its_own_and_the_broker_is_told_of_all(parts: Services) -> None:
    folders = [devices.add(parts, name, ROOT, NOW) for name in ("cam-1", "cam-2")]
    assert len({(folder / "password").read_text() for folder in folders}) == 2
    assert names(parts) == [broker.INGEST, broker.PROBE, "cam-1", "cam-2"]
    text = parts.settings.path("broker", "nats.conf").read_text()
    assert all((folder / "password").read_text() in text for folder in folders)
    assert parts.settings.path("broker", "nats.conf").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("device", ["", "../x", "a/b", "Cam", "site.cam", "cam+1", "x" * 65, "\x00", "@ingest"])
def test_an_id_that_could_reach_beyond_itself_is_refused(parts: Services, device: str) -> None:
    with pytest.raises(DeviceError, match="must be 1 to 64"):
        devices.add(parts, device, ROOT, NOW)
    assert not parts.settings.path("devices").exists()


def test_a_device_that_exists_is_not_given_away_again(parts: Services) -> None:
    folder = devices.add(parts, "cam-1", ROOT, NOW)
    password = (folder / "password").read_text()
    with pytest.raises(DeviceError, match="exists already; its enrolment is in"):
        devices.add(parts, "cam-1", ROOT, NOW)
    assert (folder / "password").read_text() == password


def test_the_folder_can_be_taken_along_but_overwrites_nothing(parts: Services, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert devices.add(parts, "cam-1", ROOT, NOW, out) == out
    assert {path.name for path in out.iterdir()} == {"device.toml", "password", "root.json"}
    assert (out / "password").stat().st_mode & 0o077 == 0
    with pytest.raises(DeviceError, match="not an empty folder"):
        devices.add(parts, "cam-2", ROOT, NOW, out)
    assert names(parts)[2:] == ["cam-1"]


def test_adding_that_was_cut_off_before_the_row_can_be_done_again(parts: Services) -> None:
    devices.write_enrolment(devices.enrolment_folder(parts.settings, "cam-1"), parts.settings, "cam-1", "half", ROOT)
    folder = devices.add(parts, "cam-1", ROOT, NOW)
    assert (folder / "password").read_text() == devices.broker_users(parts)[2].password


def test_devices_that_are_added_at_once_are_all_known_to_the_broker(parts: Services) -> None:
    threads = [threading.Thread(target=devices.add, args=(parts, f"cam-{n}", ROOT, NOW)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = parts.settings.path("broker", "nats.conf").read_text()
    assert [name for name in names(parts)[2:] if f'"{name}"' not in text] == []
    assert len(names(parts)) == 10


def test_a_device_whose_password_is_gone_keeps_no_other_out(parts: Services) -> None:
    for name in ("cam-1", "cam-2"):
        devices.add(parts, name, ROOT, NOW)
    parts.settings.path("keys", "devices", "cam-1").unlink()
    assert names(parts)[2:] == ["cam-2"]


def test_kept_enrolments_follow_the_ports(parts: Services) -> None:
    folder = devices.add(parts, "cam-1", ROOT, NOW)
    moved = Services(settings.load(parts.settings.data, mqtt_port=1234), parts.catalogue, parts.store)
    devices.refresh_enrolments(moved)
    assert tomllib.loads((folder / "device.toml").read_text())["mqtt_port"] == 1234


# Against a running cloud


def test_a_device_that_is_added_while_the_cloud_runs_delivers_at_once(cloud: Cloud, tmp_path: Path) -> None:
    out = tmp_path / "enrolment"
    result = cloud.run("device", "add", "added-live", "--out", str(out), "--json")
    assert result.returncode == 0, result.stderr
    assert (out / "root.json").read_bytes().startswith(b"{")
    told = tomllib.loads((out / "device.toml").read_text())
    assert (told["mqtt_port"], told["hub_url"]) == (cloud.endpoints.mqtt_port, cloud.endpoints.web)
    device = cloud.device("added-live")
    device.deliver(shot("added-live"))
    device.leave()


def test_a_device_reads_and_writes_only_its_own_in_a_running_cloud(cloud: Cloud) -> None:
    thief, victim = cloud.device("live-thief"), cloud.device("live-victim")
    frame = shot("live-victim")
    thief.client.send(wire.up_topic("live-victim", wire.Offer), wire.encode(frame.offer))  # the broker drops it
    thief.client.send(wire.up_topic("live-thief", wire.Offer), wire.encode(frame.offer))  # ingest drops it
    assert not thief.client.subscribed("edgecase/1/down/live-victim/#")

    def recorded() -> list[str]:
        with cloud.services().catalogue.session() as session:
            return list(session.scalars(sa.select(Event.subject).where(Event.kind == "forged topic")))

    until(lambda: "live-thief" in recorded(), what="the forged topic to be recorded")
    assert victim.everything() == []
    assert thief.everything() == []
    thief.leave()
    victim.leave()


# Whether a cloud runs


def test_endpoints_count_only_while_their_cloud_is_alive(tmp_path: Path) -> None:
    assert services.running_endpoints(tmp_path) is None
    written = '{"web": "w", "mqtt_host": "h", "mqtt_port": 1, "s3": "s", "pids": {"up": %d}}'
    (tmp_path / "endpoints.json").write_text(written % os.getpid())
    (tmp_path / "lock").touch()
    assert services.running_endpoints(tmp_path) is None, "nobody holds the lock"
    with durable.exclusive(tmp_path / services.LOCK):
        assert services.running_endpoints(tmp_path) is not None
        (tmp_path / "endpoints.json").write_text(written % (2**22 + 1))
        assert services.running_endpoints(tmp_path) is None, "a killed one wrote them; another command holds the lock"


def test_services_of_a_folder_without_a_cloud_say_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(services.NoData, match="start one with: edgecase-cloud up --data"):
        services.open_folder(tmp_path)


def test_services_bring_an_older_catalogue_up_to_date(tmp_path: Path) -> None:
    Catalogue.in_folder(tmp_path).engine.connect().close()  # an empty database
    opened = services.open_folder(tmp_path)
    assert migrations.version(opened.catalogue) == migrations.HEAD
