"""What the spool promises: nothing that was kept is lost, and every frame is accounted for, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecase_agent import durable, spool_open
from edgecase_agent.frames import boot_id, new_frame_id
from edgecase_agent.spool import Damaged, DiskFull, Put, Spool, SpoolError
from edgecase_agent.spool_rows import ENDS, LIVE_STATES, MOVES, Entry, State
from edgecase_models import wire
from support.disks import Disk, NoDisk, on_disk
from support.frames import a_meta, a_picture
from support.wait import until

QUOTA_BYTES = 1_000_000


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool", QUOTA_BYTES, putting=True, ballast_bytes=0) as opened:
        yield opened


def a_grant(frame_id: str) -> wire.Grant:
    return wire.Grant(
        frame_id=frame_id,
        url="http://127.0.0.1:1/x",
        headers={"a": "b"},
        key=f"k/{frame_id}",
        expires_at=wire.now() + timedelta(minutes=5),
    )


def kept(spool: Spool, score: float = 0.5, size_bytes: int = 500, **changes: object) -> str:
    meta = a_meta(score, **changes)
    assert spool.put(a_picture(int(score * 1000), size_bytes), meta).outcome is Put.KEPT
    return meta.frame_id


def files(spool_folder: Path) -> set[str]:
    return {path.name for path in (spool_folder / "frames").iterdir()}


# ---- keeping and sending -------------------------------------------------------------------------------------------


def test_a_kept_frame_comes_back_byte_for_byte_with_its_description(spool: Spool) -> None:
    meta = a_meta(0.7, thumbnail_jpeg=b"\xff\xd8tiny")
    assert spool.put(a_picture(1), meta).outcome is Put.KEPT
    [entry] = spool.due(10, now_s=0)
    assert (entry.frame_id, entry.state, entry.size_bytes) == (meta.frame_id, State.SPOOLED, 500)
    assert spool.meta(entry) == meta
    with spool.open(entry) as file:
        assert file.read() == a_picture(1)


def test_the_way_of_a_frame_ends_with_the_acknowledgement_and_nothing_left_on_disk(
    spool: Spool, tmp_path: Path
) -> None:
    frame_id = kept(spool)
    assert spool.offered(frame_id)
    assert spool.granted(frame_id, a_grant(frame_id))
    assert spool.due(1, 0)[0].grant is not None
    assert spool.stored(frame_id)
    assert spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, spooled=1)
    assert spool.acknowledged(frame_id)
    assert spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)
    assert files(tmp_path / "spool") == set()
    assert spool.bytes_on_disk == 0
    assert spool.due(10, 0) == []


def test_an_answer_that_comes_twice_changes_nothing(spool: Spool) -> None:
    frame_id = kept(spool)
    spool.offered(frame_id)
    assert spool.acknowledged(frame_id)
    before = spool.balance()
    for late in (spool.acknowledged, spool.stored, spool.offered):
        assert not late(frame_id)
    assert not spool.rejected(frame_id, "late")
    assert not spool.granted(new_frame_id(), a_grant(frame_id))
    assert spool.balance() == before


def test_a_frame_put_twice_is_kept_once(spool: Spool) -> None:
    meta = a_meta()
    for _ in range(2):
        assert spool.put(a_picture(), meta).outcome is Put.KEPT
    assert spool.balance() == wire.Balance(kept=1, spooled=1)


def test_the_most_valuable_frame_is_sent_first_and_what_is_on_its_way_before_it(spool: Spool) -> None:
    low, high, urgent, begun = (kept(spool, 0.1), kept(spool, 0.9), kept(spool, 0.2, priority=1), kept(spool, 0.05))
    spool.offered(begun)
    spool.granted(begun, a_grant(begun))
    assert [entry.frame_id for entry in spool.due(10, 0)] == [begun, urgent, high, low]
    assert [entry.frame_id for entry in spool.due(1, 0, skip={begun, urgent})] == [high]


def test_a_failed_attempt_rests_until_its_time_or_until_all_are_woken(spool: Spool) -> None:
    frame_id = kept(spool)
    spool.failed(frame_id, retry_at_s=100)
    assert spool.due(1, now_s=99) == []
    assert spool.due(1, now_s=100)[0].attempts == 1
    spool.wake_all()
    assert spool.due(1, now_s=0)[0].frame_id == frame_id


def test_the_accounts_and_the_grant_outlive_the_process(tmp_path: Path) -> None:
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as first:
        done, waiting = kept(first), kept(first)
        first.offered(done)
        first.acknowledged(done)
        first.offered(waiting)
        first.granted(waiting, a_grant(waiting))
        first.sent(1234)
        before = first.balance()
    with Spool(tmp_path, QUOTA_BYTES) as second:
        assert second.balance() == before
        assert second.bytes_sent == 1234
        [entry] = second.due(5, 0)
        assert entry.state is State.GRANTED
        assert entry.grant is not None
        assert entry.grant.key == f"k/{waiting}"


# ---- the table of moves --------------------------------------------------------------------------------------------


def test_every_state_is_an_end_or_can_reach_one_and_nothing_leaves_an_end() -> None:
    assert set(MOVES) == set(State)
    assert set(LIVE_STATES) | set(ENDS) == set(State)
    for state in LIVE_STATES:
        assert State.LOST_LOCAL in MOVES[state]
    assert State.EVICTED not in MOVES[State.GRANTED] | MOVES[State.STORED], "a frame on its way is not evicted"
    assert State.ACKNOWLEDGED not in MOVES[State.SPOOLED], "a frame that was never offered cannot be acknowledged"


MOVE_NAMES = ("offered", "granted", "stored", "acknowledged", "declined", "rejected", "lost")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4000), st.floats(0, 1)),
        st.tuples(st.sampled_from(MOVE_NAMES), st.integers(0, 30), st.just(0.0)),
        st.tuples(st.sampled_from(("reopen", "look", "damage", "rot")), st.integers(0, 30), st.just(0.0)),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_the_balance_holds_after_any_sequence_of_puts_moves_restarts_lost_files_and_damaged_rows(
    steps: list[tuple[str, int, float]],
) -> None:
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as name:
        folder = Path(name)
        spool = Spool(folder, quota_bytes=8_000, putting=True, ballast_bytes=0)
        ids: list[str] = []
        model: Counter[str] = Counter()
        for step, number, score in steps:
            if step == "put":
                meta = a_meta(score)
                spool.put(a_picture(number, number), meta)
                ids.append(meta.frame_id)
                model["kept"] += 1
            elif step in {"reopen", "rot"}:
                if step == "rot" and ids:
                    spool._connection.execute(
                        "UPDATE frames SET score = score - 1 WHERE id = ?", (ids[number % len(ids)],)
                    )
                spool.close()
                spool = Spool(folder, quota_bytes=8_000, putting=True, ballast_bytes=0)
            elif step == "damage" and ids:
                (folder / "frames" / f"{ids[number % len(ids)]}.jpg").unlink(missing_ok=True)
            elif step in MOVE_NAMES and ids:
                frame_id = ids[number % len(ids)]
                arguments = {"granted": (a_grant(frame_id),), "stored": (), "offered": (), "acknowledged": ()}
                moved = getattr(spool, step)(frame_id, *arguments.get(step, ("because",)))
                model[step] += moved
            balance = spool.balance()
            assert balance.holds
            assert balance == Spool.look(folder).balance
            assert balance.kept == model["kept"]
            assert balance.acknowledged == model["acknowledged"]
            assert balance.declined == model["declined"]
            assert balance.rejected == model["rejected"]
            assert balance.acknowledged <= balance.uploaded <= balance.offered
            assert spool.bytes_on_disk <= 8_000
        spool.close()
        with Spool(folder, quota_bytes=8_000, putting=True, ballast_bytes=0) as last:
            assert last.balance().holds
            assert len(last.due(100, 0)) == last.balance().spooled == len(files(folder))


# ---- quota, floor, full disk ---------------------------------------------------------------------------------------


def test_at_the_quota_the_least_valuable_goes_first_and_is_reported(tmp_path: Path) -> None:
    with Spool(tmp_path, quota_bytes=3000, putting=True) as spool:
        low, middle, high = (kept(spool, score, 1000) for score in (0.1, 0.5, 0.9))
        meta = a_meta(0.6)
        result = spool.put(a_picture(4, 1000), meta)
        assert (result.outcome, result.displaced) == (Put.KEPT, (low,))
        assert {entry.frame_id for entry in spool.due(9, 0)} == {middle, high, meta.frame_id}
        assert files(tmp_path) == {f"{frame_id}.jpg" for frame_id in (middle, high, meta.frame_id)}
        assert spool.balance() == wire.Balance(kept=4, evicted=1, spooled=3)
        assert [(event.kind, event.frame_id, event.reason) for event in spool.events()] == [
            ("evicted", low, "the quota was reached")
        ]


def test_a_frame_worth_less_than_all_others_is_itself_evicted_and_counted(tmp_path: Path) -> None:
    with Spool(tmp_path, quota_bytes=2000, putting=True) as spool:
        kept(spool, 0.5, 1000), kept(spool, 0.6, 1000)
        result = spool.put(a_picture(3, 1000), a_meta(0.1))
        assert result.outcome is Put.EVICTED
        assert "quota" in result.reason
        assert spool.put(a_picture(4, 2001), a_meta(0.99)).outcome is Put.EVICTED, "it can never fit"
        assert spool.balance() == wire.Balance(kept=4, evicted=2, spooled=2)


def test_priority_outranks_score_when_room_is_made(tmp_path: Path) -> None:
    with Spool(tmp_path, quota_bytes=2000, putting=True) as spool:
        urgent, ordinary = kept(spool, 0.1, 1000, priority=1), kept(spool, 0.9, 1000)
        assert spool.put(a_picture(3, 1000), a_meta(0.5, priority=1)).displaced == (ordinary,)
        assert urgent in {entry.frame_id for entry in spool.due(9, 0)}


def test_a_frame_on_its_way_is_not_evicted(tmp_path: Path) -> None:
    with Spool(tmp_path, quota_bytes=1000, putting=True) as spool:
        frame_id = kept(spool, 0.1, 1000)
        spool.offered(frame_id)
        spool.granted(frame_id, a_grant(frame_id))
        assert spool.put(a_picture(2, 1000), a_meta(0.9)).outcome is Put.EVICTED
        assert spool.acknowledged(frame_id)
        assert spool.put(a_picture(2, 1000), a_meta(0.9)).outcome is Put.KEPT


def test_what_was_rejected_is_set_aside_and_makes_room_before_any_waiting_frame(tmp_path: Path) -> None:
    with Spool(tmp_path, quota_bytes=2000, putting=True) as spool:
        refused, waiting = kept(spool, 0.9, 1000), kept(spool, 0.1, 1000)
        spool.offered(refused)
        spool.rejected(refused, "unknown class")
        assert (tmp_path / "aside" / f"{refused}.jpg").exists()
        assert [entry.frame_id for entry in spool.due(9, 0)] == [waiting]
        assert spool.put(a_picture(3, 1000), a_meta(0.05)).displaced == (refused,)
        assert not (tmp_path / "aside" / f"{refused}.jpg").exists()
        assert spool.balance() == wire.Balance(kept=3, offered=1, rejected=1, spooled=2)


def picked(strategy: str, score: float) -> dict[str, object]:
    return {"score": score, "reasons": [wire.Reason(strategy, score, 0.0)]}


def triggers(spool: Spool) -> Counter[str]:
    return Counter(spool.meta(entry).reasons[0].strategy for entry in spool.due(1000, 0))


def test_a_flood_of_one_trigger_leaves_the_last_few_of_each_other(tmp_path: Path) -> None:
    with Spool(tmp_path, quota_bytes=10_000, putting=True, keep_per_trigger=2) as spool:
        for strategy, score in (("audit", 0.0), ("audit", 0.1), ("audit", 0.2), ("campaign:night", 0.3)):
            kept(spool, size_bytes=1000, **picked(strategy, score))
        for number in range(30):
            assert spool.put(a_picture(number, 1000), a_meta(**picked("ede", 0.5 + number / 100))).outcome is Put.KEPT
        assert triggers(spool) == {"audit": 2, "campaign:night": 1, "ede": 7}
        assert min(entry.score for entry in spool.due(9, 0) if entry.score > 0.4) == pytest.approx(0.73)
        assert spool.balance().holds
        assert spool.balance().evicted == 24


def test_the_first_of_a_rare_trigger_finds_room_whatever_it_is_worth_and_the_next_must_be_worth_it(
    tmp_path: Path,
) -> None:
    with Spool(tmp_path, quota_bytes=5000, putting=True, keep_per_trigger=2) as spool:
        for number in range(5):
            kept(spool, size_bytes=1000, **picked("ede", 0.5 + number / 100))
        assert spool.put(a_picture(0, 1000), a_meta(**picked("audit", 0.0))).outcome is Put.KEPT
        assert spool.put(a_picture(1, 1000), a_meta(**picked("audit", 0.1))).outcome is Put.KEPT
        assert spool.put(a_picture(2, 1000), a_meta(**picked("audit", 0.05))).outcome is Put.KEPT, "in its own's place"
        assert spool.put(a_picture(3, 1000), a_meta(**picked("audit", 0.0))).outcome is Put.EVICTED
        assert triggers(spool) == {"audit": 2, "ede": 3}
        assert sorted(entry.score for entry in spool.due(9, 0) if entry.score < 0.4) == [0.05, 0.1]


def test_what_only_went_beside_a_pick_is_never_spared(tmp_path: Path) -> None:
    with Spool(tmp_path, quota_bytes=3000, putting=True, keep_per_trigger=2) as spool:
        pick = kept(spool, size_bytes=1000, **picked("ede", 0.9))
        for _ in range(2):
            kept(spool, size_bytes=1000, priority=-1, context_of=pick, **picked("context", 0.0))
        for score in (0.1, 0.2):
            kept(spool, size_bytes=1000, **picked("ede", score))
        assert triggers(spool) == {"ede": 3}


def test_below_the_floor_of_free_disk_the_spool_stops_growing_but_keeps_the_best(tmp_path: Path) -> None:
    kept_before = 3
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        for score in (0.2, 0.4, 0.6):
            kept(spool, score, 1000)
    with Spool(tmp_path, QUOTA_BYTES, min_free_bytes=1 << 60, putting=True) as spool:
        assert "floor of free disk" in spool.put(a_picture(1, 1000), a_meta(0.1)).reason
        assert spool.put(a_picture(2, 1000), a_meta(0.9)).outcome is Put.KEPT
        assert [entry.score for entry in spool.due(9, 0)] == [0.9, 0.6, 0.4]
        assert spool.balance().spooled == kept_before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted, which only root may do")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, leave_bytes: int = 0) -> None:
    with (disk / "filler").open("ab", buffering=0) as file:
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize) > leave_bytes:
            file.write(bytes(min(free - leave_bytes, 1 << 16)))


def test_on_a_full_disk_nothing_is_lost_silently_and_the_spool_recovers_by_itself(small_disk: Path) -> None:
    with Spool(small_disk / "spool", QUOTA_BYTES, putting=True, ballast_bytes=128 << 10) as spool:
        assert (small_disk / "spool" / "ballast").exists()
        low = [kept(spool, 0.1, 50_000) for _ in range(3)]
        fill(small_disk)
        outcomes = [spool.put(a_picture(number, 50_000), a_meta(0.5 + number / 100)).outcome for number in range(20)]
        assert set(outcomes) >= {Put.KEPT}
        balance = spool.balance()
        assert balance.holds
        assert balance.kept == 23
        assert balance.spooled == len(files(small_disk / "spool"))
        assert not set(low) & {entry.frame_id for entry in spool.due(99, 0)}, "the least valuable made room"
        for entry in spool.due(99, 0):
            spool.open(entry).close()
        (small_disk / "filler").unlink()
        assert spool.put(a_picture(99, 50_000), a_meta(0.01)).outcome is Put.KEPT
    with Spool(small_disk / "spool", QUOTA_BYTES, putting=True, ballast_bytes=128 << 10) as again:
        assert again.balance().kept == 24
        assert again.balance().lost_local == 0
        assert again.balance().holds


def test_on_a_full_disk_with_nothing_to_give_up_put_says_so_and_counts(small_disk: Path) -> None:
    with Spool(small_disk / "spool", QUOTA_BYTES, putting=True, ballast_bytes=0) as spool:
        kept(spool, 0.9, 1000)
        fill(small_disk)
        for _ in range(5):
            result = spool.put(a_picture(1, 60_000), a_meta(0.1))
            assert result.outcome is Put.DISK_FULL
            assert "full" in result.reason
        assert spool.balance() == wire.Balance(kept=6, evicted=5, spooled=1)
        (small_disk / "filler").unlink()
        spool.put(a_picture(2, 1000), a_meta(0.5))
    assert Spool.look(small_disk / "spool").balance == wire.Balance(kept=7, evicted=5, spooled=2)


def test_a_disk_full_at_the_start_does_not_keep_the_spool_from_opening(small_disk: Path) -> None:
    with Spool(small_disk / "spool", QUOTA_BYTES, putting=True, ballast_bytes=128 << 10) as spool:
        frame_id = kept(spool, 0.9, 1000)
    fill(small_disk)
    with Spool(small_disk / "spool", QUOTA_BYTES, putting=True, ballast_bytes=128 << 10) as spool:
        assert [entry.frame_id for entry in spool.due(9, 0)] == [frame_id]
        spool.offered(frame_id)
        assert spool.acknowledged(frame_id)
        assert spool.balance() == wire.Balance(kept=1, offered=1, uploaded=1, acknowledged=1)


def test_on_a_full_disk_an_acknowledged_frame_makes_its_own_room(small_disk: Path) -> None:
    with Spool(small_disk / "spool", QUOTA_BYTES, putting=True, ballast_bytes=0) as spool:
        frames = [kept(spool, 0.9, 100_000) for _ in range(3)]
        for frame_id in frames:
            spool.offered(frame_id)
        fill(small_disk)
        for ended, frame_id in enumerate(frames):
            assert spool.acknowledged(frame_id)
            assert spool.balance().acknowledged == ended + 1
            fill(small_disk)
        assert spool.balance() == wire.Balance(kept=3, offered=3, uploaded=3, acknowledged=3)


def test_on_a_full_disk_a_move_that_cannot_be_written_changes_nothing(small_disk: Path) -> None:
    with Spool(small_disk / "spool", QUOTA_BYTES, putting=True, ballast_bytes=0) as spool:
        frames = [kept(spool, 0.9, 1000) for _ in range(40)]
        fill(small_disk)
        moved = set()
        for frame_id in frames * 100:
            try:
                spool.offered(frame_id)
            except DiskFull:
                break
            moved.add(frame_id)
        else:
            pytest.fail("the disk was not full")
        assert spool.balance() == wire.Balance(kept=40, offered=len(moved), spooled=40)
        (small_disk / "filler").unlink()
        assert spool.offered(frames[-1])


# ---- damage --------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_file_is_found_before_it_is_sent(spool: Spool, tmp_path: Path) -> None:
    frame_id = kept(spool)
    path = tmp_path / "spool" / "frames" / f"{frame_id}.jpg"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    [entry] = spool.due(1, 0)
    with pytest.raises(Damaged, match="sha256 differs"):
        spool.open(entry)
    assert spool.lost(frame_id, "sha256 differs")
    assert spool.balance() == wire.Balance(kept=1, lost_local=1)


def test_a_flipped_bit_in_the_description_behind_a_picture_is_found_before_it_is_sent(
    spool: Spool, tmp_path: Path
) -> None:
    frame_id = kept(spool)
    path = tmp_path / "spool" / "frames" / f"{frame_id}.jpg"
    path.write_bytes(path.read_bytes().replace(b'"front"', b'"frant"'))
    [entry] = spool.due(1, 0)
    with pytest.raises(Damaged, match="its description is not what was written"):
        spool.meta(entry)


FLIPS = {
    "id": "replace(id, substr(id, 1, 1), CASE substr(id, 1, 1) WHEN 'f' THEN 'e' ELSE 'f' END)",
    "sha256": "'0' || substr(sha256, 2) || 'x'",
    "size_bytes": "size_bytes + 1",
    "priority": "priority + 1024",
    "score": "-score",
    "picked_by": "picked_by || '!'",
    "state": "'granded'",
    "was_offered": "1 - was_offered",
    "was_uploaded": "1 - was_uploaded",
    "grant_json": "CAST(replace(grant_json, 'k/', 'l/') AS BLOB)",
    "checksum": "checksum + 1",
}


@pytest.mark.parametrize("column", FLIPS)
def test_a_damaged_row_is_found_whichever_column_it_hits_and_costs_no_frame(tmp_path: Path, column: str) -> None:
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        done, hit, other = kept(spool), kept(spool), kept(spool)
        for frame_id in (done, hit):
            spool.offered(frame_id)
            spool.granted(frame_id, a_grant(frame_id))
        spool.acknowledged(done)
        spool._connection.execute(f"UPDATE frames SET {column} = {FLIPS[column]} WHERE id = ?", (hit,))
        if column != "state":
            with pytest.raises(durable.StorageFailed, match="builds it anew"):
                spool.due(9, 0)
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        balance = spool.balance()
        assert (balance.kept, balance.acknowledged, balance.spooled, balance.lost_local) == (3, 1, 2, 0)
        assert balance.acknowledged <= balance.uploaded <= balance.offered <= balance.kept
        assert {entry.frame_id for entry in sent_whole(spool)} == {hit, other}
        assert spool.events()[0].kind == "rebuilt"
    assert (tmp_path / "spool.db.damaged").exists()


@pytest.mark.parametrize("name", ["kept", "acknowledged", "evicted", "bytes"])
def test_a_damaged_counter_follows_from_the_others(tmp_path: Path, name: str) -> None:
    with Spool(tmp_path, quota_bytes=3000, putting=True) as spool:
        frames = [kept(spool, 0.5 + number / 100, 1000) for number in range(4)]
        spool.offered(frames[3])
        spool.acknowledged(frames[3])
        before = spool.balance(), spool.bytes_on_disk
        spool._connection.execute("UPDATE counters SET value = value + 65536 WHERE name = ?", (name,))
    with Spool(tmp_path, quota_bytes=3000, putting=True) as spool:
        assert (spool.balance(), spool.bytes_on_disk) == before
        assert spool.events()[0].kind == "rebuilt"


def sent_whole(spool: Spool) -> list[Entry]:
    """What is due, once it was found whole."""
    entries = spool.due(1000, 0)
    for entry in entries:
        spool.meta(entry)
        with spool.open(entry) as file:
            assert len(file.read()) == entry.size_bytes
    return entries


def worked_off(folder: Path) -> wire.Balance:
    """Start as often as damage makes it end, and deliver everything that waits."""
    for _ in range(4):
        try:
            with Spool(folder, QUOTA_BYTES, putting=True, ballast_bytes=0) as spool:
                for entry in sent_whole(spool):
                    assert spool.offered(entry.frame_id)
                    assert spool.acknowledged(entry.frame_id)
                spool.flush()
                return spool.balance()
        except durable.StorageFailed:
            continue
    raise AssertionError("no start put it right")


@pytest.mark.parametrize("kind", ["spool.db", "spool.db-wal"])
def test_one_flipped_byte_anywhere_in_the_database_or_its_log_costs_no_frame(memory_path: Path, kind: str) -> None:
    """Killed, so that the write-ahead log is still there; of each hundred bytes of the file one or so is hit."""
    original = memory_path / "original"
    script = PUTTER.replace("while True:", "while number < 12:") + "\nimport os; os.kill(os.getpid(), 9)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    subprocess.run(
        [sys.executable, "-c", script, original, "1000000"], env=environment, check=False, stdout=subprocess.DEVNULL
    )
    if kind == "spool.db":
        connection = sqlite3.connect(original / kind)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    content = (original / kind).read_bytes()
    assert len(content) > 10_000
    chance = random.Random(11)
    for number in range(40):
        folder = memory_path / str(number)
        shutil.copytree(original, folder)
        position = chance.randrange(len(content))
        hit = bytearray(content)
        hit[position] ^= 1 << chance.randrange(8)
        (folder / kind).write_bytes(hit)
        balance = worked_off(folder)
        assert balance.holds, position
        assert (balance.acknowledged, balance.spooled, balance.lost_local) == (12, 0, 0), position
        shutil.rmtree(folder)


def test_a_database_that_is_taken_away_from_a_running_spool_is_noticed_at_the_next_write(tmp_path: Path) -> None:
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        first = kept(spool)
        for path in tmp_path.glob("spool.db*"):
            path.unlink()
        with pytest.raises(durable.StorageFailed, match="taken away"):
            spool.put(a_picture(), a_meta())
        with pytest.raises(durable.StorageFailed, match="taken away"):
            spool.offered(first)
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        assert first in {entry.frame_id for entry in sent_whole(spool)}
        assert spool.balance().holds


def test_a_start_counts_frames_whose_file_is_gone_or_short_as_lost_and_says_so(tmp_path: Path) -> None:
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        gone, short, whole = kept(spool), kept(spool), kept(spool)
    (tmp_path / "frames" / f"{gone}.jpg").unlink()
    os.truncate(tmp_path / "frames" / f"{short}.jpg", 10)
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        assert spool.swept.lost == 2
        assert spool.balance() == wire.Balance(kept=3, spooled=1, lost_local=2)
        assert {(event.kind, event.frame_id) for event in spool.events()} == {
            ("lost_local", gone),
            ("lost_local", short),
        }
        assert [entry.frame_id for entry in spool.due(9, 0)] == [whole]


@pytest.mark.parametrize("more", [0, 3, 40])
def test_a_file_that_a_power_cut_brings_back_is_no_other_frame(tmp_path: Path, more: int) -> None:
    """Its removal was not synced; as long as it may come back, its row is there to say that it has ended."""
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        frame_id = kept(spool)
        content = (tmp_path / "frames" / f"{frame_id}.jpg").read_bytes()
        for each in [frame_id, *(kept(spool) for _ in range(more))]:
            spool.offered(each)
            spool.acknowledged(each)
        known = spool._connection.execute("SELECT 1 FROM frames WHERE id = ?", (frame_id,)).fetchone() is not None
        cut = tmp_path.with_name(f"{tmp_path.name}-cut")
        shutil.copytree(tmp_path, cut)
    assert known is (more < 17), "the rows go many at a time, after one sync of the folder"
    if known:
        (cut / "frames" / f"{frame_id}.jpg").write_bytes(content)
        with Spool(cut, QUOTA_BYTES, putting=True) as spool:
            assert spool.swept.found_again == 0
            assert spool.balance() == wire.Balance(
                kept=more + 1, offered=more + 1, uploaded=more + 1, acknowledged=more + 1
            )
            assert files(cut) == set()


def test_a_start_removes_half_written_files_keeps_whole_ones_without_a_row_and_sets_aside_what_it_cannot_read(
    tmp_path: Path,
) -> None:
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        frame_id, orphan = kept(spool), kept(spool)
        spool._connection.execute("DELETE FROM frames WHERE id = ?", (orphan,))
        spool._connection.execute(
            "UPDATE counters SET value = 1, checksum = count_checksum('kept', 1) WHERE name = 'kept'"
        )
    (tmp_path / "frames" / f"{new_frame_id()}.jpg.part").write_bytes(b"half")
    (tmp_path / "frames" / f"{(torn := new_frame_id())}.jpg").write_bytes(b"no frame")
    (tmp_path / "frames" / "notes.txt").write_text("somebody else's")
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        assert (spool.swept.leftovers, spool.swept.found_again, spool.swept.lost) == (1, 1, 1)
        assert files(tmp_path) == {f"{frame_id}.jpg", f"{orphan}.jpg", "notes.txt"}
        assert (tmp_path / "aside" / f"{torn}.jpg").exists()
        assert spool.balance() == wire.Balance(kept=3, spooled=2, lost_local=1)
        assert {entry.frame_id for entry in sent_whole(spool)} == {frame_id, orphan}


@pytest.mark.parametrize("fate", ["deleted", "overwritten", "torn"])
def test_a_database_that_is_gone_or_none_costs_no_frame(tmp_path: Path, fate: str) -> None:
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        waiting, refused = kept(spool, 0.7, priority=3), kept(spool)
        spool.offered(refused)
        spool.rejected(refused, "unknown class")
        meta = spool.meta(spool.due(1, 0)[0])
    if fate == "torn":
        os.truncate(tmp_path / "spool.db", 5000)
    else:
        for path in tmp_path.glob("spool.db*"):
            path.unlink()
    if fate == "overwritten":
        (tmp_path / "spool.db").write_bytes(b"this is not a database, but it is long enough to be taken for one" * 20)
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        assert spool.balance() == wire.Balance(kept=2, spooled=1, lost_local=1), "what became of the other is not known"
        [entry] = sent_whole(spool)
        assert (entry.frame_id, entry.priority, entry.score) == (waiting, 3, 0.7)
        assert spool.meta(entry) == meta
        assert (tmp_path / "aside" / f"{refused}.jpg").exists(), "it stays, to be looked at"
        assert spool.put(a_picture(), a_meta()).outcome is Put.KEPT
        assert spool.bytes_on_disk == 1500
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        assert spool.balance() == wire.Balance(kept=3, spooled=2, lost_local=1)


def test_a_rebuilding_that_is_killed_at_its_end_is_finished_by_the_next_start(tmp_path: Path) -> None:
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        frame_id = kept(spool)
    (tmp_path / "spool.db").replace(tmp_path / "spool.db.new")
    (tmp_path / "spool.db").write_bytes(b"the damaged one")
    with Spool(tmp_path, QUOTA_BYTES, putting=True) as spool:
        assert [entry.frame_id for entry in sent_whole(spool)] == [frame_id]
        assert spool.balance() == wire.Balance(kept=1, spooled=1)


def traced(trace: Path, calls: str, program: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program with its arguments under strace, which writes these system calls into `trace`."""
    if shutil.which("strace") is None:
        pytest.skip("system calls are seen and changed by strace")
    command = ["strace", "-f", "-o", str(trace), "-e", f"trace={calls}", *options, sys.executable, "-c", *program]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    if "ptrace" in ended.stderr:
        pytest.skip("no process may be traced here")
    return ended


