"""What a device may fetch: only what was signed, only from where it was signed for, never older than it has seen; and no crash breaks it.

The client is the real one (`tuf.ngclient`) over HTTP.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the [cloud] extra is not installed")

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater

from edgecase_cloud.release import CHANNELS, MODELS, POLICIES, Channel, KeysMissing, ReleaseError, Repository
from support.http_server import serving

NOW = datetime.now(UTC).replace(microsecond=0)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """The test's output stays clean."""


class Client:
    """A device's view: its own trust cache, fetching over HTTP."""

    def __init__(self, folder: Path, url: str, root: bytes) -> None:
        self.folder, self._url, self._root = folder, url, root
        for name in ("trust", "got"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def updater(self) -> Updater:
        return Updater(
            str(self.folder / "trust"),
            f"{self._url}/metadata/",
            str(self.folder / "got"),
            f"{self._url}/targets/",
            bootstrap=self._root,
        )

    def fetch(self, target: str) -> bytes | None:
        updater = self.updater()
        updater.refresh()
        info = updater.get_targetinfo(target)
        return None if info is None else Path(updater.download_target(info)).read_bytes()

    def channel(self) -> Channel:
        content = self.fetch("channels/default.json")
        assert content is not None
        return Channel(**json.loads(content))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "data")
    made.ensure()
    return made


@pytest.fixture
def url(repository: Repository) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(repository.metadata.parent))
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        yield address


@pytest.fixture
def client(repository: Repository, url: str, tmp_path: Path) -> Client:
    return Client(tmp_path / "device", url, repository.trust_root())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar"
    path.write_bytes(os.urandom(5000))
    return path


def release(repository: Repository, bundle: Path, number: int = 1, **more: object) -> Channel:
    return repository.publish(bundle, name="street", version=f"v{number}", release=number, **more)  # type: ignore[arg-type]


def resign(repository: Repository, role: str, signed: Targets | Snapshot | Timestamp | Root) -> None:
    """Store metadata of a role, signed with the keys of that role, as whoever holds them could."""
    repository._store(role, repository._signed(role, signed))


# ---- what a device gets


def test_a_device_fetches_exactly_the_bundle_that_its_channel_names(
    repository: Repository, client: Client, bundle: Path
) -> None:
    told = release(repository, bundle)
    channel = client.channel()
    assert channel == told
    content = client.fetch(channel.target)
    assert content == bundle.read_bytes()
    assert hashlib.sha256(content).hexdigest() == channel.digest
    info = client.updater().get_targetinfo(channel.target)
    assert info is not None
    assert info.custom == {"name": "street", "version": "v1", "release": 1, "digest": channel.digest}


def test_before_the_first_release_a_device_is_told_nothing(repository: Repository, client: Client) -> None:
    assert repository.channel() is None
    assert client.fetch("channels/default.json") is None


def test_a_second_release_replaces_the_first_on_the_channel_and_both_stay_genuine(
    repository: Repository, client: Client, bundle: Path
) -> None:
    first = release(repository, bundle)
    client.channel()
    bundle.write_bytes(b"the next model")
    second = release(repository, bundle, 2)
    assert client.channel() == second
    assert client.fetch(second.target) == b"the next model"
    assert client.fetch(first.target) is not None
    assert repository.channel() == second


def test_cohorts_are_told_apart(repository: Repository, client: Client, bundle: Path) -> None:
    release(repository, bundle)
    other = release(repository, bundle, 2, channel="canary")
    assert client.channel().release == 1
    assert json.loads(client.fetch("channels/canary.json") or b"")["release"] == other.release == 2


# ---- what a device refuses


def test_a_flipped_byte_is_refused(repository: Repository, client: Client, bundle: Path) -> None:
    channel = release(repository, bundle)
    stored = repository.targets / f"models/street/{channel.digest}.v1.tar"
    content = bytearray(stored.read_bytes())
    content[100] ^= 1
    stored.write_bytes(content)
    with pytest.raises(LengthOrHashMismatchError):
        client.fetch(channel.target)


def test_an_old_timestamp_is_refused(repository: Repository, client: Client, bundle: Path) -> None:
    release(repository, bundle)
    old = (repository.metadata / "timestamp.json").read_bytes()
    release(repository, bundle, 2, now=NOW)
    client.channel()
    (repository.metadata / "timestamp.json").write_bytes(old)
    with pytest.raises(BadVersionNumberError):
        client.channel()


