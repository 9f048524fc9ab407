"""What bandwidth promises: pictures go when and as fast as they may, and what holds them up is told."""

from __future__ import annotations

import threading
import time
from datetime import time as time_of_day
from pathlib import Path

import pytest

from edgecase_agent.allowance import Allowance, Limits
from edgecase_agent.bandwidth import Bandwidth, BandwidthError, Metered, Pace, Window, default_interface
from edgecase_agent.elapsed import Reading

MB = 1_000_000
EIGHT_PM_S = 1_790_020_800.0 - 1_790_020_800.0 % 86_400 + 20 * 3600  # of a day in 2026, in UTC


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


# ---- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("09:00-17:30", ["09:00", "12:00", "17:29"], ["08:59", "17:30", "00:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59", "12:00"]),
    ],
)
def test_a_window_holds_its_beginning_and_not_its_end_over_midnight_too(
    text: str, inside: list[str], outside: list[str]
) -> None:
    window = Window.read(text)
    assert all(window.holds(time_of_day.fromisoformat(at)) for at in inside)
    assert not any(window.holds(time_of_day.fromisoformat(at)) for at in outside)


@pytest.mark.parametrize("text", ["", "22:00", "24:00-06:00", "22:00-22:00", "22-6", "22:00-06:00 ", "٢٢:00-06:00"])
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BandwidthError, match="22:00-06:00"):
        Window.read(text)


def test_pictures_wait_for_the_next_window_and_go_when_it_opens(tmp_path: Path) -> None:
    windows = [Window.read("02:00-04:00"), Window.read("22:00-23:00")]
    bandwidth = Bandwidth(Allowance(tmp_path / "a", Limits(), Reading("b", 0, EIGHT_PM_S)), windows=windows)
    bandwidth.advance(Reading("b", 0, EIGHT_PM_S))
    assert bandwidth.refusal(1) == "the upload window that opens at 22:00"
    bandwidth.advance(Reading("b", 0, EIGHT_PM_S + 2 * 3600))
    assert bandwidth.refusal(1) == ""
    bandwidth.advance(Reading("b", 0, EIGHT_PM_S + 3 * 3600))
    assert bandwidth.refusal(1) == "the upload window that opens at 02:00"


def test_a_window_is_in_local_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    bandwidth = Bandwidth(
        Allowance(tmp_path / "a", Limits(), Reading("b", 0, EIGHT_PM_S)), windows=[Window.read("05:00-06:00")]
    )
    bandwidth.advance(Reading("b", 0, EIGHT_PM_S))
    assert bandwidth.refusal(1) == ""


def test_a_clock_that_was_never_set_holds_nothing_up(tmp_path: Path) -> None:
    bandwidth = Bandwidth(Allowance(tmp_path / "a", Limits(), Reading("b", 0, 0)), windows=[Window.read("22:00-23:00")])
    bandwidth.advance(Reading("b", 0, 12 * 3600))
    assert bandwidth.refusal(1) == ""


# ---- metered lines -------------------------------------------------------------------------------------------------

ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
wwan0\t00000000\t0102A8C0\t0003\t0\t0\t{wwan}\t00000000\t0\t0\t0
eth0\t00000000\t0101A8C0\t0003\t0\t0\t{eth}\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
IPV6 = (
    "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 "
    "00000400 00000001 00000000 00000003 {interface}\n"
)


def test_a_modem_as_the_way_out_is_a_metered_line_and_a_cable_is_none(tmp_path: Path) -> None:
    metered = Metered("auto", proc_net=tmp_path)
    assert not metered.now(0), "no way out"
    (tmp_path / "route").write_text(ROUTES.format(wwan=700, eth=100))
    assert default_interface(tmp_path) == "eth0"
    assert not metered.now(20)
    (tmp_path / "route").write_text(ROUTES.format(wwan=50, eth=100))
    assert not metered.now(25), "looked up every ten seconds at most"
    assert metered.now(31)
    (tmp_path / "route").write_text(ROUTES.splitlines()[0] + "\n")
    (tmp_path / "ipv6_route").write_text(IPV6.format(interface="lo") + IPV6.format(interface="wwp0s20u4"))
    assert default_interface(tmp_path) == "wwp0s20u4"
    assert metered.now(50)


def test_the_real_routes_of_this_machine_can_be_read() -> None:
    interface = default_interface()
    assert interface is None or Path("/sys/class/net", interface).exists()


def test_the_vehicles_own_word_counts_and_a_missing_one_means_the_dearer(tmp_path: Path) -> None:
    file = tmp_path / "metered"
    metered = Metered("auto", file)
    assert metered.now(0)
    for number, (content, expected) in enumerate([("no\n", False), ("yes\n", True), ("", True), ("no", False)], 1):
        file.write_text(content)
        assert metered.now(20 * number) is expected, content
    assert Metered("yes", file).now(0)
    assert not Metered("no").now(0)


def test_on_a_metered_line_less_goes_and_less_is_said(tmp_path: Path) -> None:
    file = tmp_path / "metered"
    file.write_text("no")
    limits = Limits(metered_per_day=10 * MB)
    start = Reading("b", 0, EIGHT_PM_S)
    bandwidth = Bandwidth(Allowance(tmp_path / "a", limits, start), metered=Metered("auto", file))
    bandwidth.advance(start)
    bandwidth.hold("x", 50 * MB)
    bandwidth.settle("x", 50 * MB)
    assert (bandwidth.refusal(10 * MB), bandwidth.report_every_s) == ("", 0)
    file.write_text("yes")
    bandwidth.advance(Reading("b", 20, EIGHT_PM_S))
    assert (bandwidth.refusal(8 * MB), bandwidth.report_every_s) == ("", 60)
    bandwidth.said(3 * MB)
    assert bandwidth.refusal(8 * MB) == "bytes: 10 MB a day on a metered line, 7.0 MB left"
    bandwidth.said(7 * MB)
    assert bandwidth.report_every_s == 300


# ---- the rate ------------------------------------------------------------------------------------------------------


class Time:
    """A clock that goes forward by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_in_no_stretch_more_goes_than_the_rate_and_one_seconds_worth() -> None:
    clock = Time()
    pace = Pace(100_000, clock.clock, clock.sleep)
    taken: list[tuple[float, int]] = []
    for number in range(300):
        size = pace.take(250_000)
        taken.append((clock.now_s, size))
        if number % 50 == 49:
            clock.now_s += 30  # idle: no more than a second of it is saved up
    for index, (start_s, _) in enumerate(taken):
        total = 0
        for when_s, size in taken[index:]:
            total += size
            assert total <= 100_000 * (when_s - start_s + 1) + 25_000
    busy_s = clock.now_s - 100.0 - 6 * 30
    assert sum(size for _, size in taken) == pytest.approx(100_000 * busy_s, rel=0.2), "and it is used"


def test_what_does_not_wait_makes_the_others_wait() -> None:
    clock = Time()
    pace = Pace(10_000, clock.clock, clock.sleep)
    assert not pace.owes
    pace.spend(60_000)
    assert pace.owes
    before_s = clock.now_s
    pace.take(1)
    assert clock.now_s - before_s == pytest.approx(5, abs=0.01)
    assert not pace.owes


def test_several_uploads_share_the_rate() -> None:
    pace, done = Pace(400_000), []
    started_s = time.monotonic()

    def upload() -> None:
        left = 100_000
        while left:
            left -= pace.take(left)
        done.append(time.monotonic() - started_s)

    threads = [threading.Thread(target=upload) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(done) >= 0.45, "600 kB at 400 kB a second, of which one second was saved up"
