"""Frames of more than 8 MB: in parts, through kills of the sender and of the store, each byte once and the whole checked before the ack."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from edgecase_agent.spool import Put, Spool
from edgecase_agent.transfer import HttpStore, Transfers
from edgecase_agent.uplink import Idle, Moment, Uplink
from edgecase_cloud.catalogue import Frame
from edgecase_cloud.ingest import Ingest
from edgecase_cloud.services import Services
from edgecase_models import wire
from support.cloud import make_services
from support.frames import a_meta
from support.line import QuietLine
from support.s3 import running_s3
from support.wait import until
from system.conftest import Circle

PICTURE = Random(5).randbytes(20_000_000)
DEVICE = "cam-1"


class Sender:
    """An uplink on the spool with a real way to the store; the cloud's ingest hears it without a broker."""

    def __init__(self, folder: Path, parts: Services) -> None:
        ingest = Ingest(parts)

        def hear(message: wire.Up) -> wire.Down | None:
            topic = wire.up_topic(DEVICE, type(message))
            return next((reply.message for reply in ingest.handle(topic, wire.encode(message), wire.now())), None)

        self.spool = Spool(folder, 100_000_000, ballast_bytes=0)
        self.line = QuietLine(answer=hear)
        self.wake = threading.Event()
        self.uploads = Transfers(HttpStore(connect_s=2, answer_s=10).put, at_once=1, wake=self.wake.set)
        self.uplink = Uplink(
            DEVICE,
            self.spool,
            self.line,
            self.uploads,
            status=lambda at, session: wire.Status(device=DEVICE, online=True, session=session, at=at),
            poked=lambda _poke: None,
            chance=Random(1),
        )

    def until(self, reached: Callable[[], bool]) -> None:
        def step() -> bool:
            outcome = self.uplink.step(Moment.now())
            if isinstance(outcome, Idle):
                self.wake.wait(min(outcome.wait_s, 0.05))
                self.wake.clear()
            return reached()

        until(step, within_s=60, every_s=0)

    @property
    def parts_done(self) -> int:
        entries = self.spool.due(1, float("inf"))
        return len(entries[0].parts.etags) if entries and entries[0].parts else 0

    def vanish(self) -> None:
        """As a kill leaves it: nothing is settled, the spool alone remembers."""
        self.uploads.stop(0)
        self.spool._connection.close()


def test_a_large_frame_goes_on_after_the_sender_and_after_the_store_were_killed(tmp_path: Path) -> None:
    with running_s3(tmp_path / "s3") as s3:
        parts = make_services(tmp_path, s3.store, DEVICE)
        meta = a_meta(0.9)
        with Spool(tmp_path / "spool", 100_000_000, putting=True, ballast_bytes=0) as spool:
            assert spool.put(PICTURE[:9_000_000], meta).outcome is Put.KEPT
        sender = Sender(tmp_path / "spool", parts)
        sender.until(lambda: sender.parts_done == 1)
        sender.vanish()
        s3.kill()
        s3.start()
        second = Sender(tmp_path / "spool", parts)
        assert second.parts_done == 1
        second.until(lambda: second.spool.balance().acknowledged == 1)
        with parts.catalogue.session() as session:
            row = session.get_one(Frame, meta.frame_id)
        assert parts.store.get(row.key) == PICTURE[:9_000_000]
        assert 9_000_000 <= second.spool.bytes_sent < 9_100_000, "no part went again that the spool knew of"
        assert second.spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)
        second.uploads.stop(1)
        second.spool.close()
        parts.catalogue.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_processes_that_are_killed_in_the_middle_of_a_large_frame_lose_and_double_nothing(circle: Circle) -> None:
    agent = circle.agent(
        "cam-1", "sim://street", Path("none.tar"), uplink={"bytes_per_s": 4_000_000, "uploads_at_once": 1}
    )
    spool_folder = agent.folder / "data" / "spool"
    metas = [a_meta(0.9), a_meta(0.1)]
    with Spool(spool_folder, 100_000_000, putting=True, ballast_bytes=0) as spool:
        for number, meta in enumerate(metas):
            assert spool.put(PICTURE[number * 4_000_000 :], meta).outcome is Put.KEPT

    def parts_done() -> int:
        with closing(sqlite3.connect(spool_folder / "spool.db")) as db:
            rows = db.execute("SELECT parts_json FROM frames WHERE parts_json IS NOT NULL").fetchall()
        return sum(bytes(row[0]).count(b'\\"') // 2 for row in rows)

    def start() -> subprocess.Popen[bytes]:
        with agent.log.open("ab") as output:
            command = [sys.executable, "-m", "edgecase_agent", "uplink", "-c", str(agent.config)]
            return subprocess.Popen(command, stdout=output, stderr=output)

    for killed in range(3):
        process = start()
        until(lambda killed=killed: parts_done() > killed, within_s=40, what="another part")
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start()
    subprocess.run(["kill", "-9", str(circle.cloud.endpoints.pids["store"])], check=True)
    try:
        until(
            lambda: Spool.look(spool_folder).balance.acknowledged == 2, within_s=90, what=agent.log.read_text()[-2000:]
        )
    finally:
        process.terminate()
        process.wait()
    look = Spool.look(spool_folder)
    assert look.balance == wire.Balance(kept=2, offered=2, uploaded=2, acknowledged=2)
    for number, meta in enumerate(metas):
        jpeg = circle.hub.get(f"/api/v1/frames/{meta.frame_id}/image").raise_for_status().content
        assert jpeg == PICTURE[number * 4_000_000 :]
