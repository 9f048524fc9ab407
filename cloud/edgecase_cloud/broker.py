"""The embedded MQTT broker: a nats-server whose users reach their own topics and nothing else."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecase_cloud import processes
from edgecase_models import wire

INGEST: Final = "@ingest"  # no device id has an '@', so no device can be called like this
PROBE: Final = "@probe"
INGEST_KEY: Final = "broker-ingest"  # files in the folder keys
PROBE_KEY: Final = "broker-probe"
ASK_TOPIC: Final = f"{wire.ROOT}/probe/ask"  # ingest answers what is said here, on ANSWER_TOPIC
ANSWER_TOPIC: Final = f"{wire.ROOT}/probe/answer"

_SUBJECT: Final = wire.ROOT.replace("/", ".")
_SESSIONS: Final = "$MQTT.sub.>"  # where the server delivers QoS 1 messages of a session


@dataclass(frozen=True)
class User:
    """A name and a password, with the subjects (topics with dots) that it may publish and subscribe to."""

    name: str
    password: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def device_user(device: str, password: str) -> User:
    """A device writes under its own `up/` and reads its own `down/`."""
    down = f"{_SUBJECT}.down.{device}"
    return User(device, password, (f"{_SUBJECT}.up.{device}.>",), (down, f"{down}.>", _SESSIONS))


def ingest_user(password: str) -> User:
    """Ingest reads every `up/` and writes every `down/`."""
    probe = f"{_SUBJECT}.probe.>"
    up = f"{_SUBJECT}.up"
    return User(INGEST, password, (f"{_SUBJECT}.down.>", probe), (up, f"{up}.>", f"{_SUBJECT}.probe", probe, _SESSIONS))


def probe_user(password: str) -> User:
    """The one that asks whether the broker and ingest answer."""
    probe = f"{_SUBJECT}.probe.>"
    return User(PROBE, password, (probe,), (f"{_SUBJECT}.probe", probe, _SESSIONS))


def configuration(
    users: Iterable[User], *, host: str, mqtt_port: int, max_store_bytes: int = 4 << 30, ack_wait_s: int = 10
) -> str:
    """A nats-server configuration; `jetstream/` lies in the server's working folder.

    `sync_interval: always` is what makes a PUBACK survive a power cut; the default loses two minutes. After `ack_wait_s`
    a message that its receiver has not let go of is sent again, also to a receiver that has just come back.
    """
    return "\n".join(
        [
            'server_name: "edgecase"',
            f"host: {json.dumps(host)}",
            "port: -1",  # the protocol of NATS itself is not used; any free port
            "max_payload: 262144",
            "jetstream {",
            '  store_dir: "."',
            "  sync_interval: always",
            "  max_memory_store: 67108864",
            f"  max_file_store: {max_store_bytes}",
            "}",
            "mqtt {",
            f"  host: {json.dumps(host)}",
            f"  port: {mqtt_port}",
            f'  ack_wait: "{ack_wait_s}s"',
            "  max_ack_pending: 512",  # what ingest can work through within ack_wait
            "}",
            "authorization {",
            "  timeout: 5",
            "  users: [",
            *(f"    {_entry(user)}" for user in users),
            "  ]",
            "}",
            "",
        ]
    )


def command(configuration_file: Path) -> list[str | Path]:
    """The command line of the server, or `MissingProgram`."""
    return [processes.find_program("nats-server"), "-c", configuration_file]


def reload(pid: int) -> None:
    """Let a running server read its configuration again; connections whose user is unchanged stay."""
    os.kill(pid, signal.SIGHUP)


def accepts(host: str, port: int, user: str, password: str, timeout_s: float = 2.0) -> bool:
    """Whether the broker answers and lets this user in: one CONNECT (MQTT 3.1.1, section 3.1), one CONNACK."""
    fields = (b"MQTT", secrets.token_hex(8).encode(), user.encode(), password.encode())
    protocol, client, *login = (struct.pack(">H", len(text)) + text for text in fields)
    clean_session_with_login = b"\xc2"
    body = protocol + b"\x04" + clean_session_with_login + struct.pack(">H", 10) + client + b"".join(login)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(b"\x10" + _length(len(body)) + body)
            answer = connection.recv(4)
            if answer[:1] == b"\x20" and answer[3:4] == b"\x00":
                connection.sendall(b"\xe0\x00")  # DISCONNECT
                return True
    except OSError:
        return False
    return False


def _length(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _entry(user: User) -> str:
    def allow(subjects: tuple[str, ...]) -> str:
        return f"{{ allow: {json.dumps(list(subjects))} }}"

    return (
        f"{{ user: {json.dumps(user.name)}, password: {json.dumps(user.password)}, "
        'allowed_connection_types: ["MQTT"], '
        f"permissions: {{ publish: {allow(user.publish)}, subscribe: {allow(user.subscribe)} }} }}"
    )
