"""The look of people, cyclists and motorcyclists: limbs that move with the way they have come.

A two-wheeler and its rider are one object, boxed together: a bicycle or a motorcycle.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from edgecase_models.street.sketch import Beacon, Limbs, Triple, place
from edgecase_models.street.traffic import BICYCLE, MOTORCYCLE, PERSON, Actor

SKINS: tuple[Triple, ...] = ((236, 196, 168), (222, 176, 142), (188, 138, 102), (136, 92, 64), (96, 64, 46))
HAIRS: tuple[Triple, ...] = ((38, 28, 24), (72, 50, 34), (128, 92, 54), (176, 146, 96), (150, 150, 150), (24, 22, 24))
CLOTHES: tuple[Triple, ...] = (
    (34, 38, 50), (58, 62, 72), (170, 44, 46), (40, 84, 150), (214, 214, 210), (66, 104, 70), (196, 148, 58), (120, 70, 120),
    (92, 76, 60), (222, 168, 180), (24, 24, 28), (70, 140, 160), (232, 120, 44), (148, 150, 152),
)  # fmt: skip
TROUSERS: tuple[Triple, ...] = ((36, 42, 64), (28, 28, 32), (84, 80, 74), (60, 78, 112), (150, 134, 108), (70, 60, 56))
FRAMES: tuple[Triple, ...] = (
    (40, 44, 48),
    (176, 40, 40),
    (40, 96, 150),
    (210, 210, 205),
    (60, 130, 90),
    (230, 160, 50),
)
RUBBER: Triple = (30, 30, 32)
STEEL: Triple = (140, 142, 146)
SHOE: Triple = (34, 30, 30)


class _Rods:
    """Collects rods in a figure's own metres."""

    def __init__(self) -> None:
        self.rods: list[tuple[Triple, Triple, float, float, Triple, int]] = []

    def add(self, start: Triple, end: Triple, radius: float, colour: Triple, taper: float = 1.0, rank: int = 0) -> None:
        self.rods.append((start, end, radius, radius * taper, colour, rank))

    def ring(self, y: float, radius: float, thick: float, colour: Triple) -> None:
        spots = [
            (0.0, y + radius * math.cos(a), radius + thick + radius * math.sin(a))
            for a in np.linspace(0, 2 * math.pi, 15)
        ]
        for start, end in itertools.pairwise(spots):
            self.add(start, end, thick, colour)

    def limbs(self, actor: Actor, size: float, beacons: tuple[Beacon, ...] = ()) -> Limbs:
        starts, ends, start_radii, end_radii, colours, rank = zip(*self.rods, strict=True)
        return Limbs(
            place(np.array(starts, np.float32) * np.float32(size), actor.x, actor.y, actor.heading),
            place(np.array(ends, np.float32) * np.float32(size), actor.x, actor.y, actor.heading),
            np.array(start_radii, np.float32) * np.float32(size),
            np.array(end_radii, np.float32) * np.float32(size),
            np.array(colours, np.float32),
            np.array(rank, np.int32),
            beacons,
        )


def figure_limbs(actor: Actor) -> Limbs:
    """The limbs of a person, bicycle or motorcycle at its moment."""
    rng = np.random.default_rng([actor.style, 41])
    if actor.kind == PERSON:
        return _walker(actor, rng)
    if actor.kind == BICYCLE:
        return _cyclist(actor, rng)
    assert actor.kind == MOTORCYCLE
    return _motorcyclist(actor, rng)


def _pick(colours: tuple[Triple, ...], rng: np.random.Generator) -> Triple:
    return colours[int(rng.integers(len(colours)))]


def _darker(colour: Triple, share: float = 0.72) -> Triple:
    return (colour[0] * share, colour[1] * share, colour[2] * share)


def _head(rods: _Rods, at: Triple, skin: Triple, hair: Triple, long_hair: bool) -> None:
    x, y, z = at
    rods.add((x, y, z - 0.22), (x, y, z - 0.08), 0.055, skin)
    rods.add((x, y + 0.01, z - 0.03), (x, y + 0.015, z + 0.03), 0.095, skin)
    rods.add((x, y - 0.035, z - (0.14 if long_hair else 0.0)), (x, y - 0.02, z + 0.055), 0.1, hair)


def _leg(rods: _Rods, side: float, hip: Triple, phase: float, cloth: Triple, bare: Triple) -> None:
    swing = 0.46 * math.sin(phase)
    bend = 0.12 + 0.55 * max(0.0, math.cos(phase)) ** 2
    x, y, z = hip[0] + side * 0.09, hip[1], hip[2]
    knee = (x, y + 0.44 * math.sin(swing), z - 0.44 * math.cos(swing))
    foot = (x, knee[1] + 0.42 * math.sin(swing - bend), max(knee[2] - 0.42 * math.cos(swing - bend), 0.06))
    rods.add((x, y, z), knee, 0.092, cloth, 0.72)
    rods.add(knee, foot, 0.066, bare, 0.72)
    rods.add(foot, (foot[0], foot[1] + 0.15, max(foot[2] - 0.03, 0.045)), 0.045, SHOE)


