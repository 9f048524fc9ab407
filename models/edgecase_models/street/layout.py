"""What stands still on one street: its lanes, houses, trees, lamps, furniture and parked cars, all from the seed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

BEHIND_M = -45.0
"""The main road begins this far behind the camera."""

SIDE_REACH_M = 52.0
"""The side street and the road at the end go on for this far from the main road."""


@dataclass(frozen=True)
class Block:
    """A house: an upright box on the ground, `style` seeds its face."""

    x0: float
    x1: float
    y0: float
    y1: float
    height_m: float
    style: int


@dataclass(frozen=True)
class Tree:
    """A street tree with a round crown."""

    x: float
    y: float
    height_m: float
    crown_m: float
    style: int


@dataclass(frozen=True)
class Lamp:
    """A street lamp; its head hangs `reach_m` to the side of its pole, towards the road."""

    x: float
    y: float
    height_m: float
    reach_m: float


@dataclass(frozen=True)
class Fixture:
    """Street furniture: "sign", "bin", "cabinet" or "bollard"."""

    kind: str
    x: float
    y: float
    style: int


@dataclass(frozen=True)
class Parked:
    """A parked vehicle of class `kind`, heading in radians from +y towards +x."""

    kind: int
    x: float
    y: float
    heading: float
    style: int


@dataclass(frozen=True)
class Layout:
    """The street of one seed. The main road is centred on x = 0 and runs along y to a cross road at `end_y_m`;
    one side street leaves to the right at `side_y_m`; `zebra_y_m` is where people cross. Traffic keeps right.
    """

    seed: int
    lanes_each: int
    lane_m: float
    cycle_m: float
    strip_left_m: float
    strip_right_m: float
    pavement_m: float
    side_y_m: float
    side_half_m: float
    zebra_y_m: float
    end_y_m: float
    end_half_m: float
    blocks: tuple[Block, ...]
    trees: tuple[Tree, ...]
    lamps: tuple[Lamp, ...]
    fixtures: tuple[Fixture, ...]
    parked: tuple[Parked, ...]

    @property
    def lanes_m(self) -> float:
        """From the middle of the road to the outer edge of the driving lanes."""
        return self.lanes_each * self.lane_m

    @property
    def kerb_left_m(self) -> float:
        """The x of the left kerb (negative)."""
        return -(self.lanes_m + self.cycle_m + self.strip_left_m)

    @property
    def kerb_right_m(self) -> float:
        """The x of the right kerb."""
        return self.lanes_m + self.cycle_m + self.strip_right_m

    def lane_x_m(self, lane: int) -> float:
        """The x of the middle of a lane, counted outwards from 0, on the right-hand half."""
        return (lane + 0.5) * self.lane_m


def make_layout(seed: int, pose: str) -> Layout:
    """The street of `seed` as a camera in `pose` needs it (the pose only keeps its own standing place clear)."""
    rng = np.random.default_rng([seed, 11])
    lanes_each = 2 if rng.random() < (0.5 if pose == "bridge" else 0.22) else 1
    lane_m = float(rng.uniform(3.1, 3.5))
    cycle_m = 1.5 if rng.random() < 0.45 else 0.9
    strips = rng.random(2) < 0.72
    side_y_m = float(rng.uniform(27.0, 38.0))
    bare = Layout(
        seed=seed,
        lanes_each=lanes_each,
        lane_m=lane_m,
        cycle_m=cycle_m,
        strip_left_m=2.2 if strips[0] else 0.0,
        strip_right_m=2.2 if strips[1] or pose == "dash" else 0.0,
        pavement_m=float(rng.uniform(2.9, 4.8)),
        side_y_m=side_y_m,
        side_half_m=float(rng.uniform(3.4, 4.2)),
        zebra_y_m=side_y_m - float(rng.uniform(9.0, 11.0)),
        end_y_m=float(rng.uniform(66.0, 86.0)),
        end_half_m=float(rng.uniform(3.6, 4.6)),
        blocks=(),
        trees=(),
        lamps=(),
        fixtures=(),
        parked=(),
    )
    return Layout(
        **{
            **bare.__dict__,
            "blocks": _blocks(bare, rng),
            "trees": _trees(bare, rng, pose),
            "lamps": _lamps(bare, rng, pose),
            "fixtures": _fixtures(bare, rng, pose),
            "parked": _parked(bare, rng, pose),
        }
    )


def _blocks(street: Layout, rng: np.random.Generator) -> tuple[Block, ...]:
    tall = rng.uniform(6.0, 15.0)
    left = street.kerb_left_m - street.pavement_m
    right = street.kerb_right_m + street.pavement_m
    side_gap = street.side_half_m + street.pavement_m * 0.8
    end_gap = street.end_half_m + street.pavement_m * 0.8

    def height() -> float:
        return float(max(3.4, tall * rng.uniform(0.6, 1.35)))

    def row(start: float, stop: float) -> list[tuple[float, float]]:
        cuts = [start]
        while stop - cuts[-1] > 9.0:
            cuts.append(min(stop, cuts[-1] + float(rng.uniform(8.0, 17.0))))
        cuts[-1] = stop
        return list(itertools.pairwise(cuts))

    blocks = []
    before, behind = street.side_y_m - side_gap, street.side_y_m + side_gap
    last = street.end_y_m - end_gap
    along = [(left - 12.0, left, *ys) for ys in row(BEHIND_M, last)]
    along += [(right, right + 12.0, *ys) for ys in (*row(BEHIND_M, before), *row(behind, last))]
    beyond = street.end_y_m + end_gap
    along += [(*xs, beyond, beyond + 12.0) for xs in row(-SIDE_REACH_M, SIDE_REACH_M)]
    for xs in row(right + 12.0, right + SIDE_REACH_M):
        along += [(*xs, before - 12.0, before), (*xs, behind, behind + 12.0)]
    along.append((right + SIDE_REACH_M, right + SIDE_REACH_M + 10.0, before - 4.0, behind + 4.0))
    gap = rng.uniform(0.0, 0.16)
    for x0, x1, y0, y1 in along:
        keep, style, height_m = rng.random() > gap, int(rng.integers(1 << 30)), height()
        if keep:
            blocks.append(Block(x0, x1, y0, y1, height_m, style))
    return tuple(blocks)


def _clear(street: Layout, x: float, y: float, pose: str) -> bool:
    """Whether something tall may stand at (x, y) without blocking a mouth of a road or the camera's view."""
    if abs(y - street.zebra_y_m) < 3.5 or (x > 0 and abs(y - street.side_y_m) < street.side_half_m + 4.0):
        return False
    if pose == "kerb":
        return not (x > 0 and y < 16.0)
    if pose == "dash":
        return not (x > 0 and y < 9.0)
    if pose == "junction":
        return not (x < 0 and abs(y - street.side_y_m) < 13.0)
    if pose == "corner":
        return not (x < 0 and y < street.side_y_m + 2.0)
    return not abs(y) < 12.0


