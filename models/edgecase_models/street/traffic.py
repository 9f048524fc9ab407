"""Who is on the street at a moment. A closed form of the seed and the second, so that any frame can be asked for alone.

Every lane is a stream along a fixed path. Time is cut into signal cycles: vehicles of the main road pass the junction in
the first phase, those of the side street in the second, people cross in the third, so that they keep clear.
How many come in a cycle is drawn from the seed and the cycle's number; busy and empty stretches follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgecase_models.street.layout import BEHIND_M, SIDE_REACH_M, Layout

PERSON, BICYCLE, MOTORCYCLE, CAR, BUS, TRUCK = range(6)

MAIN_S, SIDE_S, CLEAR_S = 17.0, 8.0, 3.0
_VEHICLES = (CAR, TRUCK, BUS, MOTORCYCLE)
_SHARES = (0.49, 0.17, 0.15, 0.19)
_HEADWAY_S = {CAR: 2.1, TRUCK: 3.0, BUS: 3.6, MOTORCYCLE: 1.7}


@dataclass(frozen=True)
class Actor:
    """One road user at one moment: position in metres, heading in radians from +y towards +x, `style` seeds its look;
    `stride_m` is the way it has come, which moves legs and wheels.
    """

    track_id: int
    kind: int
    x: float
    y: float
    heading: float
    speed_mps: float
    stride_m: float
    style: int


@dataclass(frozen=True, eq=False)
class Path:
    """A way along the ground: points (N,2) in metres and the length (N,) up to each."""

    points_m: NDArray[np.float64]
    along_m: NDArray[np.float64]

    @classmethod
    def through(cls, *corners: tuple[float, float], turn_m: float = 4.0) -> Path:
        """A way through corners, each rounded by an arc that begins `turn_m` before it."""
        points = [np.array(corners[0], np.float64)]
        for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
            at = np.array(corner, np.float64)
            start = at + turn_m * _unit(np.array(before) - at)
            stop = at + turn_m * _unit(np.array(after) - at)
            shares = np.linspace(0.0, 1.0, 9)[:, None]
            points += list((1 - shares) ** 2 * start + 2 * shares * (1 - shares) * at + shares**2 * stop)
        points.append(np.array(corners[-1], np.float64))
        track = np.stack(points)
        steps = np.hypot(*np.diff(track, axis=0).T)
        return cls(track, np.concatenate([[0.0], np.cumsum(steps)]))

    @property
    def length_m(self) -> float:
        """From the first point to the last."""
        return float(self.along_m[-1])

    def at(self, way_m: float) -> tuple[float, float, float]:
        """Position and heading after `way_m` metres."""
        x = float(np.interp(way_m, self.along_m, self.points_m[:, 0]))
        y = float(np.interp(way_m, self.along_m, self.points_m[:, 1]))
        back, ahead = max(way_m - 0.8, 0.0), min(way_m + 0.8, self.length_m)
        x0, x1 = np.interp((back, ahead), self.along_m, self.points_m[:, 0])
        y0, y1 = np.interp((back, ahead), self.along_m, self.points_m[:, 1])
        return x, y, float(np.arctan2(x1 - x0, y1 - y0))

    def way_to(self, x: float, y: float) -> float:
        """The way along the path to its corner point nearest to (x, y), interpolated along straights."""
        ways = np.linspace(0.0, self.length_m, 400)
        near = np.hypot(
            np.interp(ways, self.along_m, self.points_m[:, 0]) - x,
            np.interp(ways, self.along_m, self.points_m[:, 1]) - y,
        )
        return float(ways[int(np.argmin(near))])


@dataclass(frozen=True, eq=False)
class Stream:
    """Road users of one kind along one path; they pass `gate_m` between `opens_s` and `opens_s + window_s` of a cycle."""

    number: int
    path: Path
    use: str
    gate_m: float
    speed_mps: float
    opens_s: float
    window_s: float
    weight: float


@dataclass(frozen=True)
class _Trip:
    passes_s: float
    speed_mps: float
    aside_m: float
    kind: int
    style: int


_Add = Callable[[Path, str, tuple[float, float], float, float, float, float], None]


class Traffic:
    """The road users of one street."""

    def __init__(self, street: Layout) -> None:
        rng = np.random.default_rng([street.seed, 21])
        self._seed = street.seed
        self._street = street
        walk_m = street.kerb_right_m - street.kerb_left_m
        self._walk_s = walk_m / 1.25 + 2.5
        self.cycle_s = MAIN_S + SIDE_S + self._walk_s + 3 * CLEAR_S
        self._demand = float(rng.uniform(0.55, 1.15))
        self._streams = _streams(street, rng, self._walk_s)
        self._trips = lru_cache(maxsize=512)(self._draw_trips)

    def at(self, second: float) -> list[Actor]:
        """Everybody on the street at `second`, parked cars first, in no order of depth."""
        actors = [
            Actor(number, car.kind, car.x, car.y, car.heading, 0.0, 0.0, car.style)
            for number, car in enumerate(self._street.parked)
        ]
        for stream in self._streams:
            slowest = stream.speed_mps * 0.8
            first = int(np.floor((second - (stream.path.length_m / slowest)) / self.cycle_s)) - 1
            last = int(np.floor((second + stream.gate_m / slowest) / self.cycle_s)) + 1
            for cycle in range(first, last + 1):
                for place, trip in enumerate(self._trips(stream.number, cycle)):
                    way_m = stream.gate_m + trip.speed_mps * (second - trip.passes_s)
                    if 0.0 <= way_m <= stream.path.length_m:
                        x, y, heading = stream.path.at(way_m)
                        x += trip.aside_m * np.cos(heading)
                        y -= trip.aside_m * np.sin(heading)
                        track_id = (cycle + 100) * 1000 + stream.number * 30 + place
                        actors.append(
                            Actor(track_id, trip.kind, float(x), float(y), heading, trip.speed_mps, way_m, trip.style)
                        )
        return actors

    def _draw_trips(self, number: int, cycle: int) -> tuple[_Trip, ...]:
        stream = self._streams[number]
        tide = np.random.default_rng([self._seed, 22, (cycle + 100) // 2]).random()
        busy = 0.05 if tide < 0.2 else 0.5 if tide < 0.55 else 1.2
        rng = np.random.default_rng([self._seed, 23, number, cycle + 100])
        opens_s = cycle * self.cycle_s + stream.opens_s
        trips: list[_Trip] = []
        at_s = float(rng.exponential(4.0 / (busy * stream.weight * self._demand + 0.02)))
        while at_s < stream.window_s and len(trips) < 30:
            kind = _kind(stream.use, rng)
            aside_m = float(rng.normal(0.0, 0.12))
            speed = stream.speed_mps * float(rng.uniform(0.95, 1.05))
            if stream.use in ("walk", "cross"):
                aside_m, speed = float(rng.uniform(-0.8, 0.8)), stream.speed_mps * float(rng.uniform(0.85, 1.2))
            trips.append(_Trip(opens_s + at_s, speed, aside_m, kind, int(rng.integers(1 << 30))))
            gap_s = _HEADWAY_S.get(kind, 1.6 if stream.use == "cycle" else 0.5)
            at_s += gap_s + float(rng.exponential(2.4 / (busy * stream.weight * self._demand + 0.02)))
        return tuple(trips)


def _kind(use: str, rng: np.random.Generator) -> int:
    if use == "cycle":
        return BICYCLE
    if use in ("walk", "cross"):
        return PERSON
    return int(rng.choice(_VEHICLES, p=_SHARES))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.hypot(*vector)
    return unit


def _streams(street: Layout, rng: np.random.Generator, walk_s: float) -> list[Stream]:
    begin, end, far = BEHIND_M, street.end_y_m, SIDE_REACH_M - 8.0
    side, outer = street.side_y_m, street.lane_x_m(street.lanes_each - 1)
    quarter = street.side_half_m / 2
    end_quarter = street.end_half_m / 2
    streams: list[Stream] = []

    def add(
        path: Path, use: str, gate: tuple[float, float], speed: float, opens: float, window: float, weight: float
    ) -> None:
        streams.append(Stream(len(streams), path, use, path.way_to(*gate), speed, opens, window, weight))

    for lane in range(street.lanes_each):
        x = street.lane_x_m(lane)
        for sign in (1, -1):
            speed = float(rng.uniform(7.0, 10.0))
            ahead = Path.through((x, begin), (x, end - end_quarter), (far, end - end_quarter), turn_m=6.0)
            back = Path.through((-far, end - end_quarter), (-x, end - end_quarter), (-x, begin), turn_m=5.0)
            path = ahead if sign > 0 else back
            add(path, "drive", (sign * x, side), speed, 0.0, MAIN_S, 1.0 if lane == street.lanes_each - 1 else 0.6)
    edge = street.lanes_m + street.cycle_m / 2
    for sign in (1, -1):
        pedal = float(rng.uniform(3.6, 5.0))
        ahead = Path.through((edge, begin), (edge, end - 1.0), (far, end - 1.0), turn_m=3.0)
        back = Path.through((-far, end - 1.0), (-edge, end - 1.0), (-edge, begin), turn_m=3.0)
        add(
            ahead if sign > 0 else back,
            "cycle",
            (sign * edge, side),
            pedal,
            0.0,
            MAIN_S,
            0.55 + 0.4 * (street.cycle_m > 1.2),
        )
    opens = MAIN_S + CLEAR_S
    turn_right = Path.through(
        (far, side + quarter), (outer, side + quarter), (outer, end - end_quarter), (far, end - end_quarter)
    )
    turn_left = Path.through((far, side + quarter), (-outer, side + quarter), (-outer, begin), turn_m=6.0)
    turn_in = Path.through((outer, begin), (outer, side - quarter), (far, side - quarter))
    for path, share in ((turn_right, 0.5), (turn_left, 0.5)):
        add(path, "drive", (outer + 3, side + quarter), 6.5, opens, SIDE_S, share)
    add(turn_in, "drive", (outer, side - quarter), 6.5, opens + 1.0, SIDE_S - 1.0, 0.6)
    _add_people(street, rng, add, opens + SIDE_S + CLEAR_S, walk_s)
    return streams


def _add_people(street: Layout, rng: np.random.Generator, add: _Add, opens_s: float, walk_s: float) -> None:
    left = street.kerb_left_m - street.pavement_m * 0.5
    right = street.kerb_right_m + street.pavement_m * 0.5
    mouth = street.side_half_m + street.pavement_m * 0.45
    before, behind = street.side_y_m - mouth, street.side_y_m + mouth
    last = street.end_y_m - street.end_half_m - street.pavement_m * 0.4
    zebra, far = street.zebra_y_m, SIDE_REACH_M - 8.0
    ways = (
        ((left, -24.0), (left, last), (-far, last)),
        ((right, -24.0), (right, before), (far, before)),
        ((far, behind), (right, behind), (right, last), (far, last)),
    )
    always_s = opens_s + walk_s
    for way in ways:
        for corners in (way, way[::-1]):
            path = Path.through(*corners, turn_m=1.2)
            add(path, "walk", (corners[1][0], corners[1][1] * 0.5), float(rng.uniform(1.1, 1.45)), 0.0, always_s, 0.15)
    crossing = ((left, zebra + 28.0), (left, zebra), (right, zebra), (right, zebra - 34.0))
    for corners in (crossing, crossing[::-1]):
        path = Path.through(*corners, turn_m=1.0)
        kerb = street.kerb_left_m if corners is crossing else street.kerb_right_m
        add(path, "cross", (kerb, zebra), 1.3, opens_s, 2.5, 2.0)