def _arm(rods: _Rods, side: float, shoulder: Triple, phase: float, cloth: Triple, skin: Triple) -> None:
    swing = 0.5 * math.sin(phase)
    x, y, z = shoulder[0] + side * 0.2, shoulder[1], shoulder[2]
    elbow = (x + side * 0.04, y + 0.28 * math.sin(swing), z - 0.28 * math.cos(swing))
    reach = swing + 0.35
    hand = (x + side * 0.03, elbow[1] + 0.26 * math.sin(reach), elbow[2] - 0.26 * math.cos(reach))
    rods.add((x, y, z), elbow, 0.055, cloth, 0.85)
    rods.add(elbow, hand, 0.046, cloth, 0.8)
    rods.add(hand, (hand[0], hand[1] + 0.02, hand[2] - 0.05), 0.04, skin)


def _walker(actor: Actor, rng: np.random.Generator) -> Limbs:
    rods = _Rods()
    skin, hair, top, trousers = _pick(SKINS, rng), _pick(HAIRS, rng), _pick(CLOTHES, rng), _pick(TROUSERS, rng)
    dress, coat, pack, child, bag = rng.random(5) < (0.16, 0.22, 0.22, 0.1, 0.2)
    size = float(rng.uniform(0.64, 0.8) if child else rng.uniform(0.92, 1.07))
    phase = actor.stride_m / (0.72 * size) * math.pi / 1.0 + float(rng.uniform(0, 6.0))
    bob = 0.015 * math.cos(2 * phase)
    hip = (0.0, 0.0, 0.92 + bob)
    shoulder = (0.0, 0.03, 1.42 + bob)
    bare = skin if dress else trousers
    for side, shift in ((-1.0, 0.0), (1.0, math.pi)):
        _leg(rods, side, hip, phase + shift, bare, bare)
        _arm(rods, side, shoulder, phase + shift + math.pi, top, skin)
    for side in (-1.0, 1.0):
        rods.add((side * 0.07, 0.0, hip[2] + 0.02), (side * 0.1, 0.03, shoulder[2] - 0.04), 0.115, top, 1.08)
        if dress or coat:
            rods.add((side * 0.08, 0.0, 0.56 if dress else 0.66), (side * 0.06, 0.0, hip[2] + 0.06), 0.17, top, 0.68)
    if pack:
        colour = _pick(CLOTHES, rng)
        rods.add((0.0, -0.19, 1.08), (0.0, -0.19, 1.36), 0.14, colour)
    if bag:
        rods.add((0.3, 0.0, 0.66), (0.3, 0.0, 0.8), 0.12, _pick(CLOTHES, rng))
    _head(rods, (0.0, 0.05, 1.63 + bob), skin, hair, bool(rng.random() < 0.4))
    return rods.limbs(actor, size)


def _rider(rods: _Rods, rng: np.random.Generator, hip: Triple, shoulder: Triple, hands: Triple, helmet: bool) -> None:
    """A seated upper body; its legs are the vehicle's business."""
    top, skin = _pick(CLOTHES, rng), _pick(SKINS, rng)
    for side in (-1.0, 1.0):
        rods.add((side * 0.07, hip[1], hip[2]), (side * 0.1, shoulder[1], shoulder[2]), 0.115, top, 1.1)
        elbow = (side * 0.27, (shoulder[1] + hands[1]) / 2 - 0.02, (shoulder[2] + hands[2]) / 2 - 0.06)
        rods.add((side * 0.19, shoulder[1], shoulder[2]), elbow, 0.058, _darker(top, 0.88))
        rods.add(elbow, (side * hands[0], hands[1], hands[2]), 0.048, _darker(top, 0.88))
    head = (0.0, shoulder[1] + 0.08, shoulder[2] + 0.24)
    if helmet:
        colour = _pick(CLOTHES, rng)
        rods.add(head, (0.0, head[1], head[2] + 0.03), 0.135, colour)
        rods.add((0.0, head[1] + 0.07, head[2]), (0.0, head[1] + 0.07, head[2] + 0.02), 0.085, (28, 30, 36))
    else:
        _head(rods, head, skin, _pick(HAIRS, rng), False)


