"""Bytes that change on the device's disk: what can still be sent is sent, the rest is counted as lost on that disk, nothing is hidden."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

from bench.faults.account import ALL, account, delivered
from bench.faults.site import WRITER, Device, Load, a_device
from bench.report import Row
from edgecase_agent.spool import Damaged, Put, Spool
from support.cloud import Cloud

FLIPS = 400
FRAMES = 60
STARTS = 3
"""A start may find the damage and end; the next one, or the one after it, goes on."""

Harm = Callable[[Path, random.Random], None]


def flip(pattern: str) -> Harm:
    """One bit of one byte of one of the files that match."""

    def harm(spool: Path, chance: random.Random) -> None:
        file = chance.choice(sorted(spool.glob(pattern)))
        content = bytearray(file.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)

    return harm


def delete(spool: Path, _: random.Random) -> None:
    """The database is gone."""
    for file in spool.glob("spool.db*"):
        file.unlink()


HARMS: dict[str, Harm] = {
    "a byte of a file": flip("frames/*.jpg"),
    "a byte of the WAL": flip("spool.db-wal"),
    "a byte of the database": flip("spool.db"),
    "the database deleted": delete,
}


def damage(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """Each harm many times over to copies of one spool; then once each to a device that goes on to deliver what it has."""
    flips = max(8, round(FLIPS * scale))
    with a_device(cloud, "damage-0", folder, load=Load(every_s=0.005, size_bytes=3000, ballast_bytes=0)) as device:
        device.start(WRITER)
        device.captured(FRAMES)
        device.kill(WRITER)  # its WAL stays behind
        kept = {promise.frame_id for promise in device.promised() if promise.outcome == Put.KEPT}
        for name, harm in HARMS.items():
            chance = random.Random(name)
            origin = folder / "whole"
            shutil.copytree(device.spool, origin)
            if name == "a byte of the database":
                _fold_in(origin)
            found: Counter[str] = Counter()
            for _ in range(1 if harm is delete else flips):
                copy = folder / "copy"
                shutil.copytree(origin, copy)
                harm(copy, chance)
                found += _after(copy, kept)
                shutil.rmtree(copy)
            shutil.rmtree(origin)
            say(f"{name}: {dict(found)}")
            what = f"{name}, {found['times']} times: frames hidden, accounts that do not close, starts in vain"
            told = f"{found['lost']} frames counted as lost"
            yield Row(what, found["hidden"] + found["unbalanced"] + found["in vain"], told, bar=0, at_most=True)
    for number, (name, harm) in enumerate(HARMS.items(), 1):
        with a_device(cloud, f"damage-{number}", folder, load=Load(every_s=0.02, size_bytes=3000)) as device:
            yield _delivered(cloud, device, name, harm)


def _fold_in(spool: Path) -> None:
    """Write the WAL into the database, as the last one to close it does."""
    connection = sqlite3.connect(spool / "spool.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _after(spool_folder: Path, kept: set[str]) -> Counter[str]:
    """What a device finds in its spool when it starts again, and what becomes of the frames."""
    found = Counter(times=1)
    for _ in range(STARTS):
        try:
            with Spool(spool_folder, ALL, putting=True, ballast_bytes=0) as spool:
                whole: set[str] = set()
                for entry in spool.due(ALL, inf):
                    try:
                        spool.open(entry).close()
                        spool.meta(entry)
                        whole.add(entry.frame_id)
                    except Damaged as error:
                        spool.lost(entry.frame_id, str(error))
                told = {event.frame_id for event in spool.events(ALL) if event.kind == "lost_local"}
                found["lost"] += len(told & kept)
                found["hidden"] += len(kept - whole - told)
                found["unbalanced"] += not spool.balance().holds
                return found
        except Exception as error:  # noqa: BLE001 (a loop that ends, however it does, is started again)
            found[type(error).__name__] += 1
    found["in vain"] += 1
    return found


def _delivered(cloud: Cloud, device: Device, name: str, harm: Harm) -> Row:
    device.start(WRITER)
    device.captured(FRAMES)
    device.kill(WRITER)
    if name == "a byte of the database":
        _fold_in(device.spool)
    harm(device.spool, random.Random(7))
    device.start()
    device.captured(5)
    device.stop(WRITER)
    delivered([device], 60)
    device.stop()
    return account(cloud.services(), [device], damaged=True).row(f"{name}, then delivered")
