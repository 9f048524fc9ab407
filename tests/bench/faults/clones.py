"""Two devices with one identity, as after an SD card was copied: both are told of, and no frame of either is lost or mixed up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from bench.faults.account import account, delivered
from bench.faults.site import PARTS, Load, a_device
from bench.report import Row
from edgecase_cloud.catalogue import Event
from edgecase_cloud.services import Services
from support.cloud import Cloud

WITHIN_S = 180.0
"""They must have been alive together for a minute before anybody can be sure."""


def clones(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """One enrolment on two machines that capture and send at once; then one is taken away, and the other delivers what both have."""
    with a_device(cloud, "clone", folder, load=Load(every_s=1.0)) as first:
        copied = folder / "clone-copy"
        shutil.copytree(first.folder, copied)
        second = replace(first, folder=copied, data=copied / "data", running={})
        second.configure()
        parts = cloud.services()
        try:
            began_s = time.monotonic()
            first.start()
            second.start()
            first.until(lambda: len(_runs(parts, first.name)) >= 2, WITHIN_S, "two runs to be told of")
            told_s = time.monotonic() - began_s
            say(f"told after {told_s:.0f} s")
            for device in (first, second):
                device.captured(1)
                device.stop(*PARTS)
            for device in (first, second):
                device.start("uplink")
                delivered([device], 60)
                device.stop()
            result = account(parts, [first, second])
        finally:
            second.stop()
    yield result.row("two devices with one identity")
    yield Row("two devices with one identity: both told of after", told_s, "s", bar=WITHIN_S, at_most=True)


def _runs(parts: Services, device: str) -> set[str]:
    """The runs that stand in the event of a shared identity."""
    with parts.catalogue.session() as session:
        events = session.scalars(sa.select(Event).where(Event.kind == "shared identity", Event.subject == device)).all()
    return {run["run"] for event in events for run in event.detail["runs"]}
