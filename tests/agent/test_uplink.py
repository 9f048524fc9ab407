"""What the uplink promises: every frame ends at the cloud or visibly elsewhere, nothing is asked too often, and nothing is in the way."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest
import structlog

from edgecase_agent import spool_rows
from edgecase_agent.allowance import Allowance, Limits
from edgecase_agent.bandwidth import Bandwidth, Window
from edgecase_agent.frames import new_frame_id
from edgecase_agent.identity import Identity
from edgecase_agent.mqtt import Login, MqttLink
from edgecase_agent.spool import Spool
from edgecase_agent.spool_rows import State
from edgecase_agent.transfer import Answer, HttpStore, Meaning, Transfers, Upload
from edgecase_agent.uplink import Idle, Moment, Uplink
from edgecase_models import wire
from support.frames import a_meta, a_picture
from support.line import Clock, Porter, QuietLine, work
from support.store import Store
from support.tiny_cloud import TinyCloud, serve
from support.wait import until

DEVICE = "cam-1"


def a_status(at: datetime, session: str) -> wire.Status:
    return wire.Status(device=DEVICE, online=True, session=session, at=at)


def stored(upload: Upload) -> Answer:
    with upload.body as body:
        return Answer(upload.frame_id, Meaning.STORED, "HTTP 200", len(body.read()))


def says(meaning: Meaning, detail: str = "scripted") -> Callable[[Upload], Answer]:
    def put(upload: Upload) -> Answer:
        upload.body.close()
        return Answer(upload.frame_id, meaning, detail, 0)

    return put


class Bench:
    """An uplink on a spool, with a cloud that answers at once and a clock that the test moves."""

    def __init__(self, folder: Path, put: Callable[[Upload], Answer] = stored, **options: object) -> None:
        self.folder = folder
        self.spool = Spool(folder, 10_000_000, putting=True, ballast_bytes=0)
        self.line = QuietLine(answer=self.cloud)
        self.porter = Porter(put)
        self.clock = Clock()
        self.pokes: list[wire.Poke] = []
        self.silent_for: set[str] = set()
        self.answers = True
        self.grant_expires_at = datetime(2100, 1, 1, tzinfo=UTC)
        self.uplink = Uplink(
            DEVICE,
            self.spool,
            self.line,
            self.porter,
            status=a_status,
            poked=self.pokes.append,
            chance=Random(1),
            **options,
        )

    def cloud(self, message: wire.Up) -> wire.Down | None:
        if isinstance(message, wire.Status) or not self.answers or message.frame_id in self.silent_for:
            return None
        if isinstance(message, wire.Offer):
            return wire.Grant(
                frame_id=message.frame_id,
                url="http://store/x",
                headers={},
                key=f"k/{message.frame_id}",
                expires_at=self.grant_expires_at,
            )
        return wire.Ack(frame_id=message.frame_id, sha256=message.sha256)

    def keep(self, score: float = 0.5, **changes: object) -> str:
        meta = a_meta(score, **changes)
        self.spool.put(a_picture(int(score * 100), 600), meta)
        return meta.frame_id

    def run(self, seconds: float, step_s: float = 0.5) -> None:
        """Let time pass in small steps, working at each."""
        for _ in range(int(seconds / step_s)):
            work(self.uplink, self.clock)
            self.clock.pass_s(step_s)

    def sent(self, kind: type) -> Counter[str]:
        return Counter(message.frame_id for message in self.line.messages(kind))  # type: ignore[union-attr]


@pytest.fixture
def bench(memory_path: Path) -> Iterator[Bench]:
    made = Bench(memory_path)
    yield made
    made.spool.close()


# ---- the way of a frame --------------------------------------------------------------------------------------------


def test_a_frame_goes_offer_grant_put_stored_ack_and_each_is_said_once(bench: Bench) -> None:
    frame_id = bench.keep()
    assert work(bench.uplink, bench.clock) == [
        "reported", "said offered", "granted", "uploading", "said stored", "acknowledged"
    ]  # fmt: skip
    assert bench.sent(wire.Offer) == bench.sent(wire.Stored) == {frame_id: 1}
    assert bench.spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)
    [offer] = bench.line.messages(wire.Offer)
    assert offer.sha256 == bench.line.messages(wire.Stored)[0].sha256
    assert bench.line.messages(wire.Stored)[0].key == f"k/{frame_id}"


def test_bytes_sent_counts_messages_and_pictures_and_outlives_the_process(bench: Bench) -> None:
    bench.keep()
    work(bench.uplink, bench.clock)
    expected = sum(len(payload) for _, payload in bench.line.sent) + 600
    assert bench.spool.bytes_sent == expected
    bench.spool.close()
    assert Spool.look(bench.folder).bytes_sent == expected


def test_at_most_a_window_of_frames_is_on_its_way(memory_path: Path) -> None:
    bench = Bench(memory_path, window=4)
    bench.answers = False
    for _ in range(10):
        bench.keep()
    bench.run(60)
    assert bench.uplink.in_flight == 4
    assert len(bench.sent(wire.Offer)) == 4


def test_a_declined_frame_is_let_go_and_counted(bench: Bench) -> None:
    frame_id = bench.keep()
    bench.line.answer = lambda m: (
        wire.Decline(frame_id=frame_id, reason="duplicate") if isinstance(m, wire.Offer) else None
    )
    work(bench.uplink, bench.clock)
    assert bench.spool.balance() == wire.Balance(kept=1, offered=1, declined=1)
    assert bench.porter.started == []


def test_where_frames_are_redacted_one_that_was_kept_before_is_set_aside_and_never_sent(memory_path: Path) -> None:
    bench = Bench(memory_path, redacted_only=True)
    before = bench.keep()
    torn = bench.keep()
    done = wire.Redaction(mode="blur", method="fill", count=0, boxes=[])
    after = bench.keep(redaction=done)
    half_way = bench.keep()
    grant = bench.cloud(bench.spool.meta(bench.spool.entry(half_way)).offer(DEVICE, "a" * 64, 1))  # type: ignore[arg-type]
    bench.spool.offered(half_way)
    bench.spool.granted(half_way, grant)  # type: ignore[arg-type]
    file = memory_path / "frames" / f"{torn}.jpg"
    file.write_bytes(file.read_bytes().replace(b'"front"', b'"frant"'))
    bench.run(5)
    assert bench.sent(wire.Offer) == {after: 1}
    assert [upload.frame_id for upload in bench.porter.started] == [after]
    assert bench.spool.balance() == wire.Balance(
        kept=4, offered=2, uploaded=1, acknowledged=1, rejected=2, lost_local=1
    )
    reasons = {event.frame_id: event.reason for event in bench.spool.events()}
    assert "kept before privacy was set" in reasons[before]
    assert "kept before privacy was set" in reasons[half_way]
    bench.spool.close()


def test_a_poke_is_handed_on(bench: Bench) -> None:
    bench.line.inbox.append(wire.Poke(release=7))
    work(bench.uplink, bench.clock)
    assert [poke.release for poke in bench.pokes] == [7]


# ---- what is not answered ------------------------------------------------------------------------------------------


def test_an_unanswered_offer_is_repeated_at_doubling_jittered_deadlines(bench: Bench) -> None:
    bench.answers = False
    frame_id = bench.keep()
    times: list[float] = []
    for _ in range(2000):
        before = bench.sent(wire.Offer)[frame_id]
        work(bench.uplink, bench.clock)
        if bench.sent(wire.Offer)[frame_id] > before:
            times.append(bench.clock.monotonic_s)
        bench.clock.pass_s(0.05)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) >= 4
    for gap, plain in zip(gaps, (3, 6, 12, 24, 30), strict=False):
        assert 0.7 * plain - 0.1 <= gap <= 1.3 * plain + 0.1
    assert len({round(gap / plain, 3) for gap, plain in zip(gaps, (3, 6, 12), strict=False)}) > 1, "no jitter"


def test_a_frame_the_cloud_never_answers_leaves_the_window_to_the_others(memory_path: Path) -> None:
    bench = Bench(memory_path, window=2)
    poison = [bench.keep(0.99), bench.keep(0.98)]
    bench.silent_for.update(poison)
    work(bench.uplink, bench.clock)
    others = [bench.keep(0.1) for _ in range(20)]
    bench.run(600)
    assert bench.spool.balance().acknowledged == len(others)
    assert bench.spool.balance().spooled == 2, "the two wait, and are tried again from time to time"
    assert max(bench.sent(wire.Offer)[frame_id] for frame_id in poison) < 40
    bench.silent_for.clear()
    bench.run(600)
    assert bench.spool.balance().acknowledged == 22


def test_a_silent_cloud_for_a_minute_costs_few_requests_and_no_frame(bench: Bench) -> None:
    bench.answers = False
    frames = [bench.keep() for _ in range(100)]
    bench.run(60)
    bench.answers = True
    bench.run(120)
    assert bench.spool.balance().acknowledged == 100
    assert sum(bench.sent(wire.Offer).values()) <= 3 * len(frames)


def test_what_was_asked_on_a_lost_connection_is_asked_again_on_the_next(bench: Bench) -> None:
    bench.answers = False
    frame_id = bench.keep()
    work(bench.uplink, bench.clock)
    bench.line.connected = False
    bench.clock.pass_s(0.1)
    assert work(bench.uplink, bench.clock) == []
    bench.line.connected, bench.line.session, bench.answers = True, "two", True
    work(bench.uplink, bench.clock)
    assert bench.sent(wire.Offer) == {frame_id: 2}
    assert bench.spool.balance().acknowledged == 1
    assert [status.session for status in bench.line.messages(wire.Status)] == ["one", "two"]


def test_nothing_is_done_and_nothing_spins_while_the_line_is_down(bench: Bench) -> None:
    bench.line.connected = False
    bench.keep()
    outcome = bench.uplink.step(bench.clock.now())
    assert isinstance(outcome, Idle)
    assert outcome.wait_s > 0.1
    assert bench.line.sent == []
    assert bench.spool.balance().offered == 0


def test_a_lost_ack_is_asked_for_again_without_a_second_upload(bench: Bench) -> None:
    frame_id = bench.keep()
    lost: list[wire.Up] = []

    def forgetful(message: wire.Up) -> wire.Down | None:
        if isinstance(message, wire.Stored) and not lost:
            lost.append(message)
            return None
        return bench.cloud(message)

    bench.line.answer = forgetful
    bench.run(6)
    assert bench.spool.balance().acknowledged == 1
    assert bench.sent(wire.Stored) == {frame_id: 2}
    assert len(bench.porter.started) == 1


# ---- answers of the store ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meaning", [Meaning.STORED, Meaning.EXISTS])
def test_an_object_that_exists_already_is_only_believed_once_the_cloud_confirms_it(
    memory_path: Path, meaning: Meaning
) -> None:
    bench = Bench(memory_path, says(meaning))
    frame_id = bench.keep()
    bench.line.answer = lambda m: bench.cloud(m) if isinstance(m, wire.Offer) else None
    work(bench.uplink, bench.clock)
    assert bench.spool.balance().acknowledged == 0
    assert bench.sent(wire.Stored) == {frame_id: 1}
    bench.line.answer = bench.cloud
    bench.run(6)
    assert bench.spool.balance().acknowledged == 1


def test_a_grant_that_the_store_does_not_take_is_asked_for_anew_but_not_in_a_tight_loop(memory_path: Path) -> None:
    bench = Bench(memory_path, says(Meaning.EXPIRED, "HTTP 403 AccessDenied"))
    bench.keep()
    bench.run(30)
    assert 2 <= len(bench.porter.started) <= 6
    bench.porter.put = stored
    bench.run(400)
    assert bench.spool.balance().acknowledged == 1


def test_a_frame_that_the_store_can_never_take_is_set_aside_and_the_rest_go_on(memory_path: Path) -> None:
    bench = Bench(memory_path)
    bad = bench.keep(0.9)
    good = [bench.keep(0.1) for _ in range(5)]
    bench.porter.put = lambda u: says(Meaning.REFUSED, "HTTP 400 BadDigest")(u) if u.frame_id == bad else stored(u)
    work(bench.uplink, bench.clock)
    assert bench.spool.balance() == wire.Balance(kept=6, offered=6, uploaded=5, acknowledged=5, rejected=1)
    assert good
    assert len([upload for upload in bench.porter.started if upload.frame_id == bad]) == 2, "a second grant is tried"
    [event] = [event for event in bench.spool.events() if event.kind == "rejected"]
    assert (event.frame_id, "BadDigest" in event.reason) == (bad, True)


def test_a_store_that_is_away_is_probed_by_one_frame_at_a_time_and_the_rest_wait(memory_path: Path) -> None:
    bench = Bench(memory_path, says(Meaning.UNAVAILABLE, "connection refused"))
    for _ in range(50):
        bench.keep()
    bench.run(60)
    assert len(bench.porter.started) <= 20, "no storm"
    assert bench.spool.balance().spooled == 50
    bench.porter.put = stored
    bench.run(400)
    assert bench.spool.balance().acknowledged == 50
    assert len(bench.porter.started) <= 80


def test_a_picture_that_alone_fails_every_time_does_not_hold_up_the_others(memory_path: Path) -> None:
    bench = Bench(memory_path, window=1)
    bad = bench.keep(0.9)
    for _ in range(5):
        bench.keep(0.1)
    bench.porter.put = lambda u: says(Meaning.UNAVAILABLE, "HTTP 500")(u) if u.frame_id == bad else stored(u)
    bench.run(900)
    assert bench.spool.balance().acknowledged == 5
    assert bench.spool.balance().spooled == 1


def test_an_expired_grant_of_an_earlier_run_is_not_tried(memory_path: Path) -> None:
    first = Bench(memory_path)
    first.porter.holding = True
    frame_id = first.keep()
    work(first.uplink, first.clock)
    first.spool.close()
    second = Bench(memory_path)
    second.clock.wall = datetime(2101, 1, 1, tzinfo=UTC)
    assert "said offered" in work(second.uplink, second.clock)
    assert second.sent(wire.Offer) == {frame_id: 1}


def test_a_fresh_grant_is_tried_whatever_the_clock_of_the_device_says(bench: Bench) -> None:
    bench.clock.wall = datetime(2200, 1, 1, tzinfo=UTC)
    bench.keep()
    work(bench.uplink, bench.clock)
    assert bench.spool.balance().acknowledged == 1


def test_a_grant_that_ended_while_the_frame_waited_its_turn_is_asked_for_anew_before_anything_is_sent(
    bench: Bench,
) -> None:
    bench.grant_expires_at = bench.clock.wall + timedelta(seconds=60)
    bench.porter.at_once = 0
    frame_id = bench.keep()
    work(bench.uplink, bench.clock)
    bench.clock.pass_s(61)
    bench.grant_expires_at += timedelta(seconds=60)
    bench.porter.at_once = 1
    work(bench.uplink, bench.clock)
    assert bench.sent(wire.Offer) == {frame_id: 2}
    assert len(bench.porter.started) == 1
    assert bench.spool.balance().acknowledged == 1


# ---- restarts, damage, strangers -----------------------------------------------------------------------------------


def test_a_restart_resumes_the_upload_with_the_grant_it_has(memory_path: Path) -> None:
    first = Bench(memory_path)
    first.porter.holding = True
    first.keep()
    work(first.uplink, first.clock)
    first.spool.close()
    second = Bench(memory_path)
    assert work(second.uplink, second.clock) == [
        "reported", "grant resumed", "uploading", "said stored", "acknowledged"
    ]  # fmt: skip


def test_a_restart_after_the_upload_says_stored_and_uploads_nothing(memory_path: Path) -> None:
    first = Bench(memory_path)
    first.line.answer = lambda m: first.cloud(m) if isinstance(m, wire.Offer) else None
    frame_id = first.keep()
    work(first.uplink, first.clock)
    first.spool.close()
    second = Bench(memory_path)
    assert work(second.uplink, second.clock) == ["reported", "said stored", "acknowledged"]
    assert second.line.messages(wire.Stored)[0].key == f"k/{frame_id}"
    assert second.spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)


def test_an_object_that_the_cloud_lost_is_uploaded_again(bench: Bench) -> None:
    frame_id = bench.keep()
    lost: list[wire.Up] = []

    def forgetful(message: wire.Up) -> wire.Down | None:
        if isinstance(message, wire.Stored) and len(lost) < 2:
            lost.append(message)
            return bench.cloud(bench.line.messages(wire.Offer)[0])
        return bench.cloud(message)

    bench.line.answer = forgetful
    bench.run(10)
    assert len([upload for upload in bench.porter.started if upload.frame_id == frame_id]) == 2
    assert bench.spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)


def test_a_damaged_frame_is_counted_lost_and_the_others_are_delivered(bench: Bench) -> None:
    flipped, gone, good = bench.keep(0.9), bench.keep(0.8), bench.keep(0.7)
    path = bench.folder / "frames" / f"{flipped}.jpg"
    path.write_bytes(b"!" + path.read_bytes()[1:])
    (bench.folder / "frames" / f"{gone}.jpg").unlink()
    work(bench.uplink, bench.clock)
    assert bench.spool.balance() == wire.Balance(kept=3, offered=2, uploaded=1, acknowledged=1, lost_local=2)
    assert bench.sent(wire.Stored) == {good: 1}


def test_an_ack_for_other_bytes_does_not_let_the_frame_go(bench: Bench) -> None:
    frame_id = bench.keep()
    bench.line.answer = lambda m: (
        wire.Ack(frame_id=frame_id, sha256="0" * 64) if isinstance(m, wire.Stored) else bench.cloud(m)
    )
    work(bench.uplink, bench.clock)
    assert bench.spool.balance().acknowledged == 0
    assert bench.spool.balance().spooled == 1


def test_late_double_and_unknown_answers_change_nothing(bench: Bench) -> None:
    frame_id = bench.keep()
    work(bench.uplink, bench.clock)
    before = bench.spool.balance()
    sha256 = bench.line.messages(wire.Stored)[0].sha256
    grant = bench.cloud(bench.line.messages(wire.Offer)[0])
    for _ in range(2):
        bench.line.inbox.extend(
            [
                grant,
                wire.Ack(frame_id=frame_id, sha256=sha256),
                wire.Decline(frame_id=frame_id, reason="late"),
                wire.Reject(frame_id=frame_id, reason="late"),
                wire.Ack(frame_id=new_frame_id(), sha256=sha256),
                wire.Reject(frame_id=new_frame_id(), reason="whose?"),
            ]
        )
    work(bench.uplink, bench.clock)
    assert bench.spool.balance() == before
    assert len(bench.porter.started) == 1


def test_an_offer_too_long_for_the_wire_goes_without_its_thumbnail_or_is_set_aside(bench: Bench) -> None:
    lean = bench.keep(0.9, thumbnail_jpeg=b"x" * 90_000)
    hopeless = bench.keep(0.8, classes=["c" * 190] * 999)
    work(bench.uplink, bench.clock)
    assert bench.spool.balance() == wire.Balance(kept=2, offered=1, uploaded=1, acknowledged=1, rejected=1)
    assert bench.sent(wire.Offer) == {lean: 1}
    assert [event.frame_id for event in bench.spool.events()] == [hopeless]


def test_a_frame_evicted_while_it_was_offered_is_forgotten(memory_path: Path) -> None:
    bench = Bench(memory_path)
    bench.answers = False
    frame_id = bench.keep()
    work(bench.uplink, bench.clock)
    with bench.spool._transaction() as db:
        spool_rows.move(db, frame_id, State.EVICTED)
    bench.answers = True
    bench.run(10)
    assert bench.uplink.in_flight == 0
    assert bench.porter.started == []


def test_the_status_is_sent_retained_at_its_interval(bench: Bench) -> None:
    bench.run(21, step_s=0.25)
    assert len(bench.line.messages(wire.Status)) == 5


# ---- in parts ------------------------------------------------------------------------------------------------------


class PartsBench(Bench):
    """A cloud that grants in parts of 250 bytes, and a store that takes them: `objects` is what it has of each upload."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.upload_id = "u1"
        self.objects: dict[str, dict[int, bytes]] = {}
        super().__init__(folder, self.take, **options)

    def take(self, upload: Upload) -> Answer:
        with upload.body as body:
            content = body.read()
        assert len(content) == upload.size_bytes
        assert upload.headers["Content-MD5"] == base64.b64encode(hashlib.md5(content).digest()).decode()
        upload_id, number = upload.url.split("/")[-2:]
        self.objects.setdefault(upload_id, {})[int(number)] = content
        return Answer(upload.frame_id, Meaning.STORED, "HTTP 200", len(content), f'"{upload_id}-{number}"')

    def cloud(self, message: wire.Up) -> wire.Down | None:
        reply = super().cloud(message)
        if isinstance(message, wire.Offer) and isinstance(reply, wire.Grant):
            urls = [f"http://store/{self.upload_id}/{number}" for number in range(3)]
            return msgspec.structs.replace(reply, parts=wire.Parts(self.upload_id, 250, urls))
        if isinstance(message, wire.Stored):
            assert message.parts is not msgspec.UNSET
            taken = self.objects.get(message.parts.upload_id, {})
            whole = b"".join(content for _, content in sorted(taken.items()))
            if hashlib.sha256(whole).hexdigest() != message.sha256:
                if message.parts.upload_id == self.upload_id:
                    self.upload_id = f"{self.upload_id}+"
                return self.cloud(next(o for o in self.line.messages(wire.Offer) if o.frame_id == message.frame_id))
        return reply


