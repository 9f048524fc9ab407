"""Power cuts: a disk takes nothing more from one moment on, its users end, and life goes on with what is on it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.faults.account import account, delivered
from bench.faults.site import Device, Load, a_cloud, a_device
from bench.report import Row
from support.cloud import Cloud
from support.disks import on_disk

DEVICE_CUTS, CLOUD_CUTS = 50, 10
_READY_WITHIN_S = 5.0


def device_cuts(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """The device's whole data folder loses what was not synced, again and again, while it captures and sends."""
    cuts = max(2, round(DEVICE_CUTS * scale))
    chance = random.Random(cuts)
    broken: list[str] = []
    slowest_s = 0.0
    mounted = folder / "device-disk"
    with (
        on_disk(mounted, folder / "device.img", 96 << 20) as disk,
        a_device(cloud, "power-1", folder, data=mounted / "data", load=Load(every_s=0.02, size_bytes=30_000)) as device,
    ):
        device.start()
        for number in range(cuts):
            device.captured(chance.randint(5, 30))
            time.sleep(chance.uniform(0, 0.05))
            device.freeze()
            disk.cut()
            device.kill("writer"), device.kill("uplink")
            disk.come_back()
            broken += _integrity(device)
            began_s = time.monotonic()
            device.start()
            device.captured(1)
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            if number % 10 == 9:
                say(f"{number + 1} of {cuts} cuts, {device.balance().kept:,} frames kept")
        device.stop("writer")
        delivered([device], 60 + 120 * scale)
        device.stop()
        result = account(cloud.services(), [device])
    yield result.row(f"{cuts} power cuts of the device")
    yield Row("power cuts of the device: databases not whole", len(broken), "", bar=0, at_most=True)
    yield Row(
        "power cuts of the device: captures again after", slowest_s, "s at most", bar=_READY_WITHIN_S, at_most=True
    )


def _integrity(device: Device) -> list[str]:
    connection = sqlite3.connect(device.spool / "spool.db")
    try:
        found = connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        found = str(error)
    finally:
        connection.close()
    return [] if found == "ok" else [found]


def cloud_cuts(_: None, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """The cloud's whole data folder loses what was not synced, in strict mode, while a device sends."""
    cuts = max(1, round(CLOUD_CUTS * scale))
    chance = random.Random(cuts)
    mounted = folder / "cloud-disk"
    with (
        on_disk(mounted, folder / "cloud.img", 2 << 30) as disk,
        a_cloud(mounted / "data", durability="strict") as cloud,
        a_device(cloud, "power-2", folder) as device,
    ):
        device.start()
        for number in range(cuts):
            device.acknowledged(10)
            time.sleep(chance.uniform(0, 0.5))
            pids = list(cloud.endpoints.pids.values())
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            disk.cut()
            for pid in reversed(pids):
                os.kill(pid, signal.SIGKILL)
            cloud.kill()
            disk.come_back()
            cloud.start()
            say(f"{number + 1} of {cuts} cuts, {device.balance().acknowledged:,} frames acknowledged")
        device.stop("writer")
        delivered([device], 60 + 120 * scale)
        device.stop()
        result = account(cloud.services(), [device])
    yield result.row(f"{cuts} power cuts of the cloud, strict")