def _cyclist(actor: Actor, rng: np.random.Generator) -> Limbs:
    rods = _Rods()
    frame, trousers = _pick(FRAMES, rng), _pick(TROUSERS, rng)
    for y in (-0.53, 0.53):
        rods.ring(y, 0.32, 0.022, RUBBER)
        rods.add((0.0, y, 0.34), (0.0, y, 0.35), 0.05, STEEL)
    crank, seat, steer, hub, rear = (
        (0.0, -0.05, 0.3),
        (0.0, -0.2, 0.84),
        (0.0, 0.36, 0.86),
        (0.0, 0.53, 0.34),
        (0.0, -0.53, 0.34),
    )
    for start, end in ((crank, seat), (crank, steer), (seat, steer), (seat, rear), (crank, rear), (steer, hub)):
        rods.add(start, end, 0.024, frame)
    rods.add((0.0, -0.3, 0.89), (0.0, -0.1, 0.89), 0.05, RUBBER)
    rods.add((-0.27, 0.38, 1.0), (0.27, 0.38, 1.0), 0.024, STEEL)
    rods.add(steer, (0.0, 0.38, 1.0), 0.024, STEEL)
    turn = actor.stride_m / 1.1
    for side, shift in ((-1.0, 0.0), (1.0, math.pi)):
        x = side * 0.1
        foot = (x, crank[1] + 0.17 * math.cos(turn + shift), crank[2] - 0.17 * math.sin(turn + shift))
        knee = (x, 0.2 + 0.1 * math.cos(turn + shift), 0.62 - 0.12 * math.sin(turn + shift))
        rods.add((x, -0.18, 0.93), knee, 0.085, trousers, 0.75)
        rods.add(knee, foot, 0.062, trousers, 0.75)
        rods.add(foot, (x, foot[1] + 0.14, foot[2] - 0.02), 0.045, SHOE)
    _rider(rods, rng, (0.0, -0.18, 0.96), (0.0, 0.14, 1.42), (0.24, 0.38, 1.02), bool(rng.random() < 0.4))
    lamps = (Beacon((0.0, 0.45, 0.9), (250, 246, 228), True), Beacon((0.0, -0.5, 0.75), (196, 26, 24), False))
    return rods.limbs(actor, float(rng.uniform(0.95, 1.04)), lamps if rng.random() < 0.7 else ())


def _motorcyclist(actor: Actor, rng: np.random.Generator) -> Limbs:
    rods = _Rods()
    paint, leather = _pick(FRAMES, rng), _pick(TROUSERS, rng)
    scooter = rng.random() < 0.3
    reach = 0.6 if scooter else 0.7
    for y in (-reach, reach):
        rods.ring(y, 0.24, 0.065, RUBBER)
        rods.add((0.0, y, 0.3), (0.0, y, 0.31), 0.13, STEEL)
    if scooter:
        rods.add((0.0, -0.62, 0.55), (0.0, -0.1, 0.55), 0.2, paint)
        rods.add((0.0, -0.2, 0.3), (0.0, 0.35, 0.28), 0.12, _darker(paint))
        rods.add((0.0, 0.36, 0.35), (0.0, 0.44, 0.95), 0.17, paint, 0.7)
        rods.add((0.0, -0.6, 0.76), (0.0, 0.0, 0.76), 0.11, RUBBER)
    else:
        rods.add((0.0, -0.15, 0.42), (0.0, 0.3, 0.42), 0.19, (70, 72, 76))
        rods.add((0.0, -0.05, 0.8), (0.0, 0.34, 0.84), 0.16, paint, 0.9)
        rods.add((0.0, -0.85, 0.84), (0.0, -0.1, 0.76), 0.08, RUBBER, 1.4)
        rods.add((0.12, -0.9, 0.4), (0.14, 0.1, 0.3), 0.06, STEEL)
        rods.add((0.0, -0.78, 0.72), (0.0, -0.95, 0.78), 0.08, paint)
        rods.add((0.0, 0.52, 0.78), (0.0, 0.56, 0.98), 0.15, paint, 0.8)
    for side in (-0.09, 0.09):
        rods.add((side, reach, 0.31), (side, reach - 0.26, 0.92), 0.035, STEEL)
        rods.add((side * 0.6, -reach, 0.31), (side * 0.6, -0.1, 0.42), 0.045, (60, 60, 64))
    rods.add((-0.36, 0.4, 1.04), (0.36, 0.4, 1.04), 0.03, RUBBER)
    rods.add((0.0, reach + 0.04, 0.88), (0.0, reach + 0.05, 0.88), 0.1, (250, 246, 228))
    for side in (-1.0, 1.0):
        knee = (side * 0.2, 0.22, 0.72)
        rods.add((side * 0.1, -0.28, 0.88), knee, 0.1, leather, 0.8)
        rods.add(knee, (side * 0.2, -0.02, 0.32), 0.075, leather, 0.8)
        rods.add((side * 0.2, -0.04, 0.3), (side * 0.2, 0.16, 0.28), 0.055, SHOE)
    _rider(rods, rng, (0.0, -0.28, 0.9), (0.0, 0.02, 1.38), (0.34, 0.4, 1.06), True)
    lamps = (Beacon((0.0, reach + 0.12, 0.88), (250, 246, 228), True), Beacon((0.0, -0.95, 0.76), (196, 26, 24), False))
    return rods.limbs(actor, 1.0, lamps)