def _trees(street: Layout, rng: np.random.Generator, pose: str) -> tuple[Tree, ...]:
    density = rng.choice([0.0, 0.3, 0.6, 0.8])
    trees = []
    for side in (-1, 1):
        y = float(rng.uniform(-4.0, 4.0))
        while y < street.end_y_m - 12.0:
            kerb = street.kerb_right_m if side > 0 else street.kerb_left_m
            keep = rng.random() < density
            tree = Tree(
                kerb + side * 0.8,
                y,
                float(rng.uniform(4.5, 8.0)),
                float(rng.uniform(1.4, 2.6)),
                int(rng.integers(1 << 30)),
            )
            if keep and _clear(street, tree.x, y, pose):
                trees.append(tree)
            y += float(rng.uniform(7.0, 12.0))
    return tuple(trees)


def _lamps(street: Layout, rng: np.random.Generator, pose: str) -> tuple[Lamp, ...]:
    spacing, start = float(rng.uniform(13.0, 21.0)), float(rng.uniform(2.0, 10.0))
    height_m = float(rng.uniform(5.5, 8.0))
    lamps = []
    for number in range(10):
        y = start - 22.0 + number * spacing
        side = 1 if number % 2 else -1
        kerb = street.kerb_right_m if side > 0 else street.kerb_left_m
        if y < street.end_y_m - 8.0 and _clear(street, kerb, y, pose):
            lamps.append(Lamp(kerb + side * 0.5, y, height_m, -side * 1.6))
    (x, y, _), yaw_deg, _, _ = stand(street, pose)
    yaw = np.radians(yaw_deg)
    lamps.append(Lamp(x - 2.5 * float(np.sin(yaw)), y - 2.5 * float(np.cos(yaw)), height_m, 0.0))
    side_y = street.side_y_m + street.side_half_m + 0.6
    lamps += [Lamp(street.kerb_right_m + x, side_y, height_m, 0.0) for x in (9.0, 34.0)]
    return tuple(lamps)