def test_an_old_snapshot_under_a_stolen_timestamp_key_is_refused(
    repository: Repository, client: Client, bundle: Path
) -> None:
    release(repository, bundle)
    release(repository, bundle, 2)
    client.channel()
    timestamp = repository._load(Timestamp.type, Timestamp)
    timestamp.signed.snapshot_meta = MetaFile(timestamp.signed.snapshot_meta.version - 1)
    timestamp.signed.version += 1
    resign(repository, Timestamp.type, timestamp.signed)
    with pytest.raises(RepositoryError):
        client.channel()


def test_the_models_key_cannot_speak_for_a_channel_or_for_anything_outside_models(
    repository: Repository, client: Client, bundle: Path
) -> None:
    honest = release(repository, bundle)
    models = repository._load(MODELS, Targets).signed
    for path in ("channels/default.json", "channels/evil.json", "firmware.bin", "models/flat.tar"):
        models.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])
    models.version += 1
    resign(repository, MODELS, models)
    repository._commit(NOW)
    assert client.channel() == honest
    for path in ("channels/evil.json", "firmware.bin", "models/flat.tar"):
        assert client.fetch(path) is None


def test_the_channels_key_cannot_make_a_model_genuine(repository: Repository, client: Client, bundle: Path) -> None:
    release(repository, bundle)
    channels = repository._load(CHANNELS, Targets).signed
    channels.targets["models/street/evil.tar"] = TargetFile.from_data("models/street/evil.tar", b"evil", ["sha256"])
    channels.version += 1
    resign(repository, CHANNELS, channels)
    repository._commit(NOW)
    assert client.fetch("models/street/evil.tar") is None


def test_metadata_signed_by_another_repository_is_refused(
    repository: Repository, client: Client, bundle: Path, tmp_path: Path
) -> None:
    release(repository, bundle)
    stranger = Repository(tmp_path / "stranger")
    stranger.ensure()
    release(stranger, bundle, 9)
    shutil.copy(stranger.metadata / "timestamp.json", repository.metadata / "timestamp.json")
    with pytest.raises(UnsignedMetadataError):
        client.channel()


def test_a_root_signed_by_one_of_two_keys_is_refused(repository: Repository, client: Client, bundle: Path) -> None:
    release(repository, bundle)
    root = repository._load(Root.type, Root).signed
    root.version += 1
    alone = Metadata(root)
    alone.sign(repository._signer(repository.keys / "root-1.pem"))
    repository._store(Root.type, alone)
    with pytest.raises(UnsignedMetadataError):
        client.channel()


def test_an_expired_timestamp_is_refused_and_a_refresh_cures_it(
    repository: Repository, client: Client, bundle: Path
) -> None:
    release(repository, bundle)
    timestamp = repository._load(Timestamp.type, Timestamp).signed
    timestamp.expires = NOW - timedelta(hours=1)
    timestamp.version += 1
    resign(repository, Timestamp.type, timestamp)
    with pytest.raises(ExpiredMetadataError):
        client.channel()
    assert repository.refresh().renewed == (Timestamp.type,)
    assert client.channel().release == 1


# ---- policies


POLICY = b'{"format":"edgecase-policy/1","name":"night"}'


def test_a_policy_is_fetched_by_its_cohort_replaced_and_withdrawn(repository: Repository, client: Client) -> None:
    assert repository.policies() == {}
    assert repository.publish_policy(POLICY)
    assert repository.publish_policy(b"vans", cohort="van")
    assert (client.fetch("policies/default.json"), client.fetch("policies/van.json")) == (POLICY, b"vans")
    assert repository.policies() == {"default": POLICY, "van": b"vans"}
    assert repository.publish_policy(b"another")
    assert client.fetch("policies/default.json") == b"another"
    assert repository.withdraw_policy()
    assert client.fetch("policies/default.json") is None
    assert repository.policies() == {"van": b"vans"}


def test_publishing_or_withdrawing_a_policy_twice_changes_nothing(repository: Repository) -> None:
    assert not repository.withdraw_policy()
    repository.publish_policy(POLICY)
    before = {path: path.read_bytes() for path in repository.metadata.iterdir()}
    assert not repository.publish_policy(POLICY)
    assert {path: path.read_bytes() for path in repository.metadata.iterdir()} == before