def test_an_fsync_that_fails_ends_the_process_loudly_and_nothing_is_called_kept(tmp_path: Path) -> None:
    """The errors are injected into the real system calls, by strace, from a random moment on."""
    for number, (call, first) in enumerate((("fsync", 15), ("fdatasync", 30))):
        folder = tmp_path / str(number)
        inject = ["-e", f"inject={call}:error=EIO:when={first}+"]
        ended = traced(tmp_path / "trace", call, [PUTTER, str(folder), "1000000"], *inject)
        assert ended.returncode == 1, ended.stderr
        assert "StorageFailed" in ended.stderr, call
        told = {line.split()[1] for line in ended.stdout.splitlines() if line.startswith("kept")}
        with Spool(folder, QUOTA_BYTES, putting=True) as spool:
            assert told <= {entry.frame_id for entry in sent_whole(spool)}
            assert len(told) <= spool.balance().kept <= len(told) + 1
            assert spool.balance().holds


# ---- durability settings, processes --------------------------------------------------------------------------------


def test_every_opening_is_durable(spool: Spool) -> None:
    assert spool._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert spool._connection.execute("PRAGMA synchronous").fetchone() == (2,)


MOVER = """
import os, sys
from pathlib import Path
from edgecase_agent.spool import Spool
from edgecase_models import wire
from support.frames import a_meta, a_picture
spool, meta = Spool(Path(sys.argv[1]), 10**8, putting=True, ballast_bytes=0), a_meta()
grant = wire.Grant(frame_id=meta.frame_id, url="http://s", headers={}, key="k", expires_at=wire.now())
for step in (
    lambda: spool.put(a_picture(1, 4000), meta),
    lambda: spool.offered(meta.frame_id),
    lambda: spool.granted(meta.frame_id, grant),
    lambda: spool.stored(meta.frame_id),
    lambda: spool.acknowledged(meta.frame_id),
):
    os.chdir("/")
    step()
os.chdir("/")
"""