def _fixtures(street: Layout, rng: np.random.Generator, pose: str) -> tuple[Fixture, ...]:
    fixtures = []
    for _ in range(int(rng.integers(5, 14))):
        kind = str(rng.choice(["sign", "bin", "cabinet", "bollard", "sign"]))
        y, side, style = float(rng.uniform(2.0, 70.0)), rng.random() < 0.5, int(rng.integers(1 << 30))
        at_wall = kind == "cabinet"
        if side:
            x = street.kerb_right_m + (street.pavement_m - 0.4 if at_wall else 0.35)
        else:
            x = street.kerb_left_m - (street.pavement_m - 0.4 if at_wall else 0.35)
        if _clear(street, x, y, pose):
            fixtures.append(Fixture(kind, x, y, style))
    return tuple(fixtures)


def _parked(street: Layout, rng: np.random.Generator, pose: str) -> tuple[Parked, ...]:
    fill = rng.uniform(0.05, 0.62)
    parked = []
    for side, strip_m in ((-1, street.strip_left_m), (1, street.strip_right_m)):
        y = float(rng.uniform(-12.0, -6.0))
        while strip_m and y < min(street.end_y_m - 16.0, 78.0):
            x = side * (street.lanes_m + street.cycle_m + strip_m * float(rng.uniform(0.45, 0.56)))
            keep, truck, style = rng.random() < fill, rng.random() < 0.08, int(rng.integers(1 << 30))
            heading = (0.0 if side > 0 else np.pi) + float(rng.normal(0.0, 0.015))
            mouth = abs(y - street.side_y_m) < street.side_half_m + 7.0 if side > 0 else False
            ego = pose == "dash" and side > 0 and y < 13.0
            near = pose in ("kerb", "corner") and (side > 0) == (pose == "kerb") and y < 5.0
            blocking = pose == "junction" and side < 0 and abs(y - street.side_y_m) < 14.0
            if keep and not (mouth or ego or near or blocking) and abs(y - street.zebra_y_m) > 6.0:
                parked.append(Parked(5 if truck else 3, x, y, heading, style))
            y += float(rng.uniform(5.9, 7.2)) + (2.0 if truck else 0.0)
    return tuple(parked)


def stand(street: Layout, pose: str) -> tuple[tuple[float, float, float], float, float, float]:
    """Where a camera in `pose` stands: position in metres, yaw and tilt in degrees, focal length in picture widths."""
    rng = np.random.default_rng([street.seed, 12])
    u = rng.random(6)
    if pose == "kerb":
        return (
            (street.kerb_right_m + 0.6 + u[0], 0.0, 2.6 + u[1]),
            -13.0 - 8.0 * u[2],
            7.0 + 3.0 * u[3],
            0.78 + 0.12 * u[4],
        )
    if pose == "bridge":
        return (-3.0 + 6.0 * u[0], -8.0, 6.2 + 1.6 * u[1]), -4.0 + 8.0 * u[2], 15.0 + 4.0 * u[3], 1.0 + 0.2 * u[4]
    if pose == "dash":
        x = street.lanes_m + street.cycle_m + 0.45 * street.strip_right_m
        return (x, 0.0, 1.35 + 0.25 * u[1]), -5.0 - 6.0 * u[2], 2.5 + 1.5 * u[3], 0.9 + 0.14 * u[4]
    if pose == "junction":
        y = street.side_y_m - 1.0 + 3.0 * u[0]
        return (
            (street.kerb_left_m - 4.5 - u[1], y, 2.8 + 1.6 * u[2]),
            86.0 + 10.0 * u[3],
            8.0 + 3.0 * u[5],
            0.72 + 0.12 * u[4],
        )
    y = street.side_y_m - 17.0 + 3.0 * u[0]
    return (street.kerb_left_m - 1.6, y, 4.6 + 1.6 * u[1]), 34.0 + 10.0 * u[2], 12.0 + 4.0 * u[3], 0.82 + 0.14 * u[4]
