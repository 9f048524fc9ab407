"""What the status promises a person: every loop's state in a line, and what wants attention under a name of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from edgecase_agent.standing import PROBLEM, lines
from edgecase_agent.status import Overview, UpdateReport, UplinkReport
from edgecase_agent.telemetry import TelemetryCounts
from edgecase_agent.watch_status import WatchStatus
from edgecase_models import wire

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DIGEST = "c7bf49f62602" + "0" * 52


def standing(watch: WatchStatus | None = None, **parts: Any) -> list[tuple[str, str]]:
    empty: dict[str, Any] = {"uplink": None, "update": None, "active": {}, "balance": wire.Balance(), "events": []}
    seen: dict[str, Any] = {} if watch is None else msgspec.json.decode(msgspec.json.encode(watch))
    return list(lines(Overview(watch=seen, bytes_sent=0, spool_bytes=0, **(empty | parts)), NOW))


def watched(**parts: Any) -> WatchStatus:
    return WatchStatus(at=NOW, source="gate.mp4", source_state="playing", running_digest=DIGEST, **parts)


def test_a_device_that_never_ran_says_so() -> None:
    assert standing() == [
        ("model", "none yet"),
        ("watch", "has not run here"),
        ("kept", "0 frames"),
        ("spool", "0 kB on disk, 0 kB sent"),
    ]


def test_all_that_was_counted_is_told_and_no_more_than_that() -> None:
    status = watched(
        frames_seen=1200, frames_per_s=12.345, frames_failed=2, selected=7, audited=1, strategy="ede", second_looks=50,
        second_looks_failed=3, without_chance=9, telemetry=TelemetryCounts(read=8, stale=1), passed={"a": 1, "b": 5, "c": 3, "d": 2},
    )  # fmt: skip
    said = dict(standing(status, balance=wire.Balance(kept=7, acknowledged=5, spooled=2)))
    assert said["watch"] == "gate.mp4: playing"
    assert said["frames"] == "1,200 frames seen at 12.3 a second, 0 skipped, 2 dropped"
    assert said["picked"] == "7 frames, ranked by ede; 1 of them at random"
    assert said["let go"] == "5 b; 3 c; 2 d"
    assert said["second looks"] == "50, 3 failed, 9 frames could not have got one"
    assert said["telemetry"] == "8 read, 0 broken or missing, 1 grown stale, 0 values left out"
    assert said["kept"] == "7 frames = 5 acknowledged + 2 waiting here"
    assert said["privacy"] == "off: frames leave as they are"
    redacting = dict(standing(watched(privacy="blur", redacted=1, withheld=3)))
    assert redacting["privacy"] == "blur: 1 frame painted over, 3 kept without their pixels"
    assert PROBLEM not in said
    assert "telemetry" not in dict(standing(watched()))


def test_what_pictures_wait_for_is_told_and_is_no_problem() -> None:
    report = UplinkReport(at=NOW, pid=1, connected=True, in_flight=2, waits_for="the upload window that opens at 22:00")
    said = standing(uplink=report)
    assert (
        dict(said)["uplink"]
        == "connected, 2 frames on the way; pictures wait for the upload window that opens at 22:00"
    )
    assert PROBLEM not in dict(said)


def test_what_wants_a_person_is_a_problem_each() -> None:
    status = watched(
        model_failure="bundle x: torn",
        strategy_failure="no features",
        telemetry_problem="v.json: gone",
        problem="frame 3: odd",
    )
    problems = [said for name, said in standing(status) if name == PROBLEM]
    assert problems == ["bundle x: torn", "no features", "v.json: gone", "frame 3: odd"]


def test_a_loop_that_has_been_silent_is_told_from_one_that_runs() -> None:
    old = NOW - timedelta(minutes=5)
    status = watched()
    status.at = old
    parts = {
        "uplink": UplinkReport(at=old, pid=1, connected=True, in_flight=1),
        "update": UpdateReport(at=old, pid=1, outcome="up to date", why="runs release 4"),
    }
    said = dict(standing(status, **parts))
    assert said["watch"] == "gate.mp4: playing; does not run, last at 2026-05-01 11:55:00 UTC"
    assert said["uplink"] == "does not run, last at 2026-05-01 11:55:00 UTC"
    assert (
        dict(standing(uplink=UplinkReport(at=NOW, pid=1, connected=True, in_flight=1)))["uplink"]
        == "connected, 1 frame on the way"
    )
    assert said["update"] == "up to date: runs release 4 (2026-05-01 11:55:00 UTC)"  # it writes when there is news


def test_the_model_that_runs_is_told_from_the_one_that_is_laid_down() -> None:
    active = {"slot": "a", "digest": DIGEST, "release": 4, "by_hand": True}
    assert standing(watched(), active=active)[0] == ("model", "c7bf49f62602, placed by hand, slot a")
    later = {"slot": "b", "digest": "d" * 64, "release": 4, "by_hand": False}
    assert (
        standing(watched(), active=later)[0][1] == "c7bf49f62602; dddddddddddd, release 4, slot b, is laid down to run"
    )
    assert standing(active=later)[0][1] == "none has run yet; dddddddddddd, release 4, slot b, is laid down to run"
