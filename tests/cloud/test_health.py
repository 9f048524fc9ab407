"""When a part that runs counts as one that does not do its work."""

from __future__ import annotations

import threading

from edgecase_cloud.health import Health
from support.wait import until


class Clock:
    """Seconds that pass when they are told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def a_health(works: dict[str, bool], clock: Clock) -> Health:
    checks = {name: lambda name=name: works[name] for name in works}
    return Health(checks, sick_after_s=30, monotonic_s=clock)


def test_a_part_is_sick_when_it_failed_every_check_for_long_enough() -> None:
    works, clock = {"broker": True, "store": False}, Clock()
    health = a_health(works, clock)
    for _ in range(4):
        health.look()
        assert health.sick(works) == []
        clock.now_s += 10
    assert health.sick(works) == ["store"]
    works["store"] = True
    health.look()
    assert health.sick(works) == []


def test_one_good_answer_lets_its_time_begin_anew() -> None:
    works, clock = {"store": False}, Clock()
    health = a_health(works, clock)
    for number in range(20):
        works["store"] = number % 3 == 2
        health.look()
        clock.now_s += 10
        assert health.sick(works) == []


def test_one_that_does_not_run_is_not_sick_and_has_its_time_when_it_does() -> None:
    works, clock = {"store": False}, Clock()
    health = a_health(works, clock)
    health.look()
    clock.now_s += 60
    assert health.sick(set()) == []
    health.look()
    assert health.sick(works) == []
    clock.now_s += 31
    assert health.sick(works) == ["store"]
    health.forget("store")
    assert health.sick(works) == []


def test_what_is_told_once_is_told_again_after_it_worked() -> None:
    works, clock = {"store": False}, Clock()
    health = a_health(works, clock)
    assert [health.is_news("store") for _ in range(3)] == [True, False, False]
    works["store"] = True
    health.look()
    assert health.is_news("store")


def test_checks_go_on_after_one_that_is_broken() -> None:
    looks = threading.Semaphore(0)

    def broken() -> bool:
        looks.release()
        raise ZeroDivisionError

    with Health({"store": broken}, every_s=0.01):
        until(lambda: looks.acquire(blocking=False), what="a look")
        until(lambda: looks.acquire(blocking=False), what="another look")
