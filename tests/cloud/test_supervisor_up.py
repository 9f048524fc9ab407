"""What `edgecase-cloud up` promises: all of it ready, all of it kept running, and all of it gone at the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from edgecase_cloud import migrations, processes, services
from edgecase_cloud.catalogue import Catalogue, Delivery, Device, Frame
from edgecase_cloud.reconcile import reconcile
from edgecase_models import wire
from support.cloud import NOW, Cloud, Shot, edgecase_cloud_process, running_cloud, shot
from support.s3 import anonymous
from support.wait import until

PARTS = {"up", "broker", "store", "ingest", "web", "learn"}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def one_line(result: object, code: int, *words: str) -> None:
    """It said one line on stderr, with these words, and ended with this code."""
    stderr, returncode = result.stderr, result.returncode  # type: ignore[attr-defined]
    assert returncode == code, stderr
    assert stderr.count("\n") == 1, stderr
    assert "Traceback" not in stderr
    for word in words:
        assert word in stderr


def test_up_is_ready_then_stops_on_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    with running_cloud(tmp_path / "data") as cloud:
        endpoints = cloud.endpoints
        assert set(endpoints.pids) == PARTS
        web = urlsplit(endpoints.web)
        connection = http.client.HTTPConnection(web.hostname or "", web.port)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
        assert cloud.stop(signal.SIGINT) == 0
        assert [name for name, pid in endpoints.pids.items() if not gone(pid)] == []
        assert services.running_endpoints(cloud.data) is None
        assert not (cloud.data / "endpoints.json").exists()
        for url in (endpoints.web, endpoints.s3, f"tcp://{endpoints.mqtt_host}:{endpoints.mqtt_port}"):
            assert processes.is_free("127.0.0.1", urlsplit(url).port or 0)


def test_a_killed_up_leaves_nothing_and_the_next_one_has_every_frame(tmp_path: Path) -> None:
    with running_cloud(tmp_path / "data", EDGECASE_CLOUD_DURABILITY="strict") as cloud:
        device = cloud.device("cam-1")
        frame = shot("cam-1")
        device.deliver(frame)
        device.leave()
        pids = cloud.endpoints.pids
        cloud.kill()
        cloud.start()  # at once, on the same folder
        assert [name for name, pid in pids.items() if not gone(pid)] == []
        parts = cloud.services()
        with parts.catalogue.session() as session:
            row = session.get_one(Frame, frame.id)
        assert row.delivery is Delivery.ACKNOWLEDGED
        assert parts.store.get(row.key) == frame.content
        device = cloud.device("cam-1")  # it is still enrolled
        device.deliver(shot("cam-1"))
        device.leave()


def test_devices_of_an_earlier_version_are_named_with_the_way_to_let_them_in(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    catalogue = Catalogue.in_folder(tmp_path / "data")
    migrations.upgrade(catalogue)
    with catalogue.session.begin() as session:
        session.add_all(Device(id=name, added_at=NOW) for name in ("cam-1", "cam-2"))
    catalogue.close()
    with running_cloud(tmp_path / "data") as cloud:
        said = f"cam-1, cam-2: passwords are no more; enrol each once: edgecase-cloud device add ID --data {cloud.data}"
        until(lambda: said in cloud.output, what="the way forward")
        device = cloud.device("cam-1")
        device.deliver(shot("cam-1"))
        device.leave()


@pytest.mark.parametrize("name", sorted(PARTS - {"up"}))
def test_a_part_that_is_killed_comes_back(cloud: Cloud, name: str) -> None:
    before = cloud.endpoints.pids
    os.kill(before[name], signal.SIGKILL)
    until(lambda: cloud.endpoints.pids.get(name, before[name]) != before[name], what=f"{name} to come back")
    assert {part: pid for part, pid in cloud.endpoints.pids.items() if part != name} == {
        part: pid for part, pid in before.items() if part != name
    }
    assert f"{name} was killed by signal 9; starting it again" in cloud.output
    device = cloud.device("after-kill")
    device.deliver(shot("after-kill"))
    device.leave()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["broker", "store"])
def test_a_server_that_runs_and_does_nothing_is_started_again(cloud: Cloud, name: str) -> None:
    hung = cloud.endpoints.pids[name]
    os.kill(hung, signal.SIGSTOP)
    until(lambda: cloud.endpoints.pids.get(name, hung) != hung, within_s=90, what=f"another {name}")
    assert gone(hung)
    assert f"{name} runs but does not do its work; starting it again" in cloud.output
    device = cloud.device("after-hang")
    device.deliver(shot("after-hang"))
    device.leave()


def test_learning_gives_way_to_what_takes_frames_in(cloud: Cloud) -> None:
    def levels() -> dict[str, int]:
        return {name: os.getpriority(os.PRIO_PROCESS, cloud.endpoints.pids[name]) for name in PARTS}

    as_up = os.getpriority(os.PRIO_PROCESS, cloud.endpoints.pids["up"])
    wanted = dict.fromkeys(PARTS, as_up) | {"learn": as_up + 5}
    until(lambda: levels() == wanted, what="the learning worker to give way")  # another test may have just killed it


def test_a_second_up_on_the_same_folder_is_refused_and_disturbs_nothing(cloud: Cloud) -> None:
    before = cloud.endpoints
    result = edgecase_cloud_process("up", "--data", str(cloud.data), *cloud.options)
    one_line(result, 2, f"another edgecase-cloud up (process {before.pids['up']})", "stop it first")
    assert cloud.endpoints == before
    assert not [name for name, pid in before.pids.items() if gone(pid)]


def test_a_port_that_is_taken_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = edgecase_cloud_process(
            "up", "--data", str(tmp_path), "--web-port", "0", "--mqtt-port", port, "--s3-port", "0"
        )
    one_line(result, 2, f"port {port} of 127.0.0.1 is taken", "--mqtt-port")
    assert list((tmp_path / "logs").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "environment", "words"),
    [
        ("/proc/edgecase", {}, ["/proc/edgecase cannot be used", "--data"]),
        ("a-file/data", {}, ["Not a directory", "--data"]),
        ("data", {"EDGECASE_CLOUD_MIN_FREE_BYTES": str(1 << 60)}, ["MiB are free", "make room"]),
        ("data", {"EDGECASE_CLOUD_HOST": "0.0.0.0"}, ["'0.0.0.0' is not a loopback address"]),
        ("data", {"EDGECASE_CLOUD_WEBPORT": "1"}, ['EDGECASE_CLOUD_WEBPORT sets nothing; did you mean "web_port"']),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    tmp_path: Path, data: str, environment: dict[str, str], words: list[str]
) -> None:
    (tmp_path / "a-file").touch()
    one_line(edgecase_cloud_process("up", "--data", str(tmp_path / data), **environment), 2, *words)


@pytest.mark.slow
def test_a_catalogue_that_is_none_or_of_a_newer_program_is_said_in_one_line(tmp_path: Path) -> None:
    broken, newer = tmp_path / "broken", tmp_path / "newer"
    any_port = ("--web-port", "0", "--mqtt-port", "0", "--s3-port", "0")
    for folder in (broken, newer):
        folder.mkdir()
    (broken / "catalogue.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    one_line(edgecase_cloud_process("up", "--data", str(broken), *any_port), 2, "the catalogue in", "not a database")
    catalogue = Catalogue.in_folder(newer)
    migrations.upgrade(catalogue)
    with catalogue.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    one_line(edgecase_cloud_process("up", "--data", str(newer), *any_port), 2, "upgrade edgecase")


def test_the_secrets_of_a_data_folder_are_for_its_owner_only(cloud: Cloud) -> None:
    cloud.device("private").leave()
    assert cloud.data.stat().st_mode & 0o077 == 0
    secrets = [path for path in (cloud.data / "keys").rglob("*") if path.is_file()]
    secrets += [cloud.data / "broker/nats.conf", cloud.data / "store/s3.json"]
    assert {"ca-key.pem", "ca.pem", "broker.pem", "ingest.pem", "probe.pem"} <= {path.name for path in secrets}
    assert [path for path in secrets if path.stat().st_mode & 0o077] == []


def test_nobody_without_a_key_gets_an_object_from_any_port_of_the_store(cloud: Cloud) -> None:
    device = cloud.device("stranger-test")
    frame = shot("stranger-test")
    device.deliver(frame)
    device.leave()
    with cloud.services().catalogue.session() as session:
        key = session.get_one(Frame, frame.id).key
    filer = json.loads((cloud.data / "store/ports.json").read_text())["filer.port"]
    assert anonymous(f"{cloud.endpoints.s3}/edgecase/{key}") == 403
    assert anonymous(f"http://127.0.0.1:{filer}/buckets/edgecase/{key}") == 401


def test_nothing_of_the_cloud_listens_beyond_loopback(cloud: Cloud) -> None:
    pids = set(cloud.endpoints.pids.values())
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    listening = []
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                listening.append(local.partition(":")[0] == loopback)
    assert len(listening) > 5
    assert all(listening)


# Nothing is lost


@pytest.mark.slow
def test_a_frame_whose_stored_message_found_nobody_is_acknowledged_when_ingest_is_back(cloud: Cloud) -> None:
    """The kill falls between the object in the store and the acknowledgement; the device says nothing twice."""
    device = cloud.device("between")
    frames = [shot("between") for _ in range(5)]
    grants = [device.offer(frame) for frame in frames]
    ingest = cloud.endpoints.pids["ingest"]
    os.kill(ingest, signal.SIGSTOP)  # it cannot take what follows, and it never will
    for frame, grant in zip(frames, grants, strict=True):
        device.upload(frame, grant)
        device.say(frame.stored(grant))
    os.kill(ingest, signal.SIGKILL)
    for frame in frames:
        until(lambda frame=frame: device.heard(frame.id, wire.Ack), within_s=40, what="its acknowledgement")
    device.leave()
    assert reconcile(cloud.services()).lost == ()


def test_kills_of_ingest_broker_and_store_under_load_lose_and_double_nothing(cloud: Cloud) -> None:
    device = cloud.device("under-fire")
    kills: list[str] = []
    over = threading.Event()

    def fire() -> None:
        for name in ("ingest", "store", "broker"):
            over.wait(0.8)
            pid = cloud.endpoints.pids.get(name)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                kills.append(name)

    gunner = threading.Thread(target=fire)
    gunner.start()
    frames: list[Shot] = []
    pending: dict[str, Shot] = {}

    def everything_is_acknowledged() -> bool:
        if gunner.is_alive():
            new = [shot("under-fire") for _ in range(4)]
            frames.extend(new)
            pending.update({frame.id: frame for frame in new})
        device.push(pending)
        return not pending and not gunner.is_alive()

    try:
        until(everything_is_acknowledged, within_s=90, every_s=0.25, what="every frame to be acknowledged")
    finally:
        over.set()
        gunner.join()
        device.leave()
    assert kills == ["ingest", "store", "broker"]
    parts = cloud.services()
    with parts.catalogue.session() as session:
        rows = session.scalars(sa.select(Frame).where(Frame.device_id == "under-fire")).all()
    assert {row.id for row in rows if row.delivery is Delivery.ACKNOWLEDGED} == {frame.id for frame in frames}
    assert len(rows) == len(frames)
    contents = {frame.id: frame.content for frame in frames}
    assert all(parts.store.get(row.key) == contents[row.id] for row in rows)
    assert len(list(parts.store.keys("frames/under-fire/"))) == len(frames)
