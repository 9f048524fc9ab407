"""What the allowance promises: in no 24 hours and no 30 days more than the limit, across kills, restarts and wrong clocks."""

from __future__ import annotations

import math
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecase_agent.allowance import Allowance, Limits
from edgecase_agent.elapsed import Reading

DAY_S, MB = 86_400.0, 1_000_000
START_S = 1_790_000_000.0


def at(seconds: float, boot: str = "b", wall_s: float | None = None) -> Reading:
    return Reading(boot, seconds, START_S + seconds if wall_s is None else wall_s)


def sent(allowance: Allowance, name: str, size_bytes: int) -> bool:
    if allowance.refusal(size_bytes):
        return False
    allowance.hold(name, size_bytes)
    allowance.settle(name, size_bytes)
    return True


def test_a_days_bytes_are_spent_and_come_back_a_day_later(tmp_path: Path) -> None:
    allowance = Allowance(tmp_path / "a.json", Limits(per_day=10 * MB), at(0))
    assert [sent(allowance, str(n), 3 * MB) for n in range(4)] == [True, True, True, False]
    assert allowance.refusal(3 * MB) == "bytes: 10 MB a day, 1.0 MB left"
    assert allowance.refusal(MB) == ""
    allowance.advance(at(DAY_S - 1), metered=False)
    assert not sent(allowance, "early", 3 * MB)
    allowance.advance(at(DAY_S + 1), metered=False)
    assert sent(allowance, "next", 10 * MB)


def test_what_is_held_leaves_no_room_for_others_and_what_was_not_sent_of_it_comes_back(tmp_path: Path) -> None:
    allowance = Allowance(tmp_path / "a.json", Limits(per_day=10 * MB), at(0))
    allowance.hold("first", 8 * MB)
    assert allowance.refusal(3 * MB)
    allowance.settle("first", 2 * MB)
    assert allowance.refusal(8 * MB) == ""


def test_the_month_holds_where_the_day_would_not_and_a_metered_line_counts_only_while_it_is_one(tmp_path: Path) -> None:
    allowance = Allowance(tmp_path / "a.json", Limits(10 * MB, 25 * MB, 0), at(0))
    days = 0
    for day in range(40):
        allowance.advance(at(day * (DAY_S + 1)), metered=False)
        days += sent(allowance, "x", 10 * MB)
    assert days == 4  # two, and as many once the first are thirty days ago
    allowance = Allowance(tmp_path / "b.json", Limits(metered_per_day=0), at(0))
    assert not allowance.is_limited
    assert allowance.refusal(50 * MB) == ""
    allowance.advance(at(1), metered=True)
    assert allowance.is_limited
    assert "0 MB a day on a metered line" in allowance.refusal(1)


def test_messages_count_and_are_never_refused(tmp_path: Path) -> None:
    allowance = Allowance(tmp_path / "a.json", Limits(per_day=10 * MB), at(0))
    for _ in range(1200):
        allowance.spend(10_000)
    assert "0.0 MB left" in allowance.refusal(1)
    allowance.advance(at(DAY_S + 1), metered=False)
    assert allowance.refusal(10 * MB) == ""


def test_more_than_a_whole_limit_goes_when_little_else_did_and_is_paid_back(tmp_path: Path) -> None:
    allowance = Allowance(tmp_path / "a.json", Limits(per_day=10 * MB), at(0))
    allowance.spend(900_000)
    assert sent(allowance, "large", 60 * MB)
    assert not sent(allowance, "small", 1)
    allowance.advance(at(DAY_S + 1), metered=False)
    assert sent(allowance, "small", 2 * MB)
    assert not sent(allowance, "large", 60 * MB)


