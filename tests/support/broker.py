"""A real MQTT broker with the permissions of the real cloud, on a free loopback port.

    with running_broker(tmp_path, devices=("cam-1",)) as broker:
        client = broker.device_client("cam-1")     # connected paho client; client.received is a list of Message
        cloud = broker.ingest_client("edgecase/1/up/#")
        broker.kill(); broker.start()              # sessions and queued messages survive

or, as a fixture of the whole session: `broker` (import it in a conftest); give each test device names of its own.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from edgecase_cloud import broker as embedded
from edgecase_cloud import processes
from edgecase_cloud.authority import Authority
from edgecase_models import wire
from support.identities import an_identity, context_of
from support.wait import until

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Message:
    """One message as a client got it."""

    topic: str
    payload: bytes
    retained: bool


class Client(mqtt.Client):
    """A connected client that keeps what it receives."""

    def __init__(self, client_id: str, *, clean_session: bool = True) -> None:
        super().__init__(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311, clean_session=clean_session
        )
        self.received: list[Message] = []
        self.refused = False
        self._granted: dict[int | None, bool] = {}
        self.on_message = self._keep
        self.on_connect = self._connected
        self.on_subscribe = self._subscribed

    def topics(self) -> list[str]:
        """The topics of what was received, in order."""
        return [message.topic for message in self.received]

    def subscribed(self, topic: str) -> bool:
        """Subscribe at QoS 1; whether the broker granted it."""
        _, mid = self.subscribe(topic, qos=1)
        until(lambda: mid in self._granted, what=f"SUBACK for {topic}")
        return self._granted[mid]

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1 and wait for the broker's PUBACK."""
        self.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def leave(self) -> None:
        """Disconnect and end the network thread."""
        self.disconnect()
        self.loop_stop()

    def _keep(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self.received.append(Message(message.topic, message.payload, message.retain))

    def _connected(self, _client: object, _data: object, _flags: object, reason: object, _properties: object) -> None:
        self.refused = bool(getattr(reason, "is_failure", False))

    def _subscribed(self, _c: object, _data: object, mid: int, reasons: Sequence[object], _properties: object) -> None:
        self._granted[mid] = not any(getattr(reason, "is_failure", False) for reason in reasons)


@dataclass
class Broker:
    """A nats-server process with the users of the cloud; `add_device` may be called while it runs."""

    folder: Path
    port: int = field(default_factory=free_port)
    host: str = HOST
    devices: dict[str, Path] = field(default_factory=dict)
    ack_wait_s: int = 1
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "broker.log"

    @property
    def authority(self) -> Authority:
        """Whom it believes."""
        return Authority(self.folder / "keys")

    def add_device(self, device: str) -> Path:
        """The identity of a device that may connect from now on: a folder with key.pem, certificate.pem and ca.pem."""
        if device not in self.devices:
            self.devices[device] = an_identity(self.folder / "devices" / device, self.authority, device)
            self._write()
            if self.process is not None:
                embedded.reload(self.process.pid)
                until(lambda: self.accepts(self.devices[device]), what=f"broker to know {device}")
        return self.devices[device]

    def remove_device(self, device: str) -> None:
        """Take the right to connect from a device."""
        folder = self.devices.pop(device)
        self._write()
        if self.process is not None:
            embedded.reload(self.process.pid)
            until(lambda: not self.accepts(folder), what=f"broker to forget {device}")

    def start(self) -> None:
        """Start, or start again on the same port and folder; returns when clients can connect."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self.process = processes.start(
            embedded.command(self.folder / "nats.conf"), log=self.log, folder=self.folder, environment={}
        )
        until(self._listens, what="broker to listen")

    def stop(self) -> None:
        """End it in order (SIGTERM)."""
        if self.process is not None:
            processes.stop(self.process, 10)
            self.process = None

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def client(self, context: ssl.SSLContext, client_id: str = "", *, clean_session: bool = True) -> Client:
        """A connected client with its network thread running; `AssertionError` when the broker refuses it."""
        client = Client(client_id or f"{secrets.token_hex(6)}", clean_session=clean_session)
        client.tls_set_context(context)
        client.connect(self.host, self.port)
        client.loop_start()
        try:
            until(lambda: client.is_connected() or client.refused, what="client to connect")
            assert not client.refused, "broker refused the client"
        except AssertionError:
            client.leave()
            raise
        return client

    def device_client(self, device: str, *, client_id: str = "", clean_session: bool = True) -> Client:
        """A client with the rights of a device, subscribed to its own `down/`."""
        client = self.client(
            context_of(self.add_device(device)),
            client_id or f"{device}-{secrets.token_hex(3)}",
            clean_session=clean_session,
        )
        assert client.subscribed(f"edgecase/1/down/{device}/#")
        return client

    def ingest_client(self, *topics: str) -> Client:
        """A client with the rights of ingest."""
        client = self.client(self.ingest_context())
        for topic in topics:
            assert client.subscribed(topic)
        return client

    def ingest_context(self) -> ssl.SSLContext:
        """What ingest connects with."""
        return self._own_context("ingest.pem", embedded.INGEST)

    def accepts(self, folder: Path) -> bool:
        """Whether it lets in who has this identity."""
        return embedded.accepts(self.host, self.port, context_of(folder))

    def _own_context(self, file: str, name: str) -> ssl.SSLContext:
        credential = self.authority.for_client(self.folder / "keys" / file, name, wire.now())
        return embedded.client_context(self.authority.path, credential)

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        users = [
            embedded.ingest_user(),
            embedded.probe_user(),
            *(embedded.device_user(device, "0") for device in self.devices),
        ]
        credential = self.authority.for_server(self.folder / "keys" / "broker.pem", [self.host], wire.now())
        text = embedded.configuration(
            users,
            host=self.host,
            mqtt_port=self.port,
            credential=credential,
            authority=self.authority.path,
            ack_wait_s=self.ack_wait_s,
        )
        (self.folder / "nats.conf").write_text(text)

    def _listens(self) -> bool:
        return embedded.accepts(self.host, self.port, self._own_context("probe.pem", embedded.PROBE))


@contextlib.contextmanager
def running_broker(folder: Path, devices: Sequence[str] = ()) -> Iterator[Broker]:
    """A broker that knows `devices`, stopped at the end."""
    broker = Broker(folder / "broker")
    for device in devices:
        broker.add_device(device)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests that do not stop it."""
    try:
        processes.find_program("nats-server")
    except processes.MissingProgram as error:  # it comes with the cloud, not with the device
        pytest.skip(str(error))
    with running_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running
