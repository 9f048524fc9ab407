"""Files that are whole after a power cut: written beside, synced, renamed, and the folder synced."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class StorageFailed(RuntimeError):
    """The disk did not confirm a write. What it holds is unknown: end the process loudly, never try the same write again.

    After a failed fsync the kernel marks the pages clean, so a second fsync would succeed without the data being there
    (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    """


def is_full(error: OSError) -> bool:
    """Whether the disk, or this user's share of it, is full."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def sync_file(descriptor: int, name: Path) -> None:
    """Make the file's content durable, or raise `StorageFailed`; a full disk or quota stays the `OSError` that it is."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if is_full(error):
            raise
        raise StorageFailed(f"{name}: the disk did not confirm a write ({error}); check the disk") from error


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable, or raise `StorageFailed`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor, folder)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write and sync a new file; nothing of it stays where this raises `OSError` (a full disk) or `StorageFailed`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            sync_file(descriptor, path)
        finally:
            os.close(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def publish(part: Path, final: Path) -> None:
    """Give a synced file its final name, durably. `part` must lie in the folder of `final`."""
    part.replace(final)
    sync_folder(final.parent)


def replace(path: Path, content: bytes) -> None:
    """Replace `path` whole and durably: a reader, or a power cut at any moment, finds the old content or the new."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write_synced(part, content)
    publish(part, path)


def replace_lazily(path: Path, content: bytes) -> None:
    """Replace `path` whole for readers, without wearing the disk: after a power cut it may be the old one, or empty.

    For reports that are written every second and can be lost.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`: for libraries that rename without syncing."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            continue
        if path.is_dir():
            sync_folder(path)
        else:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                sync_file(descriptor, path)
            finally:
                os.close(descriptor)
    sync_folder(folder)