def test_a_large_frame_goes_in_parts_each_once_and_the_cloud_is_told_what_the_store_calls_them(
    memory_path: Path,
) -> None:
    bench = PartsBench(memory_path)
    bench.keep(0.5)
    assert work(bench.uplink, bench.clock) == [
        "reported", "said offered", "granted", *(3 * ["uploading", "stored a part"]), "said stored", "acknowledged"
    ]  # fmt: skip
    assert [len(part) for part in bench.objects["u1"].values()] == [250, 250, 100]
    [stored_message] = bench.line.messages(wire.Stored)
    assert stored_message.parts == wire.PartsDone("u1", 250, ['"u1-0"', '"u1-1"', '"u1-2"'])
    assert bench.spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)


@pytest.mark.parametrize("grant_is_good", [True, False], ids=["with its grant", "with a new grant"])
def test_a_restart_in_the_middle_sends_the_parts_that_are_missing(memory_path: Path, grant_is_good: bool) -> None:
    first = PartsBench(memory_path)
    first.porter.at_once = 1
    first.keep()
    while len(first.objects.get("u1", {})) < 2:
        first.uplink.step(first.clock.now())
    first.uplink.step(first.clock.now())
    first.spool.close()  # as a kill leaves it: the spool alone remembers
    second = PartsBench(memory_path)
    second.objects = first.objects
    if not grant_is_good:
        second.clock.wall = datetime(2101, 1, 1, tzinfo=UTC)
    work(second.uplink, second.clock)
    assert [upload.url[-1] for upload in second.porter.started] == ["2"]
    assert second.spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)