def test_what_is_promised_is_synced_and_how_far_a_frame_is_on_its_way_is_not(tmp_path: Path) -> None:
    program = traced(tmp_path / "trace", "fsync,fdatasync,chdir", [MOVER, str(tmp_path / "spool")])
    assert program.returncode == 0, program.stderr
    steps = (tmp_path / "trace").read_text().split("chdir(")[1:-1]
    put, *on_its_way, ended = [step.count("sync(") for step in steps]
    assert put >= 3, "the file, its folder, the row"
    assert on_its_way == [0, 0, 0]
    assert ended >= 1


def test_a_folder_that_cannot_be_written_is_named_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="choose another data folder"):
        Spool(tmp_path / "file" / "spool", QUOTA_BYTES)


def test_a_second_agent_on_the_same_folder_is_refused(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_open, "_PREDECESSOR_ENDS_WITHIN_S", 0.1)
    with pytest.raises(SpoolError, match="another agent is using it"):
        Spool(tmp_path / "spool", QUOTA_BYTES, putting=True)


def test_what_is_no_frame_is_refused(spool: Spool) -> None:
    with pytest.raises(SpoolError, match="0 bytes"):
        spool.put(b"", a_meta())
    with pytest.raises(SpoolError, match="score is nan"):
        spool.put(b"x", a_meta(float("nan")))
    with pytest.raises(SpoolError, match="32 hexadecimal digits"):
        spool.put(b"x", a_meta(frame_id="../../etc/passwd"))
    assert spool.balance() == wire.Balance()


