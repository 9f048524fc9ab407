"""A disk that is full, the device's or the cloud's, wherever the writing stands: nothing promised is lost, and nobody has to come."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.faults.account import account, delivered
from bench.faults.site import PARTS, Load, a_cloud, a_device
from bench.report import Row
from support.cloud import Cloud
from support.disks import fill, in_memory

FILLS, CLOUD_FILLS = 40, 5
DISK_BYTES, CLOUD_DISK_BYTES = 12 << 20, 512 << 20
GOES_ON_WITHIN_S = 120.0
LEFT_BYTES = (0, 4096, 20_000, 70_000, 300_000)
"""What is left free decides which write is the first to fail: a picture, a page of the database, its log, the ballast."""


def full(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """Somebody else fills the disk and empties it, again and again, while the device captures and sends."""
    fills = max(len(LEFT_BYTES), round(FILLS * scale))
    chance = random.Random(fills)
    ends = 0
    load = Load(every_s=0.03, size_bytes=40_000, quota_bytes=6_000_000, ballast_bytes=512 << 10)
    with (
        in_memory(folder / "small-disk", DISK_BYTES) as disk,
        a_device(cloud, "full-1", folder, data=disk / "data", load=load) as device,
    ):
        device.start()
        device.captured(10)
        for number in range(fills):
            filler = fill(disk, LEFT_BYTES[number % len(LEFT_BYTES)])
            time.sleep(chance.uniform(0.2, 0.8))
            if number % 3 == 2:  # and starts on a full disk
                part = PARTS[number // 3 % 2]
                device.stop(part)
                device.start(part)
                time.sleep(1.0)
            for part in PARTS:
                if not device.runs(part):
                    ends += 1
                    say(f"{part} ended: {device.log(part)[-300:]}")
                    device.start(part)
            filler.unlink()
            time.sleep(chance.uniform(0.1, 0.4))
            if number % 10 == 9:
                say(f"the disk was full {number + 1} times, {device.balance().kept:,} frames")
        device.captured(5)
        device.stop("writer")
        delivered([device], 60 + 60 * scale)
        device.stop()
        said = {promise.outcome for promise in device.promised()}
        result = account(cloud.services(), [device], out_of_room=True)
    say(f"what put said: {', '.join(sorted(said))}")
    yield result.row(f"disk full {fills} times")
    yield Row("disk full: halves of the device that ended by it", ends, "", bar=0, at_most=True)


def cloud_full(_: None, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """The same to the disk of broker, store and catalogue, while a device sends; it has to wait, and what it sends then arrives."""
    fills = max(1, round(CLOUD_FILLS * scale))
    chance = random.Random(fills)
    slowest_s = 0.0
    with (
        in_memory(folder / "cloud-disk", CLOUD_DISK_BYTES) as disk,
        a_cloud(disk / "data") as cloud,
        a_device(cloud, "full-2", folder, load=Load(every_s=0.1, size_bytes=40_000)) as device,
    ):
        device.start()
        device.acknowledged(10)
        for number in range(fills):
            filler = fill(disk, LEFT_BYTES[number % len(LEFT_BYTES)])
            time.sleep(chance.uniform(3, 6))
            filler.unlink()
            began_s = time.monotonic()
            device.acknowledged(10, within_s=2 * GOES_ON_WITHIN_S)
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            say(f"the disk was full {number + 1} times, {device.balance().acknowledged:,} frames acknowledged")
        device.stop("writer")
        delivered([device], 60 + 120 * scale)
        device.stop()
        result = account(cloud.services(), [device])
    yield result.row(f"disk of the cloud full {fills} times")
    yield Row(
        "disk of the cloud full: frames arrive again after", slowest_s, "s at most", bar=GOES_ON_WITHIN_S, at_most=True
    )
