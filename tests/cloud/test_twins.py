"""Two devices with one identity are told; a device that starts again, reconnects, is held back, repeated or heard days late is not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from edgecase_cloud.twins import LATELY, PACE, REMEMBERED, TOGETHER, Run, heard, is_flagged
from edgecase_models import wire
from support.cloud import NOW

Arrival = tuple[float, wire.Status]
"""When it came, in seconds from NOW, and what came."""


def status(run: str, mono_s: float, *, at_s: float = 0.0) -> wire.Status:
    return wire.Status(
        device="cam-1",
        online=True,
        session=f"{run}-{int(mono_s // 20)}",
        at=NOW + timedelta(seconds=at_s),
        run=run,
        boot_id=f"boot-{run}",
        monotonic_ns=int(mono_s * 1e9),
    )


def lived(
    run: str, begins_s: float, ends_s: float, every_s: float = 5.0, *, booted_s: float = -1000.0, late_s: float = 0.0
) -> list[Arrival]:
    """What a run sends from its beginning to its end, each message `late_s` late; its machine booted at `booted_s`."""
    count = int((ends_s - begins_s) // every_s) + 1
    return [(begins_s + i * every_s + late_s, status(run, begins_s + i * every_s - booted_s)) for i in range(count)]


def pairs(arrivals: Sequence[Arrival]) -> list[tuple[float, str, str]]:
    """Each time that two runs were told to be alive at once, in the order in which the messages came."""
    runs: list[Run] = []
    found = []
    for at_s, message in arrivals:
        runs, other = heard(runs, message, NOW + timedelta(seconds=at_s))
        if other is not None:
            found.append((at_s, other.run, runs[-1].run))
    return found


def merged(*streams: Sequence[Arrival]) -> list[Arrival]:
    return sorted((each for stream in streams for each in stream), key=lambda each: each[0])


# Two devices


@pytest.mark.parametrize(
    "every_s", [2.0, 5.0, 40.0], ids=["as they throw each other out", "as they report", "as they back off"]
)
def test_two_that_are_alive_at_once_are_told_within_minutes(every_s: float) -> None:
    found = pairs(merged(lived("a", 0, 600, every_s), lived("b", 100, 600, every_s, booted_s=50)))
    assert found
    assert 100 + TOGETHER.total_seconds() <= found[0][0] <= 100 + TOGETHER.total_seconds() + 2 * every_s
    assert {run for _, *both in found for run in both} == {"a", "b"}


def test_they_are_told_whatever_their_clocks_say_and_also_on_one_machine() -> None:
    one = [(at_s, status("a", at_s + 500, at_s=-1.7e9)) for at_s in range(0, 300, 5)]
    other = [(at_s + 1.0, status("b", at_s + 501, at_s=9e8)) for at_s in range(0, 300, 5)]
    assert pairs(merged(one, other))


def test_a_twin_that_comes_back_after_a_night_is_told_again() -> None:
    night_s = 8 * 3600
    found = pairs(merged(lived("a", 0, night_s + 600, 30), lived("b", 0, 300), lived("b2", night_s, night_s + 600)))
    assert {other for at_s, *both in found if at_s > night_s for other in both} == {"a", "b2"}


def test_three_are_told_too() -> None:
    found = pairs(merged(lived("a", 0, 300), lived("b", 10, 300), lived("c", 20, 300)))
    assert {run for _, *both in found for run in both} == {"a", "b", "c"}


# One device


def test_a_device_that_starts_again_and_again_is_one() -> None:
    streams = [lived(f"run-{n}", 130.0 * n, 130.0 * n + 125, booted_s=130.0 * n - 20) for n in range(40)]
    assert pairs(merged(*streams)) == []


def test_an_agent_that_starts_again_within_a_boot_is_one() -> None:
    assert (
        pairs(merged(lived("a", 0, 600), lived("b", 600.2, 1200), lived("c", 1200.3, 1210), lived("d", 1210.4, 1800)))
        == []
    )


def test_a_device_that_reconnects_every_few_seconds_is_one() -> None:
    assert pairs(lived("a", 0, 3600, 3)) == []


def test_last_wills_and_agents_that_name_no_run_say_nothing() -> None:
    will = wire.Status(device="cam-1", online=False, session="old", at=NOW)
    assert heard([], will, NOW) == ([], None)
    runs, _ = heard([], status("a", 10), NOW)
    assert heard(runs, will, NOW + timedelta(days=3)) == (runs, None)


@pytest.mark.parametrize("late_s", [30, 600, 3 * 86_400], ids=["half a minute", "ten minutes", "three days"])
def test_a_late_message_of_an_earlier_run_is_no_second_device(late_s: float) -> None:
    """As the broker keeps them while ingest is away: the last of the old run come after the first of the new one."""
    old = lived("a", 0, 300)
    held_back = [(305 + late_s + 0.01 * n, message) for n, (_, message) in enumerate(old[-20:])]
    assert pairs(merged(old[:-20], held_back, lived("b", 301, 301 + late_s + 600))) == []


def test_what_was_held_back_together_and_comes_in_any_order_is_one_device() -> None:
    chance = random.Random(5)
    for _ in range(40):
        sent = [message for n in range(4) for _, message in lived(f"run-{n}", 200.0 * n, 200.0 * n + 190, booted_s=-5)]
        chance.shuffle(sent)
        burst = [(900 + 0.02 * n, message) for n, message in enumerate(sent)]
        assert pairs(merged(burst, lived("run-4", 801, 1500))) == []


def test_a_retained_status_of_an_earlier_run_that_is_told_over_and_over_is_no_device() -> None:
    (_, old), *_ = lived("a", 0, 0)
    again = [(float(at_s), old) for at_s in range(0, 900, 7)]
    assert pairs(merged(again, lived("b", 10, 900))) == []


def test_a_queue_that_lags_more_and_more_is_no_second_device() -> None:
    sent = merged(lived("a", 0, 900), lived("b", 901, 1800))
    assert pairs([(at_s * 1.5, message) for at_s, message in sent]) == []


def test_a_machine_that_slept_and_a_clock_here_that_jumps_are_no_second_device() -> None:
    awake = lived("a", 0, 300)
    later = [(at_s + 7200, message) for at_s, message in lived("a", 305, 600)]  # its monotonic clock stood still
    restarted = [(at_s + 7200, message) for at_s, message in lived("b", 601, 1200)]
    assert pairs([*awake, *later, *restarted]) == []
    jumped = [(at_s - 7200, message) for at_s, message in lived("b", 301, 900)]
    assert pairs([*lived("a", 0, 300), *jumped]) == []


def test_what_is_remembered_stays_small_and_the_flag_goes_after_a_day() -> None:
    runs: list[Run] = []
    for n in range(100):
        runs, _ = heard(runs, status(f"run-{n}", n), NOW + timedelta(minutes=n))
    assert len(runs) <= 8
    runs, _ = heard(runs, status("later", 5), NOW + timedelta(days=2))
    assert [each.run for each in runs] == ["later"]
    assert is_flagged(NOW, NOW + REMEMBERED / 2)
    assert not is_flagged(NOW, NOW + REMEMBERED)
    assert not is_flagged(None, NOW)
    assert PACE * 2 < TOGETHER < LATELY, "late messages in pace cannot overlap by as much as it takes"