def test_one_process_puts_while_another_sends_and_the_balance_holds_at_every_look(memory_path: Path) -> None:
    with (
        Spool(memory_path, quota_bytes=20_000, putting=True) as putting,
        Spool(memory_path, quota_bytes=20_000) as sending,
    ):
        ended = threading.Event()
        looks: list[wire.Balance] = []

        def send() -> None:
            while not ended.is_set() or sending.due(1, 0):
                for entry in sending.due(4, 0):
                    if sending.offered(entry.frame_id):
                        sending.granted(entry.frame_id, a_grant(entry.frame_id))
                        try:
                            sending.open(entry).close()
                        except Damaged:  # evicted between the grant and this moment: every move is refused now
                            assert not sending.stored(entry.frame_id)
                            continue
                        sending.stored(entry.frame_id)
                        sending.acknowledged(entry.frame_id)
                looks.append(Spool.look(memory_path).balance)

        thread = threading.Thread(target=send)
        thread.start()
        chance = random.Random(7)
        for number in range(300):
            putting.put(a_picture(number, chance.randint(100, 3000)), a_meta(chance.random()))
        ended.set()
        thread.join()
        final = putting.balance()
        assert (final.kept, final.spooled, final.lost_local) == (300, 0, 0)
        assert final.acknowledged + final.evicted == 300
        assert all(balance.holds for balance in looks)
        assert files(memory_path) == set()


