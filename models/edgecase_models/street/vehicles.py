"""The look of cars, buses and trucks: meshes whose size, shape and paint come from a style number."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from edgecase_models.street.sketch import GLASS, GLOW, Mesh, MeshMaker, Triple
from edgecase_models.street.traffic import BUS, CAR

PAINTS: tuple[Triple, ...] = (
    (226, 228, 230), (226, 228, 230), (176, 180, 186), (128, 132, 138), (52, 54, 60), (34, 36, 40), (44, 74, 132),
    (152, 36, 38), (58, 96, 78), (190, 164, 122), (206, 124, 44), (222, 186, 60), (96, 140, 176), (92, 48, 56),
)  # fmt: skip
BUS_PAINTS: tuple[Triple, ...] = (
    (206, 54, 48),
    (240, 196, 60),
    (60, 118, 178),
    (232, 234, 236),
    (70, 142, 96),
    (238, 132, 54),
)
DARK: Triple = (26, 27, 30)
TYRE: Triple = (24, 24, 26)
RIM: Triple = (150, 153, 158)
WINDOW: Triple = (54, 64, 76)
HEAD: Triple = (250, 246, 228)
TAIL: Triple = (196, 26, 24)


@lru_cache(maxsize=1024)
def vehicle_mesh(kind: int, style: int) -> Mesh:
    """The mesh of a car, bus or truck."""
    rng = np.random.default_rng([style, 31])
    if kind == CAR:
        return _car(rng)
    return _bus(rng) if kind == BUS else _truck(rng)


def _shade(colour: Triple, share: float) -> Triple:
    return (colour[0] * share, colour[1] * share, colour[2] * share)


def _wheels(maker: MeshMaker, half: float, axles: tuple[float, ...], radius: float) -> None:
    for y in axles:
        for side in (-1.0, 1.0):
            arch = [(side * (half + 0.004), y + radius * 1.2 * float(np.cos(a)), radius * 0.95 + radius * 1.2 * float(np.sin(a)))
                    for a in np.linspace(0, np.pi, 9)]  # fmt: skip
            maker.face(arch, (side, 0.0, 0.0), DARK, decal=True)
            maker.disc((side * (half + 0.01), y, radius), radius, side, TYRE)
            maker.disc((side * (half + 0.02), y, radius), radius * 0.62, side, RIM)
            maker.disc((side * (half + 0.03), y, radius), radius * 0.2, side, _shade(RIM, 0.5))


def _tread(maker: MeshMaker, half: float, front: float, rear: float, height: float) -> None:
    """The strip under the bumpers: a dark gap with the tyres' treads at its ends."""
    for y, outward in ((front - 0.45, 1.0), (rear + 0.45, -1.0)):
        for side in (-1.0, 1.0):
            x0, x1 = side * (half - 0.24), side * (half - 0.02)
            maker.face([(x0, y, 0.0), (x1, y, 0.0), (x1, y, height), (x0, y, height)], (0.0, outward, 0.0), TYRE)


def _plate(maker: MeshMaker, y: float, z: float, outward: float) -> None:
    y += outward * 0.02
    maker.face(
        [(-0.26, y, z), (0.26, y, z), (0.26, y, z + 0.12), (-0.26, y, z + 0.12)],
        (0, outward, 0),
        (214, 212, 196),
        decal=True,
    )


def _lamps(
    maker: MeshMaker, half: float, front: float, rear: float, head_z: float, tail_z: float, size: tuple[float, float]
) -> None:
    wide, high = size
    for side in (-1.0, 1.0):
        x0, x1 = side * (half - wide - 0.05), side * (half - 0.05)
        for y, z, outward, colour in ((front + 0.015, head_z, 1.0, HEAD), (rear - 0.015, tail_z, -1.0, TAIL)):
            lamp = [(x0, y, z - high / 2), (x1, y, z - high / 2), (x1, y, z + high / 2), (x0, y, z + high / 2)]
            maker.face(lamp, (0.0, outward, 0.0), colour, GLOW, decal=True)
            maker.beacon(((x0 + x1) / 2, y, z), colour, outward > 0)