def test_a_restart_after_the_last_part_says_stored_again_with_all_of_them(memory_path: Path) -> None:
    first = PartsBench(memory_path)
    first.line.answer = lambda m: first.cloud(m) if isinstance(m, wire.Offer) else None
    first.keep()
    work(first.uplink, first.clock)
    first.spool.close()
    second = PartsBench(memory_path)
    second.objects = first.objects
    assert work(second.uplink, second.clock) == ["reported", "said stored", "acknowledged"]


def test_a_store_that_lost_parts_gets_all_of_them_again_under_a_new_upload(memory_path: Path) -> None:
    bench = PartsBench(memory_path)
    bench.keep()
    lost: list[str] = []

    def take(upload: Upload) -> Answer:
        answer = PartsBench.take(bench, upload)
        if len(bench.objects["u1"]) == 3 and not lost:
            lost.append("u1")
            bench.objects["u1"].pop(1)
        return answer

    bench.porter.put = take
    bench.run(60)
    assert bench.spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)
    assert {upload_id: len(parts) for upload_id, parts in bench.objects.items()} == {"u1": 2, "u1+": 3}


def test_a_part_that_the_store_does_not_take_is_tried_again_and_an_upload_that_is_gone_asked_for_anew(
    memory_path: Path,
) -> None:
    bench = PartsBench(memory_path)
    bench.keep()
    refusals = iter([(Meaning.UNAVAILABLE, "HTTP 503"), (Meaning.EXPIRED, "HTTP 404 NoSuchUpload")])

    def take(upload: Upload) -> Answer:
        if upload.url.endswith("/1") and (refusal := next(refusals, None)) is not None:
            return says(*refusal)(upload)
        return PartsBench.take(bench, upload)

    bench.porter.put = take
    bench.run(30)
    assert bench.spool.balance().acknowledged == 1
    assert [upload.url[-1] for upload in bench.porter.started] == ["0", "1", "1", "1", "2"]


