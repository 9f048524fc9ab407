"""Both halves on a frame whose pixels must stay: the cloud knows of it, nothing of it is asked for, and the device's balance holds."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from edgecase_agent import assemble
from edgecase_agent.settings import load_settings
from edgecase_agent.spool import Spool
from edgecase_agent.transfer import Answer, Meaning
from edgecase_agent.uplink import Uplink
from edgecase_agent.watch import Outcome
from edgecase_cloud.catalogue import Delivery, Frame
from edgecase_cloud.ingest import Ingest
from edgecase_cloud.store import ObjectStore
from edgecase_models import wire
from support.broker import free_port
from support.bundles import a_bundle
from support.cloud import NOW, make_services
from support.line import Clock, Porter, QuietLine, work
from support.pictures import a_folder

CONFIG = """
data = "data"
source = { uri = "pictures" }
model = { bundle = "model.tar" }
selection = { window_s = 2, gap_s = 0, repeat_bits = -1, budget = { frames_per_hour = 3600 } }
spool = { min_free_bytes = 0 }
privacy = { mode = "drop", classes = ["green"] }
"""


def test_a_frame_without_its_pixels_is_offered_declined_and_ended_on_both_sides_alike(tmp_path: Path) -> None:
    a_folder(tmp_path / "pictures", 20)
    a_bundle(tmp_path / "model.tar")
    (tmp_path / "agent.toml").write_text(CONFIG)
    nowhere = ObjectStore(f"http://127.0.0.1:{free_port()}", "a", "b", attempts=1)
    cloud = make_services(tmp_path, nowhere, "cam-1")
    ingest = Ingest(cloud)

    def answer(message: wire.Up) -> wire.Down | None:
        replies = ingest.handle(wire.up_topic("cam-1", type(message)), wire.encode(message), NOW)
        return replies[0].message if replies else None

    with Spool(tmp_path / "data" / "spool", 10_000_000, putting=True) as spool:
        watch = assemble.a_watch(load_settings(tmp_path / "agent.toml"), spool)
        while watch.step() is not Outcome.ENDED:
            pass
        watch.close()
        withheld = watch.status.withheld
        assert 0 < withheld < spool.balance().kept
        porter = Porter(lambda upload: Answer(upload.frame_id, Meaning.UNAVAILABLE, "", 0), holding=True)
        status = wire.Status(device="cam-1", online=True, session="one", at=NOW)
        uplink = Uplink("cam-1", spool, QuietLine(answer=answer), porter, status=lambda *_: status, poked=print)
        clock = Clock()
        while spool.balance().declined < withheld and clock.monotonic_s < 2000:
            work(uplink, clock)
            clock.pass_s(10)
        balance = spool.balance()
        assert balance.holds
        assert balance.declined == withheld
        assert any(
            "its pixels stay on the device: it shows what must not be seen" in event.reason for event in spool.events()
        )
    with cloud.catalogue.session() as session:
        rows = session.scalars(sa.select(Frame)).all()
    declined = [row for row in rows if row.delivery is Delivery.DECLINED]
    assert len(declined) == withheld
    assert all(
        row.redaction is not None and row.redaction["count"] and row.boxes and not row.thumbnail_jpeg
        for row in declined
    )
    assert not {row.id for row in declined} & {upload.frame_id for upload in porter.started}
    cloud.catalogue.close()