def _car(rng: np.random.Generator) -> Mesh:
    maker = MeshMaker()
    body = PAINTS[int(rng.integers(len(PAINTS)))]
    form = rng.choice(["hatch", "saloon", "estate", "suv"], p=[0.32, 0.3, 0.16, 0.22])
    length = {"hatch": 4.0, "saloon": 4.65, "estate": 4.7, "suv": 4.6}[form] * float(rng.uniform(0.95, 1.05))
    half = float(rng.uniform(0.86, 0.95)) + 0.03 * (form == "suv")
    high = {"hatch": 1.47, "saloon": 1.44, "estate": 1.48, "suv": 1.68}[form] * float(rng.uniform(0.97, 1.04))
    belt = high * 0.63
    front, rear, lift = length / 2, -length / 2, 0.3 if form == "suv" else 0.22
    nose = front - 0.3 * length
    _tread(maker, half, front, rear, lift + 0.1)
    profile = [
        (rear + 0.08, lift), (front - 0.08, lift), (front, lift + 0.2), (front - 0.03, belt * 0.74),
        (nose, belt * 0.98), (rear + 0.05, belt), (rear, belt * 0.62),
    ]  # fmt: skip
    maker.prism(profile, half, half * 0.95, body)
    sill = [
        (0.0, rear + 0.1, lift),
        (0.0, front - 0.1, lift),
        (0.0, front - 0.1, lift + 0.1),
        (0.0, rear + 0.1, lift + 0.1),
    ]
    for side in (-1.0, 1.0):
        maker.face([(side * (half + 0.002), y, z) for _, y, z in sill], (side, 0, 0), DARK, decal=True)
        for y in (nose - 0.5, (nose - 0.5 + rear) / 2 + 0.15, rear + 0.75):
            maker.face([(side * (half + 0.003), y, lift + 0.12), (side * (half + 0.003), y + 0.025, lift + 0.12),
                        (side * half * 0.965, y + 0.025, belt - 0.02), (side * half * 0.965, y, belt - 0.02)],
                       (side, 0, 0), _shade(body, 0.55), decal=True)  # fmt: skip
        maker.face([(side * half * 0.985, rear + 0.15, belt * 0.72), (side * half * 0.985, front - 0.35, belt * 0.72),
                    (side * half * 0.983, front - 0.35, belt * 0.75), (side * half * 0.983, rear + 0.15, belt * 0.75)],
                   (side, 0, 0), _shade(body, 0.78), decal=True)  # fmt: skip
    axles = (front - length * 0.19, rear + length * 0.19)
    _wheels(maker, half, axles, 0.34 if form == "suv" else 0.31)
    for y, outward in ((front + 0.01, 1.0), (rear - 0.01, -1.0)):
        grille = [
            (-half * 0.5, y, lift + 0.1),
            (half * 0.5, y, lift + 0.1),
            (half * 0.5, y, lift + 0.28),
            (-half * 0.5, y, lift + 0.28),
        ]
        maker.face(grille, (0, outward, 0), DARK, decal=True)
        _plate(maker, y, lift + (0.13 if outward > 0 else 0.33), outward)
    _lamps(maker, half, front - 0.01, rear + 0.03, belt * 0.68, belt * 0.8, (0.34, 0.15))
    tail = {"hatch": rear + 0.12, "saloon": rear + 0.75, "estate": rear + 0.1, "suv": rear + 0.12}[form]
    slope = {"hatch": 0.5, "saloon": 0.75, "estate": 0.3, "suv": 0.32}[form]
    _cabin(maker, body, (tail, tail + slope, nose - 0.65, nose + 0.12), half * 0.95, half * 0.74, belt, high)
    if rng.random() < 0.08:
        maker.face(
            [(-0.35, -0.1, high), (0.35, -0.1, high), (0.35, -0.1, high + 0.16), (-0.35, -0.1, high + 0.16)],
            (0, 1, 0),
            (250, 214, 96),
            GLOW,
        )
        maker.face(
            [(-0.35, -0.12, high), (0.35, -0.12, high), (0.35, -0.12, high + 0.16), (-0.35, -0.12, high + 0.16)],
            (0, -1, 0),
            (250, 214, 96),
            GLOW,
        )
    return maker.done()


