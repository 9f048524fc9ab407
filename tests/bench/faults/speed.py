"""How fast the careful way is: a put beside how many frames wait, and frames from capture to acknowledged beside plain PUTs.

python -m bench.faults.speed --scale 0.1    a tenth of it; part of `make faults`, which should run on a quiet machine
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from boto3.session import Session
from botocore.config import Config

from bench.faults.account import ALL, account
from bench.faults.site import UPLINK, WRITER, Load, a_cloud, a_device, a_folder
from bench.faults.writer import describe, unique_jpeg
from bench.report import Report, Row
from edgecase_agent.spool import Put, Spool
from edgecase_cloud.store import BUCKET
from support.cloud import Cloud

SPOOLED, PUTS, FRAMES = 100_000, 1_000, 1_000
SIZE_BYTES, FILLER_BYTES = 200_000, 2_000
FLAT, RATIO = 1.25, 0.7


def put(_: None, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """Puts into an empty spool and into a full one, in turns, so that whatever else the disk does befalls both.

    The full one holds small frames, which take as many rows and files as large ones; of those, no file is synced.
    """
    waiting, puts = max(1000, round(SPOOLED * scale)), max(50, round(PUTS * scale))
    took_ms: dict[str, list[float]] = {"empty": [], "full": []}
    with Spool(folder / "empty", ALL, putting=True) as empty, Spool(folder / "full", 10 * ALL, putting=True) as full:
        with _no_file_synced():
            for number in range(waiting):
                assert full.put(unique_jpeg(FILLER_BYTES), describe(0.5)).outcome is Put.KEPT
                if number % 10_000 == 9_999:
                    say(f"{number + 1:,} frames wait")
        os.sync()
        for _ in range(puts):
            for name, spool in (("empty", empty), ("full", full)):
                content, meta = unique_jpeg(SIZE_BYTES), describe(0.9)
                start_s = time.perf_counter()
                spool.put(content, meta)
                took_ms[name].append((time.perf_counter() - start_s) * 1e3)
                spool.offered(meta.frame_id)
                spool.acknowledged(meta.frame_id)
    for percent in (50, 99):
        few, many = (float(np.percentile(took_ms[name], percent)) for name in ("empty", "full"))
        yield Row(f"put of 200 kB, p{percent}, nothing spooled", few, "ms")
        yield Row(f"put of 200 kB, p{percent}, {waiting:,} frames spooled", many, "ms", "nothing spooled", few)
        yield Row(f"put of 200 kB, p{percent}, the one to the other", many / few, "×", bar=FLAT, at_most=True)


@contextmanager
def _no_file_synced() -> Iterator[None]:
    synced = os.fsync
    os.fsync = lambda _descriptor: None  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = synced


def deliver(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """Capture, spool, offer, grant, PUT, check, commit, acknowledge; beside the same bytes put into the same store by plain boto3."""
    frames = max(50, round(FRAMES * scale))
    load = Load(every_s=0, size_bytes=SIZE_BYTES, frames=frames, prepared=frames)  # as those of the plain PUTs are
    with a_device(cloud, "fast-1", folder, load=load) as device:
        before = _plain_puts_per_s(cloud, frames // 2)
        device.start(UPLINK)
        device.until(device.connected, 30, "the broker")
        device.start(WRITER)
        device.until(lambda: device.balance().acknowledged == frames, 60 + frames, "every acknowledgement")
        ended_s = time.time()
        device.stop()
        first = device.promised()[0]
        ours = frames / (ended_s - first.at_s + first.took_ms / 1e3)
        captured = frames / (device.promised()[-1].at_s - first.at_s)
        after = _plain_puts_per_s(cloud, frames // 2)
        result = account(cloud.services(), [device])
    plain = (before + after) / 2
    say(
        f"captured {captured:.0f} a second, acknowledged {ours:.0f}; plain PUTs {before:.0f} before and {after:.0f} after"
    )
    yield result.row(f"{frames:,} frames of 200 kB, as fast as they go")
    yield Row("capture to acknowledged", ours, "frames/s", "boto3 put_object", plain)
    yield Row("capture to acknowledged, of plain PUTs", ours / plain, "×", bar=RATIO)


def _plain_puts_per_s(cloud: Cloud, count: int) -> float:
    parts = cloud.services()
    access_key, secret_key = parts.store._keys
    client = Session(access_key, secret_key, region_name="us-east-1").client(
        "s3", endpoint_url=parts.store.endpoint_url, config=Config(proxies={})
    )
    contents = [unique_jpeg(SIZE_BYTES) for _ in range(count)]
    began_s = time.perf_counter()
    for number, content in enumerate(contents):
        client.put_object(Bucket=BUCKET, Key=f"plain/{time.time_ns()}-{number}.jpg", Body=content)
    return count / (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    report = Report("faults-speed", "The careful way, beside the careless one")

    def say(what: str) -> None:
        print(what, flush=True)

    with a_folder() as folder:
        for row in put(None, folder, scale, say):
            report.add(row)
        with a_cloud(folder / "cloud") as cloud:
            for row in deliver(cloud, folder, scale, say):
                report.add(row)
    report.close()


if __name__ == "__main__":
    main()