def test_a_kill_never_makes_too_little_of_what_was_sent_and_an_orderly_end_not_too_much(tmp_path: Path) -> None:
    path, limits = tmp_path / "a.json", Limits(per_day=10 * MB)
    killed = Allowance(path, limits, at(0))
    for _ in range(30):
        killed.spend(5000)
    killed.hold("in flight", 4 * MB)  # and here it ends
    after = Allowance(path, limits, at(10))
    assert after.refusal(6 * MB)
    assert after.refusal(5 * MB) == ""
    after.close()
    left = next(size for size in range(6 * MB, 0, -1000) if not after.refusal(size))
    last = Allowance(path, limits, at(20))
    assert last.refusal(left) == ""
    assert last.refusal(left + 2000)


def test_a_kill_after_the_line_became_a_metered_one_counts_on_it_too(tmp_path: Path) -> None:
    path, limits = tmp_path / "a.json", Limits(metered_per_day=10 * MB)
    killed = Allowance(path, limits, at(0))
    killed.spend(10)
    killed.advance(at(1), metered=True)
    killed.hold("x", 4 * MB)
    after = Allowance(path, limits, at(2))
    after.advance(at(3), metered=True)
    assert after.refusal(6 * MB)
    assert after.refusal(5 * MB) == ""


def test_a_file_that_cannot_be_understood_gives_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"v": 9')
    allowance = Allowance(path, Limits(per_day=10 * MB), at(0))
    assert allowance.refusal(1)
    allowance.advance(at(DAY_S + 1), metered=False)
    assert allowance.refusal(10 * MB) == ""


def test_without_limits_nothing_is_written(tmp_path: Path) -> None:
    allowance = Allowance(tmp_path / "a.json", Limits(), at(0))
    assert sent(allowance, "x", 1 << 40)
    allowance.close()
    assert list(tmp_path.iterdir()) == []


def test_few_messages_are_written_down_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    allowance = Allowance(path, Limits(per_day=100 * MB), at(0))
    written = set()
    for _ in range(500):
        allowance.spend(1000)
        written.add(path.stat().st_ino)
    assert len(written) <= 20


@pytest.mark.parametrize("wall_s", [0.0, 4e9], ids=["1970", "2096"])
def test_a_wrong_clock_gives_nothing_again_and_stops_nothing(tmp_path: Path, wall_s: float) -> None:
    path, limits = tmp_path / "a.json", Limits(per_day=10 * MB)
    allowance = Allowance(path, limits, at(0))
    assert sent(allowance, "x", 10 * MB)
    for second in range(0, 400, 20):
        allowance.advance(at(second, wall_s=wall_s + second), metered=False)
        assert allowance.refusal(MB)
    allowance.close()
    allowance = Allowance(path, limits, at(500))
    assert allowance.refusal(MB)
    allowance.advance(at(DAY_S + 500, wall_s=wall_s), metered=False)
    assert allowance.refusal(10 * MB) == ""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("picture", "message", "kill", "end", "wait")), st.integers(1, 4 * MB), st.floats(1, 20_000)
        ),
        max_size=60,
    )
)
def test_in_no_24_hours_more_than_the_limit_and_a_message_whatever_is_killed(
    steps: list[tuple[str, int, float]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, limits = Path(folder) / "a.json", Limits(per_day=10 * MB)
        allowance, now_s = Allowance(path, limits, at(0)), 0.0
        log: list[tuple[float, int]] = []
        for what, size, wait_s in steps:
            if what == "picture" and not allowance.refusal(size):
                allowance.hold("x", size)
                log.append((now_s, size))
                allowance.settle("x", size)
            elif what == "message":
                allowance.spend(size % 5000)
            elif what == "wait":
                now_s += wait_s
                allowance.advance(at(now_s), metered=False)
            elif what in {"kill", "end"}:
                if what == "end":
                    allowance.close()
                allowance = Allowance(path, limits, at(now_s))
        for start_s, _ in log:
            assert sum(size for when_s, size in log if start_s <= when_s < start_s + DAY_S) <= 10 * MB
        assert all(earlier <= later for (earlier, _), (later, _) in pairwise(log))
        assert math.isfinite(now_s)
