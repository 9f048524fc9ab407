"""What is promised of the frames beside a pick: evenly spread, within their time, each with one pick, and few of them held."""

from __future__ import annotations

import math
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_agent.context import Beside, Company, Context

START_S = 1.75e9


class Film:
    """Frames of a stream, by index, ten a second; `companies` are those of every frame."""

    def __init__(self, context: Context[int], frames: int = 0, fps: float = 10.0) -> None:
        self.context = context
        self.fps = fps
        self.companies: list[Company[int] | None] = []
        self.run(frames)

    def run(self, frames: int) -> Film:
        for index in range(len(self.companies), len(self.companies) + frames):
            at_s = START_S + index / self.fps
            self.companies.append(self.context.beside(at_s, self.context.pass_by(index, at_s)))
        return self

    def pick(self, *indices: int) -> list[Beside[int]]:
        """Picked at the end of a window that ends now."""
        for index in indices:
            self.context.pick(index, self.companies[index])
        return self.settle()

    def settle(self) -> list[Beside[int]]:
        return self.context.settle(START_S + (len(self.companies) - 1) / self.fps)


def items(beside: list[Beside[int]]) -> list[int]:
    return [one.item for one in beside]


def parts(beside: list[Beside[int]], part_s: float) -> list[int]:
    """In which part of the time beside its pick each lies, counted away from it, negative before it."""
    return [math.ceil(abs(one.offset_s) / part_s - 1e-5) * (1 if one.offset_s > 0 else -1) for one in beside]


def test_frames_on_both_sides_are_spread_over_their_time() -> None:
    beside = Film(Context(2, 2.0, 2.0), 100).pick(50)
    assert parts(beside, 1.0) == [-2, -1, 1, 2]
    assert all(one.pick == 50 and one.offset_s == pytest.approx((one.item - 50) / 10) for one in beside)


def test_the_two_sides_may_be_of_different_lengths_or_only_one() -> None:
    beside = Film(Context(2, 2.0, 0.5), 100).pick(50)
    assert parts(beside[:2], 1.0) == [-2, -1]
    assert parts(beside[2:], 0.25) == [1, 2]
    assert parts(Film(Context(3, 1.5, 0.0), 100).pick(50), 0.5) == [-3, -2, -1]
    assert parts(Film(Context(3, 0.0, 1.5), 100).pick(50), 0.5) == [1, 2, 3]


@pytest.mark.parametrize(("frames", "before_s", "after_s"), [(0, 2.0, 2.0), (3, 0.0, 0.0)])
def test_where_none_is_wanted_nothing_is_held(frames: int, before_s: float, after_s: float) -> None:
    def hold(_: int) -> int:
        raise AssertionError("held for nothing")

    context = Context(frames, before_s, after_s, hold)
    assert context.most == 0
    assert Film(context, 50).pick(20) == []


def test_what_is_yet_to_come_is_waited_for_and_given_once() -> None:
    film = Film(Context(2, 1.0, 2.0), 51)
    assert all(offset < 0 for offset in (one.offset_s for one in film.pick(50)))
    first = film.run(8).settle()
    second = film.run(30).settle()
    assert [0 < one.offset_s <= 1 for one in (*first, *second)] == [True, False]
    assert film.run(50).settle() == []


def test_before_the_stream_began_and_after_it_ended_there_is_nothing() -> None:
    film = Film(Context(4, 2.0, 2.0), 5)
    assert film.pick(0) == []
    assert parts(film.run(50).settle(), 0.5) == [1, 2, 3, 4]
    assert parts(film.pick(53), 0.5) == [-4, -3, -2, -1]
    film.context.end()
    assert film.run(50).settle() == []


def test_a_pick_is_nobodys_context_and_a_frame_between_two_goes_with_the_first() -> None:
    beside = Film(Context(5, 1.0, 1.0), 100).pick(50, 54, 57)  # every second frame is held
    assert {pick: [one.item for one in beside if one.pick == pick] for pick in (50, 54, 57)} == {
        50: [40, 42, 44, 46, 48, 52, 56, 58, 60],
        54: [62, 64],
        57: [66],
    }


def test_a_gap_in_the_stream_and_a_clock_that_is_set_back_leave_places_empty() -> None:
    context = Context[int](2, 1.0, 1.0)
    times = [START_S, START_S + 0.5, START_S + 100.0, START_S + 100.5, START_S + 50.0, START_S + 50.5]
    companies = [context.beside(at_s, context.pass_by(index, at_s)) for index, at_s in enumerate(times)]
    context.pick(3, companies[3])
    context.pick(4, companies[4])
    beside = context.settle(START_S + 50.5)
    assert sorted((one.pick, one.item) for one in beside) == [(3, 2), (4, 5)]


def test_a_frame_is_made_ready_once_and_only_every_so_often() -> None:
    held: list[int] = []

    def hold(item: int) -> int:
        held.append(item)
        return item * 10

    film = Film(Context(2, 2.0, 1.0, hold), 101)
    assert held == list(range(0, 101, 5))  # half a second apart
    assert {one.item % 10 for one in film.pick(50)} == {0}  # what is given is what was held


def test_what_is_held_is_let_go_with_those_that_may_still_be_picked() -> None:
    class Picture:
        pass

    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    context = Context[Picture](3, 3.0, 3.0)
    leaders: list[Company[Picture]] = []
    most = 0
    for index in range(2000):
        picture = Picture()
        alive.add(picture)
        at_s = START_S + index / 10
        passed = context.pass_by(picture, at_s)
        if index % 97 == 0:
            company = context.beside(at_s, passed)
            assert company is not None
            leaders = [*leaders[-3:], company]
        del picture, passed
        most = max(most, len(alive))
    assert most <= 4 * (2 * 3 + 1) + 5


@settings(deadline=None, max_examples=40)
@given(
    frames=st.integers(1, 6),
    before_s=st.floats(0, 5),
    after_s=st.floats(0, 5),
    steps_s=st.lists(st.floats(0, 1.5), min_size=1, max_size=80),
    picks=st.sets(st.integers(0, 79), max_size=6),
    ends=st.sets(st.integers(0, 79), max_size=8),
)
def test_whatever_the_stream_each_side_has_so_many_at_most_within_its_time_and_no_frame_goes_twice(
    frames: int, before_s: float, after_s: float, steps_s: list[float], picks: set[int], ends: set[int]
) -> None:
    context = Context[int](frames, before_s, after_s)
    now_s, times, open_picks = START_S, [], []
    found: list[Beside[int]] = []
    for index, step_s in enumerate(steps_s):
        now_s += step_s
        times.append(now_s)
        company = context.beside(now_s, context.pass_by(index, now_s))
        open_picks += [(index, company)] if index in picks else []
        if index in ends:
            for pick in open_picks:
                context.pick(*pick)
            open_picks = []
            found += context.settle(now_s)
    assert len({one.item for one in found}) == len(found)
    assert not {one.item for one in found} & {one.pick for one in found}
    for pick in picks:
        own = [one for one in found if one.pick == pick]
        assert all(one.offset_s == times[one.item] - times[pick] for one in own)
        assert all(-before_s - 2e-6 <= one.offset_s <= after_s + 2e-6 and one.offset_s for one in own)
        assert sum(one.offset_s < 0 for one in own) <= frames
        assert sum(one.offset_s > 0 for one in own) <= frames