def test_the_keys_of_models_and_channels_cannot_speak_for_a_policy(repository: Repository, client: Client) -> None:
    repository.publish_policy(POLICY)
    for role in (MODELS, CHANNELS):
        signed = repository._load(role, Targets).signed
        signed.targets["policies/default.json"] = TargetFile.from_data("policies/default.json", b"evil", ["sha256"])
        signed.version += 1
        resign(repository, role, signed)
    repository._commit(NOW)
    assert client.fetch("policies/default.json") == POLICY


def test_an_old_policy_under_stolen_online_keys_is_refused(repository: Repository, client: Client) -> None:
    repository.publish_policy(POLICY)
    repository.publish_policy(b"newer")
    assert client.fetch("policies/default.json") == b"newer"
    snapshot = repository._load(Snapshot.type, Snapshot).signed
    snapshot.meta["policies.json"] = MetaFile(snapshot.meta["policies.json"].version - 1)
    snapshot.version += 1
    resign(repository, Snapshot.type, snapshot)
    timestamp = repository._load(Timestamp.type, Timestamp).signed
    timestamp.snapshot_meta = MetaFile(snapshot.version)
    timestamp.version += 1
    resign(repository, Timestamp.type, timestamp)
    with pytest.raises(BadVersionNumberError):
        client.fetch("policies/default.json")


@pytest.mark.parametrize("cohort", ["", "../up", "Upper"])
def test_a_cohort_that_is_no_file_name_is_refused(repository: Repository, cohort: str) -> None:
    with pytest.raises(ReleaseError, match="is not 1 to 64 of"):
        repository.publish_policy(POLICY, cohort=cohort)


@pytest.fixture
def older(repository: Repository) -> Repository:
    """A repository as it was made before there were policies."""
    targets = repository._load(Targets.type, Targets)
    assert targets.signed.delegations is not None
    assert targets.signed.delegations.roles is not None
    del targets.signed.delegations.roles[POLICIES]
    (repository.keys / "policies.pem").unlink()
    (repository.metadata / "1.policies.json").unlink()
    repository._bump(Targets.type, targets, NOW)
    repository._commit(NOW)
    return repository


def test_a_repository_from_before_policies_learns_of_them(older: Repository, client: Client, bundle: Path) -> None:
    told = release(older, bundle)
    assert (client.channel(), client.fetch("policies/default.json")) == (told, None)
    older.ensure()
    older.publish_policy(POLICY)
    assert (client.channel(), client.fetch("policies/default.json")) == (told, POLICY)


def test_an_older_repository_whose_targets_key_is_elsewhere_goes_on_without_policies(
    older: Repository, client: Client, bundle: Path
) -> None:
    (older.keys / "targets.pem").rename(older.keys.parent / "targets.pem")
    older.ensure()
    told = release(older, bundle)
    older.refresh(NOW + timedelta(hours=13))
    assert client.channel() == told
    with pytest.raises(KeysMissing, match="0 of 1 keys for role targets"):
        older.publish_policy(POLICY)
    assert client.channel() == told


# ---- keeping it fresh


def test_a_fresh_repository_needs_no_refresh(repository: Repository) -> None:
    assert repository.refresh().renewed == ()


def test_every_role_is_renewed_before_it_expires(repository: Repository, client: Client, bundle: Path) -> None:
    """A year with a refresh every fifth day, as a machine that sleeps does: each leaves nothing that expires within the day."""
    release(repository, bundle)
    root = repository.trust_root()
    for day in range(1, 400, 5):
        now = NOW + timedelta(days=day)
        repository.refresh(now)
        for role, kind in ((Root.type, Root), (Targets.type, Targets), (MODELS, Targets), (CHANNELS, Targets)):
            assert repository._load(role, kind).signed.expires > now + timedelta(days=1)
        assert repository._load(Timestamp.type, Timestamp).signed.expires > now + timedelta(hours=11)
    assert repository.trust_root() != root
    assert client.channel().release == 1