def test_parts_that_do_not_make_the_picture_are_passed_over_and_it_goes_whole(memory_path: Path) -> None:
    bench = Bench(memory_path)
    bench.line.answer = lambda m: (
        msgspec.structs.replace(bench.cloud(m), parts=wire.Parts("u", 250, ["http://store/u/0"]))
        if isinstance(m, wire.Offer)
        else bench.cloud(m)
    )
    bench.keep()
    work(bench.uplink, bench.clock)
    assert [upload.size_bytes for upload in bench.porter.started] == [600]
    assert bench.spool.balance().acknowledged == 1


# ---- held up by windows and budgets --------------------------------------------------------------------------------


def limited(folder: Path, start: Moment, **limits: int) -> Bandwidth:
    return Bandwidth(Allowance(folder / "allowance.json", Limits(**limits), start.reading))


def test_pictures_wait_for_bytes_in_their_order_and_go_on_the_next_day(memory_path: Path) -> None:
    bandwidth = limited(memory_path, Clock().now(), per_day=30_000)
    bench = Bench(memory_path / "spool", bandwidth=bandwidth, status_every_s=3600)
    large = a_meta(0.9)
    bench.spool.put(a_picture(1, 40_000), large)  # more than a day's worth: it goes when nothing else did
    small = [bench.keep(0.5 - number / 100) for number in range(5)]
    work(bench.uplink, bench.clock)
    assert [upload.frame_id for upload in bench.porter.started] == [large.frame_id]
    assert bench.uplink.waits_for.startswith("bytes: 0.03 MB a day")
    assert bench.sent(wire.Offer) == {large.frame_id: 1}, "what cannot be sent is not offered"
    bench.clock.pass_s(86_401)
    work(bench.uplink, bench.clock)
    assert [upload.frame_id for upload in bench.porter.started[1:]] == small
    assert bench.uplink.waits_for == ""
    assert bench.spool.balance().acknowledged == 6


