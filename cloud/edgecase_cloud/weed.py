"""The embedded object store: SeaweedFS in one process, on loopback, that serves nobody without a key."""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecase_cloud import durable, private, processes

_ADMIN_GRPC_OFFSET: Final = 10_000  # the built-in worker looks for the admin server's gRPC there, whatever is set


@dataclass(frozen=True)
class Keys:
    """The one identity that the store knows."""

    access_key: str
    secret_key: str


def keys(folder: Path) -> Keys:
    """The keys of the store, made at the first call and kept in `folder`."""
    return Keys(private.secret(folder / "store-access-key", 10), private.secret(folder / "store-secret-key"))


def command(folder: Path, identity: Keys, *, host: str, s3_port: int) -> list[str | Path]:
    """Prepare `folder` and give the command line that serves it; run it with `folder` as its working folder.

    Everything but S3 gets some free port: master, volume and filer are the store's own business. Their HTTP sides are
    closed by the keys in security.toml; the data folder's mode closes the sockets.
    """
    program = processes.find_program("weed")
    private.folder(folder)
    durable.write(folder / "s3.json", json.dumps(_identities(identity)).encode(), mode=0o600)
    if not (folder / "security.toml").exists():
        durable.write(folder / "security.toml", _security().encode(), mode=0o600)
    ports = _inner_ports(folder / "ports.json", host, avoid=s3_port)
    return [
        program,
        "-logtostderr=true",
        "mini",
        "-dir=.",
        f"-ip={host}",
        f"-ip.bind={host}",
        f"-s3.port={s3_port}",
        *(f"-{name}={port}" for name, port in ports.items()),
        "-s3.config=s3.json",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-admin.ui=false",
        "-webdav=false",
        "-volume.preStopSeconds=0",  # there is no other server that would have to notice
        "-master.telemetry=false",  # on by default
    ]


def _identities(identity: Keys) -> dict[str, object]:
    credentials = [{"accessKey": identity.access_key, "secretKey": identity.secret_key}]
    return {
        "identities": [
            {"name": "edgecase", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        ]
    }


def _security() -> str:
    sections = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    return "\n".join(f'[{name}]\nkey = "{secrets.token_hex(32)}"\nexpires_after_seconds = 60\n' for name in sections)


def _inner_ports(path: Path, host: str, avoid: int) -> dict[str, int]:
    """The ports of last time where they are free (the master names its state by its port), others where not."""
    names = (
        "master.port",
        "volume.port",
        "filer.port",
        "admin.port",
        "master.port.grpc",
        "volume.port.grpc",
        "filer.port.grpc",
        "s3.port.grpc",
    )
    known: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text())
    taken = {avoid}
    chosen: dict[str, int] = {}
    for name in names:
        port = known.get(name, 0)
        while not _usable(name, port, host, taken):
            port = processes.free_port(host, below=processes.EPHEMERAL_FROM - _ADMIN_GRPC_OFFSET)
        chosen[name] = port
        taken |= {port, port + _ADMIN_GRPC_OFFSET}
    if chosen != known:
        durable.write(path, json.dumps(chosen).encode(), mode=0o600)
    return chosen


def _usable(name: str, port: int, host: str, taken: set[int]) -> bool:
    wanted = {port, port + _ADMIN_GRPC_OFFSET} if name == "admin.port" else {port}
    return port > 0 and not wanted & taken and all(processes.is_free_everywhere(host, each) for each in wanted)
