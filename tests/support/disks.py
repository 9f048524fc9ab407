"""Disks to be filled and cut from power: an ext4 file system in a file, or a small one in memory. Both take root."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.wait import until

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_LOG = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH


class NoDisk(RuntimeError):
    """No disk can be made here; the message says why."""


def _mount(*arguments: str | Path) -> None:
    if os.geteuid() != 0:
        raise NoDisk("disks are made and mounted, which only root may do")
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    if done.returncode:
        raise NoDisk(f"no disk can be mounted here: {done.stderr.decode().strip()}")


def _unmounted(folder: Path) -> bool:
    return subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    if not _unmounted(folder):
        subprocess.run(["umount", "-l", folder], check=False)


@contextlib.contextmanager
def in_memory(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A disk of this size at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder)
    try:
        yield folder
    finally:
        _unmount(folder)


@dataclass
class Disk:
    """An ext4 file system in the file `image`, mounted at `folder`."""

    image: Path
    folder: Path

    def cut(self) -> None:
        """The power fails: at once nothing reaches the disk any more. What its users have not synced may be on it or not, as it came.

        A copy of the image would not do: while it is made the kernel goes on writing, and it may hold what never was at one moment.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG))
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """The power is back, and all that used the disk has ended: as the cut left it, its journal replayed."""
        gc.collect()  # databases that this process has opened and forgotten
        until(lambda: _unmounted(self.folder), within_s=20, what=f"{self.folder} to be let go of")
        _mount("-o", "loop", self.image, self.folder)


@contextlib.contextmanager
def on_disk(folder: Path, image: Path, size_bytes: int) -> Iterator[Disk]:
    """An ext4 disk of this size at `folder`; `NoDisk` where none can be had."""
    if shutil.which("mkfs.ext4") is None:
        raise NoDisk("no mkfs.ext4 is here")
    folder.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", image], check=True)
    _mount("-o", "loop", image, folder)
    try:
        yield Disk(image, folder)
    finally:
        _unmount(folder)
        image.unlink()


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Take all room but so much; the file that takes it."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize) > leave_bytes:
            file.write(bytes(min(free - leave_bytes, 1 << 20)))
    return filler
