"""SIGKILL at random moments: for both halves of two devices, the broker, the store, ingest, and the whole cloud."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.faults.account import account, delivered
from bench.faults.site import PARTS, SERVERS, Device, a_device, pid_of
from bench.report import Row
from support.cloud import Cloud

KILLS = 200
_IN_A_ROW = 20
"""After so many the whole cloud is killed: its supervisor waits ever longer between the starts of a part that keeps dying."""


def kills(
    cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None], *, whole_cloud: bool = True
) -> Iterator[Row]:
    """Kill, start again, go on; then let everything arrive and count."""
    total = max(7, round(KILLS * scale))
    chance = random.Random(total)
    done: Counter[str] = Counter()
    with ExitStack() as stack:
        devices = [stack.enter_context(a_device(cloud, f"kills-{n}", folder)) for n in (1, 2)]
        for device in devices:
            device.start()
            device.captured(3)
        for number, target in enumerate(_targets(devices, total, chance, whole_cloud=whole_cloud)):
            time.sleep(chance.uniform(0.05, 0.6))
            _kill(cloud, devices, target)
            done[target] += 1
            if number % 10 == 9:
                kept = sum(device.balance().kept for device in devices)
                say(f"{number + 1} of {total} SIGKILLs, {kept:,} frames kept")
        for device in devices:
            device.captured(3)
            device.stop("writer")
        delivered(devices, 60 + 240 * scale)
        for device in devices:
            device.stop()
        result = account(cloud.services(), devices)
    say(", ".join(f"{name} {count}" for name, count in sorted(done.items())))
    yield result.row(f"{total} SIGKILLs over two devices, broker, store, ingest")


def _targets(devices: Sequence[Device], total: int, chance: random.Random, *, whole_cloud: bool) -> Iterator[str]:
    halves = [f"{device.name}'s {part}" for device in devices for part in PARTS]
    for first in range(0, total, _IN_A_ROW):
        targets = [*SERVERS, *halves, *SERVERS * 3, *chance.choices(halves, k=_IN_A_ROW)][: _IN_A_ROW - whole_cloud]
        targets = targets[: total - first]
        chance.shuffle(targets)
        yield from targets
        if whole_cloud and total - first > len(targets):
            yield "cloud"


def _kill(cloud: Cloud, devices: Sequence[Device], target: str) -> None:
    if target == "cloud":
        cloud.kill()
        cloud.start()
    elif target in SERVERS:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid_of(cloud, target), signal.SIGKILL)
    else:
        name, _, part = target.partition("'s ")
        device = next(device for device in devices if device.name == name)
        device.kill(part)
        device.start(part)
