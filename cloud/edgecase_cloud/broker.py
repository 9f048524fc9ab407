"""The embedded MQTT broker: a nats-server whose users reach their own topics and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecase_cloud import processes
from edgecase_models import wire

INGEST: Final = "@ingest"  # no device id has an '@', so no device can be called like this
PROBE: Final = "@probe"
CREDENTIAL: Final = "broker.pem"  # files in the folder keys, each a certificate with its key
INGEST_CREDENTIAL: Final = "ingest.pem"
PROBE_CREDENTIAL: Final = "probe.pem"
ASK_TOPIC: Final = f"{wire.ROOT}/probe/ask"  # ingest answers what is said here, on ANSWER_TOPIC
ANSWER_TOPIC: Final = f"{wire.ROOT}/probe/answer"

_SUBJECT: Final = wire.ROOT.replace("/", ".")
_SESSIONS: Final = "$MQTT.sub.>"  # where the server delivers QoS 1 messages of a session


@dataclass(frozen=True)
class User:
    """The subject of a certificate, with the subjects of messages (topics with dots) that it may publish and subscribe to."""

    subject: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def device_user(device: str, enrolment: str) -> User:
    """A device writes under its own `up/` and reads its own `down/`. Certificates of its other enrolments are not this user's."""
    down = f"{_SUBJECT}.down.{device}"
    subject = f"SERIALNUMBER={enrolment},CN={device}"  # as the server writes it (RFC 2253: last part first)
    return User(subject, (f"{_SUBJECT}.up.{device}.>",), (down, f"{down}.>", _SESSIONS))


def ingest_user() -> User:
    """Ingest reads every `up/` and writes every `down/`."""
    probe = f"{_SUBJECT}.probe.>"
    up = f"{_SUBJECT}.up"
    return User(f"CN={INGEST}", (f"{_SUBJECT}.down.>", probe), (up, f"{up}.>", f"{_SUBJECT}.probe", probe, _SESSIONS))


def probe_user() -> User:
    """The one that asks whether the broker and ingest answer."""
    probe = f"{_SUBJECT}.probe.>"
    return User(f"CN={PROBE}", (probe,), (f"{_SUBJECT}.probe", probe, _SESSIONS))


def configuration(
    users: Iterable[User],
    *,
    host: str,
    mqtt_port: int,
    credential: Path,
    authority: Path,
    max_store_bytes: int = 4 << 30,
    ack_wait_s: int = 10,
) -> str:
    """A nats-server configuration; `jetstream/` lies in the server's working folder.

    `credential` is the server's certificate with its key, `authority` the CA whose client certificates are looked at. A user is who
    holds a certificate with its subject; there are no passwords.
    `sync_interval: always` is what makes a PUBACK survive a power cut; the default loses two minutes. After `ack_wait_s`
    a message that its receiver has not let go of is sent again, also to a receiver that has just come back.
    """
    return "\n".join(
        [
            'server_name: "edgecase"',
            f"host: {json.dumps(host)}",
            "port: -1",  # the protocol of NATS itself: any free port, since it cannot be closed, and no user may use it
            "debug: true",  # some lines a connection, none a message: only these tell whose connection is refused something
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
            "  tls {",
            f"    cert_file: {json.dumps(str(credential))}",
            f"    key_file: {json.dumps(str(credential))}",
            f"    ca_file: {json.dumps(str(authority))}",
            "    verify_and_map: true",
            "    timeout: 10",
            "  }",
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
    """Let a running server read its configuration again; connections whose user is unchanged stay, those without a user go."""
    with contextlib.suppress(ProcessLookupError):  # it reads it at its next start
        os.kill(pid, signal.SIGHUP)


def client_context(authority: Path, credential: Path) -> ssl.SSLContext:
    """For one of our own clients: whom it believes, and who it is."""
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(credential)
    return context


def accepts(host: str, port: int, context: ssl.SSLContext, timeout_s: float = 2.0) -> bool:
    """Whether the broker answers and lets this client in: one CONNECT (MQTT 3.1.1, section 3.1), one CONNACK."""
    protocol, client = (struct.pack(">H", len(text)) + text for text in (b"MQTT", secrets.token_hex(8).encode()))
    clean_session = b"\x02"
    body = protocol + b"\x04" + clean_session + struct.pack(">H", 10) + client
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall(b"\x10" + bytes([len(body)]) + body)
            answer = connection.recv(4)
            if answer[:1] == b"\x20" and answer[3:4] == b"\x00":
                connection.sendall(b"\xe0\x00")  # DISCONNECT
                return True
    except OSError:
        return False
    return False


def _entry(user: User) -> str:
    def allow(subjects: tuple[str, ...]) -> str:
        return f"{{ allow: {json.dumps(list(subjects))} }}"

    return (
        f'{{ user: {json.dumps(user.subject)}, allowed_connection_types: ["MQTT"], '
        f"permissions: {{ publish: {allow(user.publish)}, subscribe: {allow(user.subscribe)} }} }}"
    )