def _cabin(
    maker: MeshMaker,
    body: Triple,
    ys: tuple[float, float, float, float],
    low_half: float,
    high_half: float,
    belt: float,
    high: float,
) -> None:
    """The glass house between the rear foot, rear top, front top and front foot of `ys`."""
    rear_foot, rear_top, front_top, front_foot = ys
    foot = belt - 0.03
    maker.prism([(rear_foot, foot), (front_foot, foot), (front_top, high), (rear_top, high)], low_half, high_half, body)

    def point(side: float, y_share: float, z_share: float) -> Triple:
        rear_y = rear_foot + (rear_top - rear_foot) * z_share
        front_y = front_foot + (front_top - front_foot) * z_share
        half = low_half + (high_half - low_half) * z_share
        return (side * half, rear_y + (front_y - rear_y) * y_share, foot + (high - foot) * z_share)

    lean = (low_half - high_half) / (high - foot)
    for outward, y_share, run in ((1.0, 1.0, front_foot - front_top), (-1.0, 0.0, rear_top - rear_foot)):
        pane = [
            point(-0.88, y_share, 0.1),
            point(0.88, y_share, 0.1),
            point(0.86, y_share, 0.88),
            point(-0.86, y_share, 0.88),
        ]
        maker.face(pane, (0.0, outward * (high - foot), run), WINDOW, GLASS, decal=True)
    for side in (-1.0, 1.0):
        for y0, y1 in ((0.08, 0.47), (0.52, 0.93)):
            pane = [point(side, y0, 0.14), point(side, y1, 0.14), point(side, y1, 0.86), point(side, y0, 0.86)]
            maker.face(pane, (side, 0.0, lean), WINDOW, GLASS, decal=True)
        y, z = front_foot - 0.35, foot + 0.06
        x0, x1 = side * (low_half + 0.02), side * (low_half + 0.2)
        maker.face([(x0, y, z), (x1, y, z), (x1, y, z + 0.14), (x0, y, z + 0.14)], (0.0, 1.0, 0.0), _shade(body, 0.7))
        maker.face([(x0, y, z), (x1, y, z), (x1, y, z + 0.14), (x0, y, z + 0.14)], (0.0, -1.0, 0.0), DARK)


def _slab(
    maker: MeshMaker, half: float, y0: float, y1: float, z0: float, z1: float, colour: Triple, chamfer: float = 0.08
) -> None:
    profile = [
        (y0 + chamfer / 2, z0), (y1 - chamfer / 2, z0), (y1, z0 + chamfer), (y1, z1 - chamfer), (y1 - chamfer, z1),
        (y0 + chamfer, z1), (y0, z1 - chamfer), (y0, z0 + chamfer),
    ]  # fmt: skip
    maker.prism(profile, half, half * 0.985, colour)


def _panel(
    maker: MeshMaker, half: float, y: float, z0: float, z1: float, outward: float, colour: Triple, surface: int
) -> None:
    """A flat piece on the front or rear, `half` wide to either side."""
    at = y + outward * 0.015
    maker.face(
        [(-half, at, z0), (half, at, z0), (half, at, z1), (-half, at, z1)], (0, outward, 0), colour, surface, decal=True
    )


def _side_panel(
    maker: MeshMaker, half: float, y0: float, y1: float, z0: float, z1: float, side: float, colour: Triple, surface: int
) -> None:
    x = side * (half + 0.012)
    maker.face([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], (side, 0, 0), colour, surface, decal=True)


def _bus(rng: np.random.Generator) -> Mesh:
    maker = MeshMaker()
    paint = BUS_PAINTS[int(rng.integers(len(BUS_PAINTS)))]
    second = BUS_PAINTS[int(rng.integers(len(BUS_PAINTS)))] if rng.random() < 0.5 else _shade(paint, 0.6)
    length, half, high = float(rng.uniform(9.4, 12.0)), 1.25, float(rng.uniform(2.9, 3.2))
    front, rear = length / 2, -length / 2
    _tread(maker, half, front - 1.4, rear + 1.4, 0.5)
    _slab(maker, half, rear, front, 0.3, high, paint, 0.16)
    for side in (-1.0, 1.0):
        _side_panel(maker, half, rear + 0.05, front - 0.05, 0.32, 0.75, side, second, 0)
        count = 7
        width = (length - 0.8) / count
        for number in range(count):
            y0 = rear + 0.35 + number * width
            _side_panel(maker, half, y0 + 0.06, y0 + width - 0.06, 1.35, 2.35, side, WINDOW, GLASS)
        if side > 0:
            for y0 in (front - 1.5, -0.6):
                _side_panel(maker, half + 0.01, y0, y0 + 1.15, 0.4, 2.35, side, (70, 82, 96), GLASS)
    _panel(maker, half * 0.92, front, 1.15, 2.4, 1.0, WINDOW, GLASS)
    _panel(maker, half * 0.75, front, 2.5, 2.8, 1.0, (250, 166, 44), GLOW)
    _panel(maker, half * 0.8, rear, 1.5, 2.4, -1.0, WINDOW, GLASS)
    _panel(maker, half * 0.94, rear, 0.35, 0.72, -1.0, second, 0)
    _panel(maker, half * 0.94, front, 0.35, 0.55, 1.0, DARK, 0)
    _plate(maker, front, 0.42, 1.0)
    _wheels(maker, half, (front - 2.3, rear + 2.4), 0.47)
    _lamps(maker, half, front, rear, 0.78, 0.95, (0.36, 0.2))
    return maker.done()


