"""Two places for a model: one runs, the other is written. Which one runs changes in a single rename."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from edgecase_agent import durable
from edgecase_models.wire import Digest

SlotName = Literal["a", "b"]
BUNDLE: Final = "bundle.tar"
ACTIVE: Final = "active.json"


class SlotError(RuntimeError):
    """There is no model that can run; the message says what to do."""


class Active(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `active.json`. `seed_digest` is the bundle that was last placed by hand."""

    slot: SlotName
    digest: Digest
    release: int
    seed_digest: str = ""


@dataclass(frozen=True)
class ActiveSlot:
    """The model that runs, or is to run as soon as the watch loop has loaded it. `by_hand`: it is the seed, which a person named."""

    slot: SlotName
    digest: str
    release: int
    path: Path
    by_hand: bool = False


class Slots:
    """`a/bundle.tar`, `b/bundle.tar` and `active.json`. Writers take a lock; readers need none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def active(self) -> ActiveSlot | None:
        """What is to run; None before the first start. Cheap enough to ask every second: the bundle is not opened."""
        record = self._record()
        return None if record is None else self._slot(record)

    def idle(self) -> Path | None:
        """The bundle in the slot that does not run; None where there is none."""
        path = self._folder / _other(self._record()) / BUNDLE
        return path if path.is_file() else None

    def part(self) -> Path:
        """Where the next bundle is written: in the idle slot, on the same disk as its final name."""
        folder = self._folder / _other(self._record())
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{BUNDLE}.part"

    def switch(self, part: Path, digest: str, release: int) -> ActiveSlot:
        """Make the verified and synced bundle at `part` the one that runs. A power cut leaves the old one or the new one."""
        with self._locked():
            record = self._record()
            return self._switch(part, digest, release, "" if record is None else record.seed_digest)

    def raise_release(self, release: int) -> None:
        """The running bundle was released under this number: nothing up to it will be taken from now on."""
        with self._locked():
            record = self._record()
            if record is not None and release > record.release:
                self._write(msgspec.structs.replace(record, release=release))

    def intact(self, slot: ActiveSlot) -> bool:
        """Whether its bundle is byte for byte what was laid down."""
        return _digest_of(slot.path) == slot.digest

    def step_back(self, failed: ActiveSlot) -> ActiveSlot | None:
        """The active model cannot be loaded: run what ran before it, if that is still there."""
        with self._locked():
            record = self._record()
            if record is None or record.digest != failed.digest:
                return None if record is None else self._slot(record)
            return self._fall_back(record)

    def start(self, seed: Path) -> ActiveSlot:
        """The model to run at a start: the active one, or the other slot's where that is damaged, or the seed.

        A seed with another digest than the last one was placed by hand: it takes over and keeps the release, so that only a higher one
        replaces it. A seed that is gone is missed only where it is needed. Raises `SlotError` where nothing can run.
        """
        with self._locked():
            record = self._record()
            seed_digest = _digest_of(seed)
            if record is None or (seed_digest and seed_digest != record.seed_digest):
                return self._sow(seed, 0 if record is None else record.release)
            if self.intact(self._slot(record)):
                return self._slot(record)
            return self._fall_back(record) or self._sow(seed, _once_more(record.release))

    def _sow(self, seed: Path, release: int) -> ActiveSlot:
        from edgecase_models.bundle import (
            Bundle,
            BundleError,
        )  # brings ONNX Runtime, which the update loop does not need

        part = self.part().with_name("seed.tar.part")
        try:
            shutil.copyfile(seed, part)
        except OSError as error:
            raise SlotError(
                f"model.bundle {seed}: cannot be copied ({error.strerror}); name a bundle that can be read"
            ) from error
        try:
            bundle = Bundle.open(part)
            bundle.verify_golden()
        except BundleError as error:
            part.unlink()
            raise SlotError(f"model.bundle {seed}: {_without(error, part)}") from error
        with part.open("rb") as file:
            durable.sync_file(file.fileno(), part)
        return self._switch(part, bundle.digest, release, bundle.digest)

    def _fall_back(self, record: Active) -> ActiveSlot | None:
        """The active bundle is damaged: what ran before it is better than nothing."""
        from edgecase_models.bundle import Bundle, BundleError

        other = _other(record)
        try:
            digest = Bundle.open(self._folder / other / BUNDLE).digest
        except BundleError:
            return None
        fallen = msgspec.structs.replace(record, slot=other, digest=digest, release=_once_more(record.release))
        self._write(fallen)
        return self._slot(fallen)

    def _switch(self, part: Path, digest: str, release: int, seed_digest: str) -> ActiveSlot:
        slot = _other(self._record())
        durable.publish(part, self._folder / slot / BUNDLE)
        record = Active(slot=slot, digest=digest, release=release, seed_digest=seed_digest)
        self._write(record)
        return self._slot(record)

    def _slot(self, record: Active) -> ActiveSlot:
        path, by_hand = self._folder / record.slot / BUNDLE, record.digest == record.seed_digest
        return ActiveSlot(record.slot, record.digest, record.release, path, by_hand)

    def _record(self) -> Active | None:
        """None also where it cannot be read: then the seed runs, and the trust metadata still refuses older releases."""
        try:
            return msgspec.json.decode((self._folder / ACTIVE).read_bytes(), type=Active)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, record: Active) -> None:
        durable.replace(self._folder / ACTIVE, msgspec.json.encode(record))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        for name in ("a", "b"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _other(record: Active | None) -> SlotName:
    return "b" if record is not None and record.slot == "a" else "a"


def _once_more(release: int) -> int:
    """One below, so that the release that was damaged here may come again."""
    return max(0, release - 1)


def _digest_of(path: Path) -> str:
    """The sha256 of a file; '' where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _without(error: Exception, path: Path) -> str:
    return str(error).replace(f"bundle {path}: ", "")
