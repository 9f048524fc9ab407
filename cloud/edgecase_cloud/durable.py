"""Files and folders that survive a power cut: written beside, synced, then given their name."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


class Busy(RuntimeError):
    """Another process holds the lock; wait for it or let it do the work."""


class StorageFailed(OSError):
    """The disk does not confirm a write. What was written since the last time may be gone, so whoever meets this ends."""


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Give `path` this content, whole or not at all. The file is never readable by more than `mode` allows."""
    with _beside(path, mode) as file:
        file.write(content)


def copy(source: Path, path: Path, mode: int = 0o644) -> None:
    """Copy a file to `path`, whole or not at all."""
    with source.open("rb") as given, _beside(path, mode) as file:
        shutil.copyfileobj(given, file, 1 << 20)


def link(source: Path, path: Path) -> None:
    """A second name for a file that never changes; a copy where the file system cannot link."""
    try:
        path.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:
        copy(source, path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def trust_the_kernel() -> None:
    """What was written survives a kill of every process; a power cut takes what was written in the last seconds."""


def sync_filesystem(folder: Path) -> Callable[[], None]:
    """A call that returns when everything on the file system of `folder` is on the disk (syncfs); it raises `StorageFailed`."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def sync() -> None:
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise StorageFailed(number, os.strerror(number), str(folder))

    return sync


def publish_folder(written: Path, path: Path) -> None:
    """Give a finished folder its final name in the same parent, durably; the files in it must be synced already."""
    for folder, _, _ in os.walk(written):
        sync_folder(Path(folder))
    written.rename(path)
    sync_folder(path.parent)


@contextmanager
def exclusive(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold a lock between processes; `Busy` where it is held elsewhere and `wait` is false. It goes with the process that holds it.

    Any number may hold it `shared`, none of them while one holds it alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Busy(f"{path.name} is held by another process") from error
        yield


@contextmanager
def _beside(path: Path, mode: int) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
