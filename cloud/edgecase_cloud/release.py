"""The signed repository that devices fetch models and policies from (TUF): what is genuine, who gets it, and how fresh the answer is."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgecase_cloud import durable
from edgecase_cloud.errors import Unusable

MODELS, CHANNELS, POLICIES = "models", "channels", "policies"
DEFAULT_CHANNEL: Final = "default"
SAFE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSIONED: Final = re.compile(r"([1-9][0-9]*)\.([a-z]+)\.json")

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


class ReleaseError(Unusable):
    """Nothing was released, and devices see what they saw before; the message says what stands in the way."""


class KeysMissing(ReleaseError):
    """A role cannot be signed for because its keys were taken elsewhere; put them back to sign."""


@dataclass(frozen=True)
class Custody:
    """How a role is held: its keys, how many must sign, how long a signature lasts and when it is renewed."""

    keys: int
    threshold: int
    lifetime: timedelta
    renew_within: timedelta


CUSTODY: Final[Mapping[str, Custody]] = {
    Root.type: Custody(3, 2, timedelta(days=365), timedelta(days=90)),
    Targets.type: Custody(1, 1, timedelta(days=365), timedelta(days=90)),
    MODELS: Custody(1, 1, timedelta(days=90), timedelta(days=30)),
    CHANNELS: Custody(1, 1, timedelta(days=7), timedelta(days=3.5)),
    POLICIES: Custody(1, 1, timedelta(days=90), timedelta(days=30)),
    Snapshot.type: Custody(1, 1, timedelta(days=7), timedelta(days=3.5)),
    Timestamp.type: Custody(1, 1, timedelta(days=1), timedelta(hours=12)),
}
# A star stands for one part of a path: models/<name>/<version>.tar, channels/<cohort>.json and policies/<cohort>.json.
_DELEGATED: Final[Mapping[str, str]] = {MODELS: "models/*/*", CHANNELS: "channels/*", POLICIES: "policies/*"}


class HasData(Protocol):
    """Settings, as far as a repository needs them."""

    @property
    def data(self) -> Path: ...


@dataclass(frozen=True)
class Channel:
    """What a cohort of devices is told to run; the content of `channels/<cohort>.json`."""

    name: str
    version: str
    release: int
    digest: str
    target: str

    def content(self) -> bytes:
        """The signed file, the same bytes for the same channel."""
        return json.dumps(vars(self), sort_keys=True).encode() + b"\n"


@dataclass(frozen=True)
class Refreshed:
    """The roles that were signed anew, and those that should have been but whose keys are not here, with their expiry."""

    renewed: tuple[str, ...]
    keyless: Mapping[str, datetime]


def ensure_repository(settings: HasData) -> Repository:
    """The repository of a data folder; keys and first metadata are made where there are none."""
    repository = Repository(settings.data)
    repository.ensure()
    return repository


class Repository:
    """TUF metadata and targets under `releases/`, keys under `keys/tuf/`.

    Every change goes target file, then delegated metadata, then snapshot, and the timestamp last, each synced before the next: a client
    sees the state before or the state after. Every step is skipped where it is done already, so the same call finishes what a crash cut
    off. One process writes at a time; others wait.
    """

    def __init__(self, data: Path) -> None:
        self.metadata = data / "releases" / "metadata"
        self.targets = data / "releases" / "targets"
        self.keys = data / "keys" / "tuf"

    def ensure(self, now: datetime | None = None) -> None:
        """Make what is missing of keys and metadata. Keys are only ever made for a repository that has no root yet, or for a role that it
        lacks, being made by an older version.
        """
        now = now or datetime.now(UTC)
        with self._lock():
            self.metadata.mkdir(parents=True, exist_ok=True)
            self.targets.mkdir(parents=True, exist_ok=True)
            if self._newest(Root.type) is None:
                self._make_keys()
                self._store(Root.type, self._first_root(now))
            if self._newest(Targets.type) is None:
                self._store(Targets.type, self._first_targets(now))
            with suppress(KeysMissing):  # an older repository whose targets are signed elsewhere: it goes on as it is
                self._delegate(now)
            self._commit(now)

    def trust_root(self) -> bytes:
        """The root metadata that a new device is given: what it trusts before it has fetched anything."""
        version = self._newest(Root.type)
        if version is None:
            raise ReleaseError(f"{self.metadata}: no repository yet; start `edgecase-cloud up` once, or import a model")
        return (self.metadata / f"{version}.root.json").read_bytes()

    def channel(self, channel: str = DEFAULT_CHANNEL) -> Channel | None:
        """What a cohort was last told to run; None before the first release."""
        if self._newest(CHANNELS) is None:
            return None
        target = self._load(CHANNELS, Targets).signed.targets.get(f"channels/{channel}.json")
        if target is None:
            return None
        path = self._target_path(target)
        try:
            return Channel(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise ReleaseError(f"{path} cannot be read ({error}); restore releases/ from a copy") from error

    def publish(
        self,
        bundle: Path,
        *,
        name: str,
        version: str,
        release: int,
        channel: str = DEFAULT_CHANNEL,
        now: datetime | None = None,
    ) -> Channel:
        """Sign a bundle as genuine and point a channel at it. Calling it again with the same arguments changes nothing.

        Raises `ReleaseError` for a name that is no file name, a release that is not above the channel's, a version that was released with
        other bytes, or a missing key; devices then see what they saw before.
        """
        now = now or datetime.now(UTC)
        for what, text in (("name", name), ("version", version), ("channel", channel)):
            if not SAFE_NAME.fullmatch(text):
                raise ReleaseError(f"{what} {text!r} is not 1 to 64 of a-z, 0-9, '.', '_' and '-'")
        if release < 1:
            raise ReleaseError(f"release {release} is not a number from 1 on")
        with bundle.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        wanted = Channel(name, version, release, digest, f"models/{name}/{version}.tar")
        with self._lock():
            if not self._is_newer(wanted, channel):
                self._commit(now)
                return wanted
            self._add_model(bundle, wanted, now)
            self._point(channel, wanted, now)
            self._commit(now)
        return wanted

    def policies(self) -> dict[str, bytes]:
        """Each cohort's policy, as it travels."""
        if self._newest(POLICIES) is None:
            return {}
        found = {}
        for name, target in sorted(self._load(POLICIES, Targets).signed.targets.items()):
            path = self._target_path(target)
            try:
                found[name.removeprefix("policies/").removesuffix(".json")] = path.read_bytes()
            except OSError as error:
                raise ReleaseError(f"{path} cannot be read ({error}); restore releases/ from a copy") from error
        return found

    def publish_policy(self, policy: bytes, *, cohort: str = DEFAULT_CHANNEL, now: datetime | None = None) -> bool:
        """Sign what the devices of a cohort are to look for; False where they are told that already.

        Raises `ReleaseError` for a cohort that is no file name or a missing key; devices then see what they saw before.
        """
        return self._set_policy(policy, cohort, now or datetime.now(UTC))

    def withdraw_policy(self, *, cohort: str = DEFAULT_CHANNEL, now: datetime | None = None) -> bool:
        """Sign that a cohort has no policy of its own any more; False where it had none. Raises `ReleaseError`."""
        return self._set_policy(None, cohort, now or datetime.now(UTC))

    def refresh(self, now: datetime | None = None) -> Refreshed:
        """Sign anew what will expire soon. Roles whose keys were taken elsewhere are named, not renewed."""
        now = now or datetime.now(UTC)
        renewed: list[str] = []
        keyless: dict[str, datetime] = {}
        with self._lock():
            for role in (Root.type, Targets.type, *self._delegated()):
                metadata: Metadata[Any] = self._load(role, Root) if role == Root.type else self._load(role, Targets)
                if metadata.signed.expires - now > CUSTODY[role].renew_within:
                    continue
                try:
                    self._bump(role, metadata, now)
                    renewed.append(role)
                except KeysMissing:
                    keyless[role] = metadata.signed.expires
            renewed += self._commit(now)
        return Refreshed(tuple(renewed), keyless)

    # ---- the steps of a release, each idempotent

    def _is_newer(self, wanted: Channel, channel: str) -> bool:
        current = self.channel(channel)
        if current is None or current.release < wanted.release:
            return True
        if current == wanted:
            return False
        raise ReleaseError(
            f"channel {channel} is at release {current.release} ({current.name} {current.version}); {wanted.name} {wanted.version} needs "
            f"a higher number than {wanted.release}"
        )

    def _add_model(self, bundle: Path, wanted: Channel, now: datetime) -> None:
        metadata = self._load(MODELS, Targets)
        known = metadata.signed.targets.get(wanted.target)
        if known is not None and known.hashes["sha256"] != wanted.digest:
            raise ReleaseError(f"{wanted.target} was signed with other bytes; pack the bundle under a new version")
        target = TargetFile.from_file(wanted.target, str(bundle), ["sha256"])
        target.unrecognized_fields["custom"] = {
            "name": wanted.name,
            "version": wanted.version,
            "release": wanted.release,
            "digest": wanted.digest,
        }
        path = self._target_path(target)
        if not path.is_file() or path.stat().st_size != target.length:
            durable.copy(bundle, path)
        if known is None:
            metadata.signed.targets[wanted.target] = target
            self._bump(MODELS, metadata, now)

    def _point(self, channel: str, wanted: Channel, now: datetime) -> None:
        metadata = self._load(CHANNELS, Targets)
        target = TargetFile.from_data(f"channels/{channel}.json", wanted.content(), ["sha256"])
        path = self._target_path(target)
        durable.write(path, wanted.content())
        metadata.signed.targets[target.path] = target
        self._bump(CHANNELS, metadata, now)

    def _set_policy(self, policy: bytes | None, cohort: str, now: datetime) -> bool:
        if not SAFE_NAME.fullmatch(cohort):
            raise ReleaseError(f"cohort {cohort!r} is not 1 to 64 of a-z, 0-9, '.', '_' and '-'")
        name = f"policies/{cohort}.json"
        with self._lock():
            self._delegate(now)
            metadata = self._load(POLICIES, Targets)
            told = metadata.signed.targets.pop(name, None)
            target = None if policy is None else TargetFile.from_data(name, policy, ["sha256"])
            changed = (told and told.hashes) != (target and target.hashes)
            if policy is not None and target is not None:
                durable.write(self._target_path(target), policy)
                metadata.signed.targets[name] = target
            if changed:
                self._bump(POLICIES, metadata, now)
            self._commit(now)
        return changed

    def _delegated(self) -> list[str]:
        """The roles that targets speaks of: a repository made by an older version may lack the later ones."""
        delegations = self._load(Targets.type, Targets).signed.delegations
        roles = {} if delegations is None else delegations.roles or {}
        return [role for role in _DELEGATED if role in roles]

    def _delegate(self, now: datetime) -> None:
        """See that every role is delegated and has metadata. Raises `KeysMissing` where targets lacks one and its key is elsewhere."""
        missing = [role for role in _DELEGATED if role not in self._delegated()]
        if missing:
            self._make_keys(missing)
            targets = self._load(Targets.type, Targets)
            self._add_delegations(targets.signed, missing)
            self._bump(Targets.type, targets, now)
        for role in self._delegated():
            if self._newest(role) is None:
                self._store(role, self._signed(role, Targets(1, expires=_expiry(role, now))))

    def _commit(self, now: datetime) -> list[str]:
        """Make the newest metadata what clients see: a snapshot of it, and a timestamp that points to the snapshot."""
        renewed: list[str] = []
        wanted = {f"{role}.json": MetaFile(self._version(role)) for role in (Targets.type, *self._delegated())}
        version = self._newest(Snapshot.type)
        snapshot = self._load(Snapshot.type, Snapshot) if version else None
        if snapshot is None:
            snapshot = self._signed(Snapshot.type, Snapshot(1, expires=_expiry(Snapshot.type, now), meta=wanted))
            self._store(Snapshot.type, snapshot)
        elif snapshot.signed.meta != wanted or _is_due(Snapshot.type, snapshot, now):
            snapshot.signed.meta = wanted
            self._bump(Snapshot.type, snapshot, now)
            renewed.append(Snapshot.type)
        pointed = MetaFile(snapshot.signed.version)
        if not (self.metadata / "timestamp.json").exists():
            first = Timestamp(1, expires=_expiry(Timestamp.type, now), snapshot_meta=pointed)
            self._store(Timestamp.type, self._signed(Timestamp.type, first))
            return renewed
        timestamp = self._load(Timestamp.type, Timestamp)
        if timestamp.signed.snapshot_meta != pointed or _is_due(Timestamp.type, timestamp, now):
            timestamp.signed.snapshot_meta = pointed
            self._bump(Timestamp.type, timestamp, now)
            renewed.append(Timestamp.type)
        return renewed

    # ---- metadata files

    def _bump(self, role: str, metadata: Metadata[Any], now: datetime) -> None:
        metadata.signed.version += 1
        metadata.signed.expires = _expiry(role, now)
        self._store(role, self._signed(role, metadata.signed))

    def _signed(self, role: str, signed: S) -> Metadata[S]:
        """Sign with every key of the role that is here; `ReleaseError` where they are too few."""
        custody = CUSTODY[role]
        metadata = Metadata(signed)
        signers = [self._signer(path) for path in self._key_paths(role) if path.exists()]
        if len(signers) < custody.threshold:
            raise KeysMissing(
                f"{len(signers)} of {custody.threshold} keys for role {role} are in {self.keys}; put the missing ones back to sign"
            )
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata

    def _store(self, role: str, metadata: Metadata[Any]) -> None:
        name = "timestamp.json" if role == Timestamp.type else f"{metadata.signed.version}.{role}.json"
        durable.write(self.metadata / name, metadata.to_bytes())

    def _load(self, role: str, kind: type[S]) -> Metadata[S]:
        path = self.metadata / ("timestamp.json" if role == Timestamp.type else f"{self._version(role)}.{role}.json")
        try:
            metadata: Metadata[S] = Metadata.from_file(str(path))
        except (RepositoryError, OSError) as error:
            raise ReleaseError(f"{path} cannot be read ({error}); restore releases/ from a copy") from error
        if not isinstance(metadata.signed, kind):
            raise ReleaseError(f"{path} holds {metadata.signed.type} metadata; restore releases/ from a copy")
        return metadata

    def _newest(self, role: str) -> int | None:
        matches = (_VERSIONED.fullmatch(path.name) for path in self.metadata.glob(f"*.{role}.json"))
        return max((int(match[1]) for match in matches if match), default=None)

    def _version(self, role: str) -> int:
        version = self._newest(role)
        if version is None:
            raise ReleaseError(
                f"{self.metadata}: no {role} metadata; start `edgecase-cloud up` once, or import a model"
            )
        return version

    def _target_path(self, target: TargetFile) -> Path:
        folder, _, name = target.path.rpartition("/")
        return self.targets / folder / f"{target.hashes['sha256']}.{name}"

    # ---- keys

    def _first_root(self, now: datetime) -> Metadata[Root]:
        root = Root(1, expires=_expiry(Root.type, now), consistent_snapshot=True)
        for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type):
            root.roles[role] = Role([], CUSTODY[role].threshold)
            for path in self._key_paths(role):
                root.add_key(self._signer(path).public_key, role)
        return self._signed(Root.type, root)

    def _first_targets(self, now: datetime) -> Metadata[Targets]:
        targets = Targets(1, expires=_expiry(Targets.type, now), delegations=Delegations({}, {}))
        self._add_delegations(targets, _DELEGATED)
        return self._signed(Targets.type, targets)

    def _add_delegations(self, targets: Targets, names: Iterable[str]) -> None:
        assert targets.delegations is not None, "made with some"
        assert targets.delegations.roles is not None, "named roles, not hashed bins"
        for name in names:
            role = DelegatedRole(name, [], CUSTODY[name].threshold, terminating=True, paths=[_DELEGATED[name]])
            targets.delegations.roles[name] = role
            for path in self._key_paths(name):
                targets.add_key(self._signer(path).public_key, name)

    def _key_paths(self, role: str) -> list[Path]:
        count = CUSTODY[role].keys
        return [self.keys / (f"{role}.pem" if count == 1 else f"{role}-{n}.pem") for n in range(1, count + 1)]

    def _make_keys(self, roles: Iterable[str] = CUSTODY) -> None:
        self.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in roles:
            for path in self._key_paths(role):
                if not path.exists():
                    durable.write(path, CryptoSigner.generate_ed25519().private_bytes, 0o600)

    def _signer(self, path: Path) -> CryptoSigner:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ReleaseError(f"{path} may be read by others; run chmod 600 on it")
        try:
            return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
        except (ValueError, TypeError) as error:
            raise ReleaseError(f"{path} is not a private key ({error}); restore it from a copy") from error

    def _lock(self) -> AbstractContextManager[None]:
        return durable.exclusive(self.metadata.parent / ".lock")


def _expiry(role: str, now: datetime) -> datetime:
    return (now + CUSTODY[role].lifetime).replace(microsecond=0)


def _is_due(role: str, metadata: Metadata[Any], now: datetime) -> bool:
    expires: datetime = metadata.signed.expires
    return expires - now <= CUSTODY[role].renew_within