PUTTER = """
import sys
from pathlib import Path
from edgecase_agent.spool import Spool, Put
from support.frames import a_meta, a_picture
from support.wait import until
spool = Spool(Path(sys.argv[1]), int(sys.argv[2]), putting=True, ballast_bytes=0)
number = 0
while True:
    number += 1
    meta = a_meta((number * 37 % 100) / 100)
    result = spool.put(a_picture(number, 4000), meta)
    for line in (*(f"gone {i}" for i in result.displaced), f"{result.outcome} {meta.frame_id}"):
        sys.stdout.write(line + "\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("quota_bytes", [100_000_000, 60_000], ids=["room", "evicting"])
def test_no_frame_that_put_called_kept_is_lost_when_the_process_is_killed_at_any_moment(
    tmp_path: Path, quota_bytes: int
) -> None:
    chance = random.Random(quota_bytes)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    kept_ids: set[str] = set()
    gone: set[str] = set()
    lines = 0
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", PUTTER, tmp_path, str(quota_bytes)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert child.stdout is not None
        reader_lines: list[str] = []
        reader = threading.Thread(target=reader_lines.extend, args=(child.stdout,))
        first = child.stdout.readline()
        reader.start()
        threading.Event().wait(chance.uniform(0.0, 0.15))  # the random moment
        child.send_signal(signal.SIGKILL)
        child.wait()
        reader.join()
        child.stdout.close()
        for line in (first, *(one for one in reader_lines if one.endswith("\n"))):
            word, frame_id = line.split()
            lines += word != "gone"
            (kept_ids if word == "kept" else gone).add(frame_id)
    with Spool(tmp_path, quota_bytes, putting=True) as spool:
        balance = spool.balance()
        waiting = {entry.frame_id for entry in spool.due(1_000_000, 0)}
        for entry in spool.due(1_000_000, 0):
            spool.open(entry).close()
            spool.meta(entry)
        evicted = {event.frame_id for event in spool.events(100_000) if event.kind == "evicted"}
        assert lines > 10
        assert balance.holds
        assert balance.lost_local == 0, spool.events()
        assert kept_ids <= waiting | evicted, "a frame called kept is there, or was evicted by a counted event"
        assert not waiting & gone
        assert lines <= balance.kept <= lines + 6, "at most the one put of each kill is kept without having been told"
        assert files(tmp_path) == {f"{frame_id}.jpg" for frame_id in waiting}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        with on_disk(tmp_path / "mounted", tmp_path / "disk.img", 48 << 20) as disk:
            yield disk
    except NoDisk as reason:
        pytest.skip(str(reason))


def test_no_frame_that_put_called_kept_is_lost_or_torn_when_the_power_is_cut(disk: Disk) -> None:
    chance = random.Random(9)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    told: set[str] = set()
    for _ in range(3):
        putter = subprocess.Popen(
            [sys.executable, "-c", PUTTER, disk.folder / "spool", "20000000"], stdout=subprocess.PIPE, env=environment, text=True
        )  # fmt: skip
        assert putter.stdout is not None
        reader = threading.Thread(target=told.update, args=(putter.stdout,))
        reader.start()
        try:
            more = len(told) + chance.randint(20, 60)
            until(lambda more=more: len(told) > more, within_s=30, what="more frames")
            putter.send_signal(signal.SIGSTOP)
            disk.cut()
        finally:
            putter.kill()
            putter.wait()
            reader.join()
            putter.stdout.close()
        disk.come_back()
        kept_ids = {line.split()[1] for line in told if line.startswith("kept") and line.endswith("\n")}
        with Spool(disk.folder / "spool", 20_000_000, putting=True, ballast_bytes=0) as spool:
            entries = spool.due(1_000_000, 0)
            for entry in entries:
                spool.open(entry).close()
                spool.meta(entry)
            assert kept_ids <= {entry.frame_id for entry in entries}
            assert spool.balance().lost_local == 0
            assert spool.balance().holds
            assert spool._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# ---- ids -----------------------------------------------------------------------------------------------------------


def test_frame_ids_are_uuids_of_version_7_that_sort_by_time_and_never_repeat() -> None:
    ids = [new_frame_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(i) == 32 and i[12] == "7" and i[16] in "89ab" for i in ids)
    assert new_frame_id(lambda: 1) < new_frame_id(lambda: 2) < new_frame_id(lambda: 2**48 - 1)
    assert boot_id() == boot_id() != ""
