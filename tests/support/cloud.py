"""The cloud for tests: its services over real servers, all of it as `edgecase-cloud up`, and a device that talks to it.

parts: Services            a catalogue of its own over the session's store; `parts.catalogue`, `parts.store`
own: Services              the same with a bucket of its own
Told(parts)                a device's words handed to ingest, one at a time, without a broker
cloud: Cloud               one `edgecase-cloud up` for the whole session
running_cloud(tmp_path)    one of its own, to stop or to kill
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from edgecase_cloud import cli, devices, migrations, services, settings
from edgecase_cloud.catalogue import Catalogue, Device, Event, Frame
from edgecase_cloud.ingest import Ingest, Reply
from edgecase_cloud.services import Endpoints, Services
from edgecase_cloud.store import ObjectStore, PutGrant
from edgecase_models import wire
from support.broker import Client
from support.identities import context_of, enrol
from support.s3 import S3Server, put
from support.wait import until

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def make_services(folder: Path, store: ObjectStore, *devices: str, **chosen: Any) -> Services:
    """Services over a catalogue in `folder` that knows `devices`."""
    catalogue = Catalogue.in_folder(folder)
    migrations.upgrade(catalogue)
    with catalogue.session.begin() as session:
        session.add_all(Device(id=name, added_at=NOW) for name in devices)
    return Services(settings.load(folder, **chosen), catalogue, store)


@pytest.fixture
def parts(tmp_path: Path, s3: S3Server) -> Iterator[Services]:
    """Services with the devices cam-1 and cam-2."""
    made = make_services(tmp_path, s3.store, "cam-1", "cam-2")
    yield made
    made.catalogue.close()


@pytest.fixture
def own(tmp_path: Path, s3: S3Server) -> Iterator[Services]:
    """Services with the devices cam-1 and cam-2, and a bucket that nobody else has."""
    keys = s3.keys
    store = ObjectStore(s3.url, keys.access_key, keys.secret_key, bucket=f"own-{secrets.token_hex(8)}")
    store.ensure_bucket()
    made = make_services(tmp_path, store, "cam-1", "cam-2")
    yield made
    made.catalogue.close()


class Told:
    """Hands messages to ingest and gives the one answer."""

    def __init__(self, parts: Services) -> None:
        self.parts = parts
        self.ingest = Ingest(parts)

    def __call__(self, message: wire.Up, *, device: str = "", now: datetime = NOW) -> wire.Down | None:
        replies = self.replies(message, device=device, now=now)
        assert len(replies) <= 1
        return replies[0].message if replies else None

    def replies(self, message: wire.Up, *, device: str = "", now: datetime = NOW) -> list[Reply]:
        topic = wire.up_topic(device or message.device, type(message))
        return self.ingest.handle(topic, wire.encode(message), now)

    def granted(self, frame: Shot, now: datetime = NOW) -> wire.Grant:
        grant = self(frame.offer, now=now)
        assert isinstance(grant, wire.Grant)
        return grant

    def put(self, frame: Shot, grant: wire.Grant) -> None:
        assert put(PutGrant(grant.url, grant.headers), frame.content)[0] == 200

    def deliver(self, frame: Shot, now: datetime = NOW) -> wire.Down | None:
        grant = self.granted(frame, now)
        self.put(frame, grant)
        return self(frame.stored(grant), now=now)

    def row(self, frame: Shot) -> Frame:
        with self.parts.catalogue.session() as session:
            return session.get_one(Frame, frame.id)

    def events(self, kind: str) -> list[Event]:
        with self.parts.catalogue.session() as session:
            return list(session.scalars(sa.select(Event).where(Event.kind == kind).order_by(Event.id)))


@dataclass(frozen=True)
class Shot:
    """A frame as a device holds it: bytes and the offer that it makes of them."""

    content: bytes
    offer: wire.Offer

    @property
    def id(self) -> str:
        """The frame id."""
        return self.offer.frame_id

    def stored(self, grant: wire.Grant) -> wire.Stored:
        """What is said after the PUT."""
        return wire.Stored(device=self.offer.device, frame_id=self.id, key=grant.key, sha256=self.offer.sha256)


def shot(device: str = "cam-1", content: bytes | None = None, **changed: Any) -> Shot:
    """A new frame with random bytes."""
    content = content or b"\xff\xd8" + secrets.token_bytes(2000) + b"\xff\xd9"
    offer = wire.Offer(
        device=device,
        frame_id=secrets.token_hex(16),
        camera="front",
        frame_index=7,
        captured_at=NOW,
        boot_id="boot-1",
        monotonic_ns=123_456_789,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        width_px=640,
        height_px=384,
        model_digest="a" * 64,
        classes=["car", "person"],
        score=0.5,
        reasons=[wire.Reason("uncertainty", 0.5, 0.4)],
        boxes=[wire.Box(1, 0.5, 10.0, 20.0, 30.0, 40.0)],
        thumbnail_jpeg=b"\xff\xd8\xff\xd9",
    )
    return Shot(content, msgspec.structs.replace(offer, **changed))


@dataclass
class Cloud:
    """`edgecase-cloud up` as a process of its own, on free ports."""

    data: Path
    options: tuple[str, ...] = ("--web-port", "0", "--mqtt-port", "0", "--s3-port", "0")
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """What `up` has printed so far."""
        return self._output.read_text()

    @property
    def _output(self) -> Path:
        return self.data.with_name(f"{self.data.name}.out")

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens, and its processes."""
        found = services.running_endpoints(self.data)
        assert found is not None, self.output
        return found

    def start(self, *, wait: bool = True) -> None:
        """Run `up`; returns when it is ready."""
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgecase_cloud", "up", "--data", str(self.data), *self.options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )
        if wait:
            until(lambda: "ready" in self.output or self._ended(), within_s=60, what="cloud to be ready")
            assert not self._ended(), self.output

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL for `up` itself, and for nothing else."""
        self.stop(signal.SIGKILL)

    def services(self) -> Services:
        """Its services, as any other process on this machine would open them."""
        return services.open_folder(self.data)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`edgecase-cloud <arguments> --data <this>`."""
        return edgecase_cloud(*arguments, "--data", str(self.data))

    def device(self, name: str) -> CloudDevice:
        """A device that is added, if it was not, and connected."""
        folder, parts = self.data.with_name(f"{self.data.name}.devices") / name, self.services()
        if not folder.exists():
            invited = devices.add(parts, name, wire.now())
            enrol(parts.settings.hub_url, invited.token, folder)
        return CloudDevice(name, folder, parts.settings.host, parts.settings.mqtt_port)

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None


