"""A hub with a real signed repository, which can be made to misbehave as an attacker would."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from support.http_server import serving

DELEGATED = {"models": "models/*/*", "channels": "channels/*", "policies": "policies/*"}


@dataclass
class Hub:
    """A repository under `folder`, served at `url`. `publish` signs a release; `damage` changes bytes on their way."""

    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    damage: Callable[[str, bytes], bytes] = lambda _path, content: content
    lifetime: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        roles = ("root", "targets", "snapshot", "timestamp", *DELEGATED)
        self.signers = {role: CryptoSigner.generate_ed25519() for role in roles}
        self.versions = dict.fromkeys(roles, 0)
        self.targets: dict[str, dict[str, TargetFile]] = {role: {} for role in DELEGATED}
        root = Root(expires=self._expiry(), consistent_snapshot=True)
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(self.signers[role].public_key, role)
        self.root = self._write("root", root)
        keys = {self.signers[role].public_key.keyid: self.signers[role].public_key for role in DELEGATED}
        delegations = {
            role: DelegatedRole(role, [self.signers[role].public_key.keyid], 1, True, [pattern])
            for role, pattern in DELEGATED.items()
        }
        self._write("targets", Targets(expires=self._expiry(), delegations=Delegations(keys, delegations)))
        self.commit()

    def publish(self, bundle: Path, release: int, /, *, version: str = "", cohort: str = "default", **says: Any) -> str:
        """Release a bundle on a cohort's channel; `says` makes the channel say something else. The digest."""
        digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
        version = version or f"v{release}"
        path = f"models/tiny/{version}.tar"
        custom = {"name": "tiny", "version": version, "release": release, "digest": digest}
        self.add("models", path, bundle.read_bytes(), custom)
        channel = {"name": "tiny", "version": version, "release": release, "digest": digest, "target": path}
        self.add("channels", f"channels/{cohort}.json", json.dumps(channel | says).encode())
        self.commit()
        return digest

    def publish_policy(self, content: bytes | None, cohort: str = "default") -> None:
        """Sign a policy for a cohort; None withdraws it."""
        if content is None:
            del self.targets["policies"][f"policies/{cohort}.json"]
        else:
            self.add("policies", f"policies/{cohort}.json", content)
        self.commit()

    def add(self, role: str, path: str, content: bytes, custom: dict[str, Any] | None = None) -> None:
        """Sign a target."""
        target = TargetFile.from_data(path, content, ["sha256"])
        if custom:
            target.unrecognized_fields["custom"] = custom
        folder, _, name = path.rpartition("/")
        stored = self.folder / "targets" / folder / f"{target.hashes['sha256']}.{name}"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(content)
        self.targets[role][path] = target

    def commit(self) -> None:
        """Sign the delegated roles, a snapshot and a timestamp."""
        for role, targets in self.targets.items():
            self._write(role, Targets(expires=self._expiry(), targets=dict(targets)))
        meta = {f"{role}.json": MetaFile(self.versions[role]) for role in ("targets", *DELEGATED)}
        self._write("snapshot", Snapshot(expires=self._expiry(), meta=meta))
        self._write("timestamp", Timestamp(expires=self._expiry(), snapshot_meta=MetaFile(self.versions["snapshot"])))

    def copy(self) -> dict[Path, bytes]:
        """The repository as it is, to go back to with `restore`."""
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def restore(self, files: dict[Path, bytes]) -> None:
        """What an attacker with an old copy serves."""
        for path in self.folder.rglob("*.json"):
            path.unlink()
        for path, content in files.items():
            path.write_bytes(content)

    def _expiry(self) -> datetime:
        return (datetime.now(UTC) + self.lifetime).replace(microsecond=0)

    def _write(self, role: str, signed: Any) -> bytes:
        self.versions[role] += 1
        signed.version = self.versions[role]
        metadata = Metadata(signed)
        metadata.sign(self.signers[role])
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        (self.folder / "metadata").mkdir(parents=True, exist_ok=True)
        content = metadata.to_bytes()
        (self.folder / "metadata" / name).write_bytes(content)
        return content


class _Handler(SimpleHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self.hub.requests.append(self.path)
        path = self.hub.folder / self.path.removeprefix("/tuf/")
        if not path.is_file():
            self.send_error(404)
            return
        content = self.hub.damage(self.path, path.read_bytes())
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    """A hub on a free loopback port."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    with serving(server) as hub.url:
        yield hub
