"""What the hub says that this device should run, believed only where it is signed, fresh and not older than what was seen before (TUF)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Final

import msgspec
from msgspec import Meta
from tuf.api.exceptions import DownloadError, DownloadLengthMismatchError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher
from urllib3.exceptions import HTTPError

from edgecase_agent import durable
from edgecase_models.policy import MAX_POLICY_BYTES
from edgecase_models.wire import Digest

DEFAULT_COHORT: Final = "default"
MAX_CHANNEL_BYTES: Final = 16_384
_STALL_S: Final = 20
_SLOWEST_BYTES_PER_S: Final = 2_000
_PATIENCE_S: Final = 60.0


class Unreachable(Exception):
    """The hub does not answer, or not in time: try again later; what runs is not affected."""


class Untrusted(Exception):
    """What the hub says is not signed, not fresh, too old or too long: nothing is taken; a person should look."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices of a cohort are to run: the content of `channels/<cohort>.json`."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    version: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    release: Annotated[int, Meta(ge=0)]
    digest: Digest
    target: Annotated[str, Meta(pattern=r"^models/[a-z0-9._-]+/[a-z0-9._-]+\Z")]


class _Custom(msgspec.Struct, frozen=True):
    """What the release key says of a model: the channel key cannot say otherwise."""

    release: int
    digest: Digest


class Trust:
    """The signed repository of a hub. One process at a time may use the folder. Of `cohorts` the first that has a file of its own counts,
    then that of all devices.

    `root` is the trust root that the device was enrolled with. The library writes without syncing, so what it wrote is synced here: a
    cache lost at a power cut would accept a repository rolled back to an older state.
    """

    def __init__(
        self, folder: Path, hub_url: str, root: bytes, *, max_bundle_bytes: int, cohorts: Sequence[str] = ()
    ) -> None:
        self._folder = folder
        self._hub_url = hub_url.rstrip("/")
        self._root = root
        self._max_bundle_bytes = max_bundle_bytes
        self._cohorts = tuple(dict.fromkeys((*cohorts, DEFAULT_COHORT)))
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        for path in (self._metadata, self._targets):
            path.mkdir(parents=True, exist_ok=True)
            for leftover in path.glob("tmp*"):
                leftover.unlink()

    def look(self) -> Signed:
        """What the hub has signed by now. Raises `Unreachable` or `Untrusted`."""
        with _translated("metadata"):
            updater = Updater(
                str(self._metadata),
                f"{self._hub_url}/tuf/metadata/",
                str(self._targets),
                f"{self._hub_url}/tuf/targets/",
                fetcher=_Fetcher(self._targets),
                config=UpdaterConfig(max_delegations=8, max_root_rotations=64),
                bootstrap=self._root,
            )
            updater.refresh()
            durable.sync_tree(self._metadata)
        return Signed(updater, self._metadata, self._targets, self._cohorts, self._max_bundle_bytes)


class Signed:
    """One state of the repository: all that is asked of it fits together. Every method raises `Unreachable` or `Untrusted`."""

    def __init__(
        self, updater: Updater, metadata: Path, targets: Path, cohorts: Sequence[str], max_bundle_bytes: int
    ) -> None:
        """`cohorts`: whose files count; the first that has one."""
        self._updater = updater
        self._metadata = metadata
        self._targets = targets
        self._cohorts = cohorts
        self._max_bundle_bytes = max_bundle_bytes

    def channel(self) -> Channel | None:
        """What this device is to run; None where nothing was released yet."""
        name, content = self._of_the_cohort("channels", MAX_CHANNEL_BYTES)
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=Channel)
        except msgspec.MsgspecError as error:
            raise Untrusted(f"{name} cannot be read: {error}") from error

    def policy(self) -> bytes | None:
        """The policy that this device is to follow, as it travels; None where it is to follow its own."""
        return self._of_the_cohort("policies", MAX_POLICY_BYTES)[1]

    def fetch(self, channel: Channel, part: Path) -> None:
        """Write the channel's model to `part`, whole, verified and synced."""
        with _translated(channel.target):
            target = self._target(channel.target)
            _check(target, channel, self._max_bundle_bytes)
            assert target is not None, "checked"
            try:
                self._updater.download_target(target, str(part))
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        with part.open("rb") as file:
            durable.sync_file(file.fileno(), part)
            target.verify_length_and_hashes(file)

    def _of_the_cohort(self, folder: str, max_bytes: int) -> tuple[str, bytes | None]:
        """The name and content of the cohort's file in a folder of small files; None where there is none."""
        for cohort in self._cohorts:
            name = f"{folder}/{cohort}.json"
            with _translated(name):
                target = self._target(name)
                if target is None:
                    continue
                if target.length > max_bytes:
                    raise Untrusted(f"{name} has {target.length:,} bytes, more than {max_bytes:,}")
                path = self._targets / f"{folder}.json"
                if self._updater.find_cached_target(target, str(path)) is None:
                    self._updater.download_target(target, str(path))
                return name, path.read_bytes()
        return "", None

    def _target(self, name: str) -> TargetFile | None:
        target = self._updater.get_targetinfo(name)
        durable.sync_tree(self._metadata)
        return target


def _check(target: TargetFile | None, channel: Channel, max_bytes: int) -> None:
    """Both keys must say the same: the channel's which model, the release key's what that model is."""
    if target is None:
        raise Untrusted(f"the channel names {channel.target}, which nobody has signed")
    if target.length > max_bytes:
        raise Untrusted(f"{channel.target} has {target.length} bytes, more than update.max_bundle_bytes = {max_bytes}")
    try:
        custom = msgspec.convert(target.custom or {}, _Custom)
    except msgspec.MsgspecError as error:
        raise Untrusted(f"{channel.target} is signed without release and digest: {error}") from error
    if (custom.release, custom.digest) != (channel.release, channel.digest):
        raise Untrusted(f"the channel and the signature of {channel.target} name different releases or digests")
    if target.hashes.get("sha256") != channel.digest:
        raise Untrusted(f"{channel.target} is signed with another sha256 than its digest")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except DownloadLengthMismatchError as error:
        raise Untrusted(f"{what}: the hub sends more than was signed ({error})") from error
    except (DownloadError, HTTPError) as error:  # the library lets what breaks in mid-stream through
        raise Unreachable(f"{what}: {error or type(error).__name__}") from error
    except RepositoryError as error:
        raise Untrusted(f"{what}: {type(error).__name__}: {error}") from error


class _Fetcher(Urllib3Fetcher):
    """Downloads into a folder of ours instead of $TMPDIR, which may be memory, and gives up on a hub that only trickles."""

    def __init__(self, folder: Path) -> None:
        super().__init__(socket_timeout=_STALL_S)
        self._folder = folder

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[Any]]:
        give_up_at_s = time.monotonic() + _PATIENCE_S + max_length / _SLOWEST_BYTES_PER_S
        received = 0
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for chunk in self.fetch(url):
                received += len(chunk)
                if received > max_length:
                    raise DownloadLengthMismatchError(f"{received} bytes of at most {max_length}")
                if time.monotonic() > give_up_at_s:
                    raise DownloadError(f"too slow: {received} bytes in all this time")
                file.write(chunk)
            file.seek(0)
            yield file
