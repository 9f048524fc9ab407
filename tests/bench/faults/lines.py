"""The lines of the benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.faults.away import away
from bench.faults.clones import clones
from bench.faults.damage import damage
from bench.faults.full import cloud_full, full
from bench.faults.identity import identity
from bench.faults.kills import kills
from bench.faults.late import late
from bench.faults.links import WEATHERS, link
from bench.faults.power import cloud_cuts, device_cuts
from bench.faults.speed import deliver, put
from bench.report import Row

Work = Callable[[Any, Path, float, Callable[[str], None]], Iterator[Row]]


@dataclass(frozen=True)
class Line:
    """`work` takes a cloud (None where it wants none ready-made), a folder, how much of it to do, and whom to tell."""

    name: str
    work: Work
    wants_cloud: bool = True


LINES: Final = (
    Line("kills", kills),
    Line("device-power", device_cuts),
    Line("cloud-power", cloud_cuts, wants_cloud=False),
    Line("broker-away", away("broker")),
    Line("store-away", away("store")),
    Line("ingest-away", away("ingest")),
    *(Line(f"{kind}-link", link(kind)) for kind in WEATHERS),
    Line("disk-full", full),
    Line("cloud-full", cloud_full, wants_cloud=False),
    Line("damage", damage),
    Line("late-messages", late),
    Line("clones", clones),
    Line("identity", identity),
    Line("put-speed", put, wants_cloud=False),
    Line("speed", deliver),
)