def test_roles_whose_keys_were_taken_elsewhere_are_named_and_the_rest_is_renewed(
    repository: Repository, bundle: Path
) -> None:
    release(repository, bundle)
    for name in ("root-1.pem", "root-2.pem", "targets.pem"):
        (repository.keys / name).rename(repository.keys.parent / name)
    refreshed = repository.refresh(NOW + timedelta(days=300))
    assert set(refreshed.keyless) == {Root.type, Targets.type}
    assert {Snapshot.type, Timestamp.type, MODELS, CHANNELS} <= set(refreshed.renewed)


# ---- publishing


def test_publishing_twice_changes_nothing(repository: Repository, bundle: Path) -> None:
    release(repository, bundle)
    before = {path: path.read_bytes() for path in repository.metadata.iterdir()}
    release(repository, bundle)
    assert {path: path.read_bytes() for path in repository.metadata.iterdir()} == before


@pytest.mark.parametrize("killed_after", range(13))
def test_a_kill_at_any_moment_of_a_release_is_finished_by_the_next_try(
    repository: Repository, client: Client, bundle: Path, killed_after: int
) -> None:
    """The process is killed after its n-th change to the disk; clients see release 1 or 2, and the next try completes 2."""
    release(repository, bundle)
    bundle.write_bytes(b"the next model")
    script = f"""
import os, signal, sys
from pathlib import Path
from edgecase_cloud.release import Repository
left = {killed_after}
def killed(event, args):
    global left
    if event in ("os.rename", "open") and (event == "os.rename" or args[2] & os.O_CREAT):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.addaudithook(killed)
Repository(Path({str(repository.metadata.parents[1])!r})).publish(Path({str(bundle)!r}), name="street", version="v2", release=2)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert client.channel().release in (1, 2)
    told = release(repository, bundle, 2)
    assert client.channel() == told
    assert client.fetch(told.target) == b"the next model"


def test_a_release_number_never_goes_down_or_is_given_twice(repository: Repository, bundle: Path) -> None:
    release(repository, bundle, 3)
    with pytest.raises(ReleaseError, match="channel default is at release 3"):
        release(repository, bundle, 2)
    with pytest.raises(ReleaseError, match="needs a higher number than 3"):
        repository.publish(bundle, name="street", version="other", release=3)


def test_a_version_is_never_signed_with_other_bytes(repository: Repository, bundle: Path) -> None:
    release(repository, bundle)
    bundle.write_bytes(b"other bytes")
    with pytest.raises(ReleaseError, match=r"models/street/v1\.tar was signed with other bytes"):
        repository.publish(bundle, name="street", version="v1", release=2)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Upper", ".hidden", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(repository: Repository, bundle: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match="is not 1 to 64 of"):
        repository.publish(bundle, name=name, version="v1", release=1)


# ---- keys


def test_keys_are_readable_by_their_owner_only_and_others_are_refused(repository: Repository, bundle: Path) -> None:
    assert repository.keys.stat().st_mode & 0o777 == 0o700
    keys = sorted(repository.keys.iterdir())
    assert len(keys) == 9
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    (repository.keys / "models.pem").chmod(0o644)
    with pytest.raises(ReleaseError, match=r"models\.pem may be read by others; run chmod 600"):
        release(repository, bundle)


def test_a_missing_key_stops_a_release_and_says_which(repository: Repository, client: Client, bundle: Path) -> None:
    release(repository, bundle)
    (repository.keys / "channels.pem").unlink()
    with pytest.raises(KeysMissing, match="0 of 1 keys for role channels"):
        release(repository, bundle, 2)
    assert client.channel().release == 1


def test_keys_are_never_made_anew_for_a_repository_that_devices_trust(repository: Repository) -> None:
    (repository.keys / "models.pem").unlink()
    repository.ensure()
    assert not (repository.keys / "models.pem").exists()


def test_a_repository_whose_making_was_cut_off_is_completed(tmp_path: Path, bundle: Path) -> None:
    made = Repository(tmp_path / "half")
    made.ensure()
    for path in made.metadata.iterdir():
        if path.name != "1.root.json":
            path.unlink()
    root = made.trust_root()
    made.ensure()
    assert made.trust_root() == root
    assert release(made, bundle).release == 1


def test_a_repository_that_was_never_made_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no repository yet; start `edgecase-cloud up`"):
        Repository(tmp_path).trust_root()


def test_a_server_that_is_gone_is_no_verdict(client: Client, repository: Repository) -> None:
    client._url = "http://127.0.0.1:9"
    with pytest.raises((DownloadError, OSError)):
        client.channel()