def test_an_offer_that_was_lost_is_made_again_although_the_next_frame_has_to_wait(memory_path: Path) -> None:
    bench = Bench(
        memory_path / "spool", bandwidth=limited(memory_path, Clock().now(), per_day=30_000), status_every_s=3600
    )
    first, second = a_meta(0.9), a_meta(0.8)
    for meta in (first, second):
        bench.spool.put(a_picture(1, 15_000), meta)
    bench.answers = False
    bench.run(2)
    assert bench.uplink.waits_for
    bench.answers = True
    bench.run(6)
    assert bench.spool.balance().acknowledged == 1
    assert bench.sent(wire.Offer) == {first.frame_id: 2}


def test_a_window_holds_pictures_and_offers_up_while_acks_and_status_go_on(memory_path: Path) -> None:
    start = Clock().now()
    bandwidth = Bandwidth(Allowance(memory_path / "a", Limits(), start.reading), windows=[Window.read("22:00-23:00")])
    bench = Bench(memory_path / "spool", bandwidth=bandwidth)
    local = start.wall.astimezone()
    bench.clock.wall = local.replace(hour=22, minute=59)
    done = bench.keep(0.9)
    bench.line.answer = lambda m: bench.cloud(m) if isinstance(m, wire.Offer) else None
    work(bench.uplink, bench.clock)
    bench.clock.wall = local.replace(hour=23, minute=30)
    late = bench.keep(0.5)
    bench.line.answer = bench.cloud
    bench.run(20)
    assert bench.sent(wire.Offer) == {done: 1}
    assert bench.spool.balance().acknowledged == 1, "what was stored is acknowledged outside of the window"
    assert bench.uplink.waits_for == "the upload window that opens at 22:00"
    assert len(bench.line.messages(wire.Status)) >= 4
    bench.clock.wall = local.replace(hour=22, minute=0)
    work(bench.uplink, bench.clock)
    assert bench.sent(wire.Offer) == {done: 1, late: 1}
    assert bench.spool.balance().acknowledged == 2


