"""What elapsed time promises: it never runs twice over the same days, whatever the wall clock shows, and it never stands still for long."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_agent.elapsed import MOST_AWAY_S, Elapsed, ElapsedState, Reading, boottime_s

DAY_S = 86_400.0
NOW_S = 1_790_000_000.0  # 2026


@dataclass
class Device:
    """A device whose wall clock is off by `error_s`; a boot begins with `restart`."""

    now_s: float = NOW_S
    boots: int = 0
    booted_s: float = NOW_S
    error_s: float = 0.0

    def reading(self) -> Reading:
        return Reading(f"boot-{self.boots}", self.now_s - self.booted_s, self.now_s + self.error_s)

    def restart(self, off_s: float, error_s: float = 0.0) -> None:
        self.now_s += off_s
        self.boots, self.booted_s, self.error_s = self.boots + 1, self.now_s, error_s

    def run(self, elapsed: Elapsed, for_s: float, every_s: float = 30.0) -> float:
        total = elapsed.advance(self.reading())
        for _ in range(int(for_s / every_s)):
            self.now_s += every_s
            total = elapsed.advance(self.reading())
        return total


def again(elapsed: Elapsed) -> Elapsed:
    """The process starts anew, from what is on the disk."""
    return Elapsed(msgspec.json.decode(msgspec.json.encode(elapsed.state), type=ElapsedState))


def test_within_a_boot_the_wall_clock_has_no_say() -> None:
    device, elapsed = Device(), Elapsed()
    assert device.run(elapsed, 600) == 600
    for error_s in (-NOW_S, 80 * 365 * DAY_S, -3600.0, 0.0):
        device.error_s = error_s
        before = elapsed.state.elapsed_s
        elapsed = again(elapsed)
        assert device.run(elapsed, 600) == before + 600


def test_the_time_that_the_device_was_off_counts_once_its_clock_was_seen_to_go_evenly() -> None:
    device, elapsed = Device(), Elapsed()
    device.run(elapsed, 600)
    device.restart(off_s=2 * DAY_S)
    elapsed = again(elapsed)
    assert device.run(elapsed, 60) == 660, "not at once"
    assert device.run(elapsed, 600) == 2 * DAY_S + 1260
    assert device.run(again(elapsed), 600) == 2 * DAY_S + 1860, "and not twice"


def test_a_clock_that_starts_in_1970_and_is_set_by_the_network_gives_the_days_off_and_no_more() -> None:
    device, elapsed = Device(), Elapsed()
    device.run(elapsed, 600)
    for boot in range(1, 5):
        device.restart(off_s=DAY_S, error_s=-NOW_S)
        elapsed = again(elapsed)
        device.run(elapsed, 300)
        device.error_s = 0.0
        assert device.run(elapsed, 300) == 600 + boot * (DAY_S + 600)


def test_a_clock_that_starts_far_ahead_and_is_set_by_the_network_gives_no_day_that_was_not() -> None:
    device, elapsed = Device(), Elapsed()
    device.run(elapsed, 600)
    for boot in range(1, 5):
        device.restart(off_s=100.0, error_s=70 * 365 * DAY_S)
        elapsed = again(elapsed)
        device.run(elapsed, 90)
        device.error_s = 0.0
        assert device.run(elapsed, 300) == 600 + boot * 490


def test_a_clock_that_stays_wrong_into_the_future_gives_a_month_once_and_stops_nothing() -> None:
    device, elapsed = Device(), Elapsed()
    device.run(elapsed, 600)
    device.restart(off_s=100.0, error_s=70 * 365 * DAY_S)
    elapsed = again(elapsed)
    assert device.run(elapsed, 600) == 1200 + MOST_AWAY_S
    device.restart(off_s=DAY_S)  # right again: it seems to be decades earlier
    elapsed = again(elapsed)
    assert device.run(elapsed, 600) == 1800 + MOST_AWAY_S
    device.restart(off_s=DAY_S)
    assert device.run(again(elapsed), 600) == 2400 + MOST_AWAY_S + DAY_S


def test_a_clock_that_is_never_set_counts_the_time_that_the_device_is_on() -> None:
    device, elapsed = Device(error_s=-NOW_S), Elapsed()
    for _ in range(3):
        device.run(elapsed, 600)
        device.restart(off_s=DAY_S, error_s=-NOW_S)
        elapsed = again(elapsed)
    assert elapsed.state.elapsed_s == 1800


@settings(max_examples=60, deadline=None)
@given(
    boots=st.lists(
        st.tuples(st.floats(0, 5 * DAY_S), st.sampled_from([0.0, -NOW_S, -3600.0, 1800.0]), st.integers(1, 40)),
        max_size=12,
    )
)
def test_it_goes_forward_and_no_faster_than_time_does_while_the_clock_is_right_or_unset(
    boots: list[tuple[float, float, int]],
) -> None:
    device, elapsed = Device(), Elapsed()
    last_s = device.run(elapsed, 300)
    slack_s = 0.0
    for off_s, error_s, steps in boots:
        device.restart(off_s, error_s)
        slack_s += 2 * abs(error_s) if error_s > -NOW_S / 2 else 0.0
        elapsed = again(elapsed)
        for _ in range(steps):
            device.now_s += 20
            now_s = elapsed.advance(device.reading())
            assert last_s <= now_s <= device.now_s - NOW_S + slack_s + 1e-3
            last_s = now_s


def test_the_time_since_the_boot_goes_on_in_standby_where_the_system_tells() -> None:
    first = boottime_s()
    assert 0 < first <= boottime_s()
    reading = Reading.now()
    assert replace(reading, wall_s=0.0).boot == reading.boot != ""