def edgecase_cloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, in this process: as a person's, but for the start of an interpreter."""
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def edgecase_cloud_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own, for what sets up signals or ends more than itself."""
    return subprocess.run(
        [sys.executable, "-m", "edgecase_cloud", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


class CloudDevice:
    """A device's half of the talk, over real MQTT and HTTP, one step at a time."""

    def __init__(self, name: str, folder: Path, host: str, port: int) -> None:
        self.name = name
        self.folder = folder
        self._said_s: dict[tuple[str, bool], float] = {}
        self.client = Client(f"{name}-{secrets.token_hex(4)}", clean_session=False)  # its subscription outlives a kill
        self.client.tls_set_context(context_of(folder))
        self.client.connect(host, port)
        self.client.loop_start()
        until(self.client.is_connected, what=f"{name} to connect")
        assert self.client.subscribed(f"edgecase/1/down/{name}/#")

    def say(self, message: wire.Up) -> None:
        """Publish at QoS 1 and wait for the broker."""
        self.client.send(wire.up_topic(self.name, type(message)), wire.encode(message))

    def heard(self, frame_id: str, kind: type[wire.Down]) -> wire.Down | None:
        """The newest message of a kind about a frame."""
        about = [m for m in self.everything() if getattr(m, "frame_id", None) == frame_id and isinstance(m, kind)]
        return about[-1] if about else None

    def everything(self) -> list[wire.Down]:
        """All that was received, in order."""
        return [wire.decode_down(message.payload) for message in list(self.client.received)]

    def offer(self, frame: Shot) -> wire.Grant:
        """Offer once and wait for the grant."""
        self.say(frame.offer)
        found = until(lambda: self.heard(frame.id, wire.Grant), what=f"Grant for {frame.id}")
        assert isinstance(found, wire.Grant)
        return found

    def upload(self, frame: Shot, grant: wire.Grant) -> None:
        """PUT the bytes; an object that is there already is as good."""
        status, body = put(PutGrant(grant.url, grant.headers), frame.content)
        assert status in {200, 412}, body

    def deliver(self, frame: Shot, within_s: float = 30.0) -> wire.Ack:
        """All of it: offer, grant, PUT, stored, ack, each as often as it takes."""
        pending = {frame.id: frame}
        until(lambda: self.push(pending) or not pending, within_s=within_s, every_s=0.1, what=f"Ack for {frame.id}")
        found = self.heard(frame.id, wire.Ack)
        assert isinstance(found, wire.Ack)
        return found

    def push(self, pending: dict[str, Shot]) -> None:
        """One round of a device's loop, whatever is away: offer, upload what is granted, forget what is acknowledged.

        What was said is said again when no answer came within two seconds: a device that asked at every look would drown who answers.
        """
        if not self.client.is_connected():
            return
        answers = {(type(answer), getattr(answer, "frame_id", "")): answer for answer in self.everything()}
        for frame in list(pending.values()):
            grant = answers.get((wire.Grant, frame.id))
            if (wire.Ack, frame.id) in answers:
                del pending[frame.id]
            elif time.monotonic() - self._said_s.get((frame.id, grant is None), -math.inf) < 2.0:
                continue
            elif isinstance(grant, wire.Grant):
                with contextlib.suppress(OSError, AssertionError):  # the store is away
                    self.upload(frame, grant)
                    self._publish(frame.stored(grant))
            else:
                self._publish(frame.offer)

    def leave(self) -> None:
        """Disconnect."""
        self.client.leave()

    def _publish(self, message: wire.Offer | wire.Stored) -> None:
        self._said_s[message.frame_id, isinstance(message, wire.Offer)] = time.monotonic()
        self.client.publish(wire.up_topic(self.name, type(message)), wire.encode(message), qos=1)


@contextlib.contextmanager
def running_cloud(data: Path, **environment: str) -> Iterator[Cloud]:
    """A cloud of its own, stopped at the end where the test has not done so."""
    made = Cloud(data, environment=environment)
    made.start()
    try:
        yield made
    finally:
        if made.process is not None:
            made.stop()


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One cloud for all tests that neither stop it nor fill it."""
    with running_cloud(tmp_path_factory.mktemp("cloud") / "data") as running:
        yield running