def test_a_wait_is_told_in_the_log_once_when_it_begins_and_once_when_it_ends(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with structlog.testing.capture_logs() as logs:
        test_a_window_holds_pictures_and_offers_up_while_acks_and_status_go_on(memory_path)
    assert [entry["event"] for entry in logs if entry["event"].startswith("pictures")] == [
        "pictures wait",
        "pictures go on",
    ]


def test_with_no_bytes_left_the_device_reports_seldom_and_still_reports(memory_path: Path) -> None:
    bench = Bench(memory_path / "spool", bandwidth=limited(memory_path, Clock().now(), per_day=10))
    bench.run(1000, step_s=1)
    assert len(bench.line.messages(wire.Status)) == 5


def test_what_was_in_flight_at_a_kill_counts_as_sent(memory_path: Path) -> None:
    first = Bench(memory_path / "spool", bandwidth=limited(memory_path, Clock().now(), per_day=10_000_000))
    meta = a_meta(0.9)
    first.spool.put(a_picture(1, 4_000_000), meta)
    first.porter.holding = True
    work(first.uplink, first.clock)
    assert [upload.frame_id for upload in first.porter.started] == [meta.frame_id]
    first.spool.close()  # killed here
    second = limited(memory_path, Clock().now(), per_day=10_000_000)
    assert second.refusal(5_900_000) == ""
    assert second.refusal(6_000_000)


# ---- over a real broker and a real HTTP store ----------------------------------------------------------------------


class Real:
    """An uplink over paho and urllib3, stepped by a thread as in production."""

    def __init__(self, spool: Spool, port: int, device: str, folder: Path, *, chance: int = 0) -> None:
        self.wake = threading.Event()
        self.link = MqttLink(Login("127.0.0.1", port, Identity(folder)), device, wake=self.wake.set, keepalive_s=5)
        self.uploads = Transfers(HttpStore(connect_s=2, answer_s=1).put, at_once=4, wake=self.wake.set)
        self.pokes: list[wire.Poke] = []
        self.uplink = Uplink(
            device,
            spool,
            self.link,
            self.uploads,
            status=lambda at, session: wire.Status(
                device=device, online=True, session=session, at=at, balance=spool.balance()
            ),
            poked=self.pokes.append,
            status_every_s=0.2,
            chance=Random(chance),
        )
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.loop)

    def loop(self) -> None:
        self.link.start()
        while not self.ended.is_set():
            outcome = self.uplink.step(Moment.now())
            if isinstance(outcome, Idle):
                self.wake.wait(outcome.wait_s)
                self.wake.clear()

    def __enter__(self) -> Real:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self.uploads.stop(2)
        self.uplink.settle(Moment.now())
        self.link.stop()