def _truck(rng: np.random.Generator) -> Mesh:
    maker = MeshMaker()
    cab, load = PAINTS[int(rng.integers(len(PAINTS)))], PAINTS[int(rng.integers(4))]
    if rng.random() < 0.35:
        load = PAINTS[int(rng.integers(len(PAINTS)))]
    length, half = float(rng.uniform(6.6, 8.8)), 1.2
    front, rear = length / 2, -length / 2
    cab_length, cab_high = float(rng.uniform(1.7, 2.1)), float(rng.uniform(2.5, 2.8))
    back = front - cab_length
    box_high = float(rng.uniform(3.0, 3.6))
    tipper = rng.random() < 0.25
    maker.part = 0
    _tread(maker, half, front, rear + 0.5, 0.5)
    _slab(maker, half, back - 0.02, front, 0.45, cab_high, cab, 0.14)
    _panel(maker, half * 0.9, front, 1.5, 2.25, 1.0, WINDOW, GLASS)
    _panel(maker, half * 0.7, front, 0.8, 1.15, 1.0, DARK, 0)
    _plate(maker, front, 0.55, 1.0)
    for side in (-1.0, 1.0):
        _side_panel(maker, half, back + 0.45, front - 0.2, 1.5, 2.2, side, WINDOW, GLASS)
    _wheels(maker, half, (front - 0.95,), 0.46)
    for side in (-1.0, 1.0):
        x0, x1 = side * (half - 0.42), side * (half - 0.06)
        lamp = [(x0, front + 0.02, 0.72), (x1, front + 0.02, 0.72), (x1, front + 0.02, 0.95), (x0, front + 0.02, 0.95)]
        maker.face(lamp, (0, 1, 0), HEAD, GLOW, decal=True)
        maker.beacon(((x0 + x1) / 2, front + 0.02, 0.83), HEAD, True)
    maker.part = 1
    floor = 0.95
    _slab(maker, half * 0.5, rear + 0.2, back, 0.5, floor, DARK, 0.05)
    top = 2.1 if tipper else box_high
    _slab(maker, half + 0.03, rear, back - 0.25, floor, top, load if not tipper else (146, 118, 66), 0.04)
    for side in (-1.0, 1.0):
        if tipper:
            for y0 in np.linspace(rear + 0.1, back - 0.6, 6).tolist():
                _side_panel(maker, half + 0.03, y0, y0 + 0.12, floor, top, side, (104, 84, 48), 0)
        else:
            _side_panel(
                maker,
                half + 0.03,
                rear + 0.5,
                back - 0.8,
                floor + 0.75,
                floor + 1.35,
                side,
                PAINTS[int(rng.integers(4, 14))],
                0,
            )
    _panel(maker, 0.02, rear, floor + 0.1, top - 0.1, -1.0, (90, 92, 96), 0)
    _panel(maker, half * 0.95, rear, floor - 0.14, floor, -1.0, DARK, 0)
    for side in (-1.0, 1.0):
        x0, x1 = side * (half - 0.4), side * (half - 0.06)
        lamp = [(x0, rear - 0.03, 0.72), (x1, rear - 0.03, 0.72), (x1, rear - 0.03, 0.9), (x0, rear - 0.03, 0.9)]
        maker.face(lamp, (0, -1, 0), TAIL, GLOW)
        maker.beacon(((x0 + x1) / 2, rear - 0.03, 0.81), TAIL, False)
    _wheels(maker, half, (rear + 1.1, rear + 2.1) if length > 7.6 else (rear + 1.3,), 0.46)
    return maker.done()