def a_spool(folder: Path, frames: int) -> tuple[Spool, list[str]]:
    spool = Spool(folder, 10_000_000, putting=True, ballast_bytes=0)
    ids = []
    for number in range(frames):
        meta = a_meta(number / 1000)
        spool.put(a_picture(number, 5000), meta)
        ids.append(meta.frame_id)
    return spool, ids


def test_frames_arrive_byte_for_byte_through_broker_and_store(broker, store: Store, memory_path: Path) -> None:
    cloud = TinyCloud(store)
    client = serve(cloud, broker)
    spool, ids = a_spool(memory_path, 40)
    with spool, Real(spool, broker.port, "real-1", broker.add_device("real-1")) as device:
        until(lambda: spool.balance().acknowledged == 40, what="all acknowledged")
        client.publish("edgecase/1/down/real-1/poke", wire.encode(wire.Poke(release=3)), qos=1, retain=True)
        until(lambda: [poke.release for poke in device.pokes] == [3], what="the poke")
        until(lambda: cloud.statuses[-1].balance.acknowledged == 40, what="the status")
    client.leave()
    assert {store.objects[f"frames/real-1/{frame_id}.jpg"] for frame_id in ids} == {
        a_picture(n, 5000) for n in range(40)
    }
    assert set(cloud.acknowledged) == set(ids)
    assert store.headers[0]["if-none-match"] == "*"
    assert store.headers[0]["content-length"] == "5000"
    assert cloud.statuses[0].online


def test_a_store_that_fails_in_every_way_loses_and_doubles_nothing(broker, store: Store, memory_path: Path) -> None:
    cloud = TinyCloud(store)
    client = serve(cloud, broker)
    store.script.extend(
        [(500, "InternalError"), (-1, ""), (403, "AccessDenied"), (-3, ""), (503, "SlowDown"), (-2, "")]
    )
    spool, ids = a_spool(memory_path, 12)
    with spool, Real(spool, broker.port, "real-2", broker.add_device("real-2")):
        until(lambda: spool.balance().acknowledged == 12, within_s=60, what="all acknowledged")
        assert spool.balance() == wire.Balance(kept=12, offered=12, uploaded=12, acknowledged=12)
    client.leave()
    assert {key.split("/")[-1] for key in store.objects} == {f"{frame_id}.jpg" for frame_id in ids}


def test_a_broker_that_is_killed_and_comes_back_loses_nothing(own_broker, store: Store, memory_path: Path) -> None:
    cloud = TinyCloud(store)
    folder = own_broker.add_device("real-3")
    client = serve(cloud, own_broker)
    spool, _ = a_spool(memory_path / "spool", 30)
    with spool, Real(spool, own_broker.port, "real-3", folder):
        until(lambda: spool.balance().acknowledged >= 3, what="the first frames")
        own_broker.kill()
        client.leave()
        own_broker.start()
        client = serve(cloud, own_broker)
        until(lambda: spool.balance().acknowledged == 30, within_s=40, what="the rest")
    client.leave()
    assert len(store.objects) == 30


def test_the_store_address_and_headers_of_a_grant_are_used_as_they_are(broker, store: Store, memory_path: Path) -> None:
    cloud = TinyCloud(store)
    cloud.answer_offer = lambda offer: msgspec.structs.replace(
        cloud.grant(offer),
        url=store.url("some/key?X-Amz-Signature=abc%2F"),
        headers={"x-amz-meta-a": "b", "Content-Length": "1"},
    )
    client = serve(cloud, broker)
    spool, _ = a_spool(memory_path, 1)
    with spool, Real(spool, broker.port, "real-4", broker.add_device("real-4")):
        until(lambda: store.puts, what="a PUT")
        until(lambda: store.objects, what="an object")
    client.leave()
    assert store.puts[0] == "some/key?X-Amz-Signature=abc%2F"
    assert (store.headers[0]["x-amz-meta-a"], store.headers[0]["content-length"]) == ("b", "5000")
