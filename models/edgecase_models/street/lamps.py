"""What lamps on the move add to the picture: pools on the road, streaks in the wet, and glare."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgecase_models.street.camera import Bytes, Camera, Float
from edgecase_models.street.light import HEADLAMP_COLOUR, HEADLAMP_REACH_M, Light
from edgecase_models.street.sketch import Beacon, place
from edgecase_models.street.traffic import BICYCLE, Actor

COARSE = 4
"""Light is laid on in a picture this many times coarser each way."""

_RINGS = ((11.0, 8.5, 2.9, 70), (8.5, 6.0, 2.0, 130), (6.5, 3.8, 1.3, 215))
_ROUND = np.linspace(0.0, 2 * np.pi, 17)[:-1]


@dataclass(frozen=True)
class Shining:
    """One lamp that looks towards the camera: its pixel, depth, colour in 0..255 and how strongly it shines
    at the camera and how much of that the air lets through, each 0..1.
    """

    x_px: float
    y_px: float
    depth_m: float
    mirror_y_px: float
    colour: tuple[float, float, float]
    strength: float
    clear: float


def shining(actor: Actor, beacons: tuple[Beacon, ...], camera: Camera, light: Light) -> list[Shining]:
    """The lamps of one road user that the camera looks into."""
    if not beacons or light.headlamps <= 0.0:
        return []
    away = np.array([actor.x, actor.y], np.float32) - camera.position_m[:2]
    away /= max(float(np.hypot(*away)), 0.1)
    ahead = np.array([np.sin(actor.heading), np.cos(actor.heading)], np.float32)
    toward = -float(away @ ahead)
    found = []
    for beacon in beacons:
        square = toward if beacon.ahead else -toward
        if square < 0.12:
            continue
        at = place(np.array(beacon.at_m, np.float32), actor.x, actor.y, actor.heading)
        view = camera.view(at)
        if view[2] < 1.0:
            continue
        x, y = camera.pixels(view).tolist()
        below = camera.project(at * np.array([1.0, 1.0, -1.0], np.float32))
        clear = float(np.exp(-light.fog_per_m * 0.55 * view[2]))
        found.append(
            Shining(x, y, float(view[2]), float(below[1]), beacon.colour, light.headlamps * square * clear, clear)
        )
    return found


def headlamp_light(actors: list[Actor], light: Light) -> Float:
    """What the headlamps of others add on each road user: a share (N,) of HEADLAMP_COLOUR."""
    if light.headlamps <= 0.0 or not actors:
        return np.zeros(len(actors), np.float32)
    spots = np.array([(a.x, a.y) for a in actors], np.float32)
    cars = [a for a in actors if a.speed_mps > 0.0 and a.kind > BICYCLE]
    if not cars:
        return np.zeros(len(actors), np.float32)
    sources = np.array([(a.x, a.y) for a in cars], np.float32)
    ahead = np.array([(np.sin(a.heading), np.cos(a.heading)) for a in cars], np.float32)
    offset = spots[:, None] - sources[None]
    along = np.einsum("ijk,jk->ij", offset, ahead)
    aside = np.abs(offset[..., 0] * ahead[None, :, 1] - offset[..., 1] * ahead[None, :, 0])
    spread = aside / (1.3 + 0.16 * np.clip(along, 0.0, None))
    share = np.exp(-spread * spread) * np.clip(1.0 - along / HEADLAMP_REACH_M, 0.0, 1.0) * (along > 2.6)
    total: Float = (0.85 * light.headlamps * share.sum(axis=1)).astype(np.float32)
    return total


def lay_pools(stage: Bytes, ground: Bytes, actors: list[Actor], camera: Camera, light: Light) -> None:
    """Brighten the road before the headlamps; `ground` holds the daylight colours of the ground, black elsewhere."""
    dark = light.headlamps * (1.0 - min(1.0, sum(light.ambient) / 1.0))
    if dark <= 0.05:
        return
    cars = [a for a in actors if a.speed_mps > 0.0 and a.kind > BICYCLE]
    coarse = camera_size(camera)
    pool: Bytes = np.zeros((coarse[1], coarse[0]), np.uint8)
    drawn = False
    for centre_m, long_m, wide_m, value in _RINGS:
        ring = np.stack([wide_m * np.sin(_ROUND), centre_m + long_m * np.cos(_ROUND), np.zeros(16)], axis=1).astype(
            np.float32
        )
        for car in cars:
            view = camera.view(place(ring, car.x, car.y, car.heading))
            if view[:, 2].min() > 0.8:
                points = np.round(np.clip(camera.pixels(view) / COARSE, -2000, 2000) * 16).astype(np.int32)
                cv2.fillConvexPoly(pool, points, value, cv2.LINE_8, 4)
                drawn = True
    if not drawn:
        return
    top = max(0, min(int(camera.horizon_px), camera.height_px - COARSE))
    sigma = 2.2 * camera.height_px / 360
    pool = cv2.GaussianBlur(pool, (0, 0), sigma)
    full = cv2.resize(pool, (camera.width_px, camera.height_px), interpolation=cv2.INTER_LINEAR)[top:]
    tinted = cv2.merge([cv2.convertScaleAbs(full, alpha=float(v) * dark) for v in HEADLAMP_COLOUR])
    rest = stage[top:]
    cv2.add(rest, cv2.multiply(ground[top:], tinted, scale=0.85 / 255), dst=rest)


def camera_size(camera: Camera) -> tuple[int, int]:
    """The width and height of the coarse picture."""
    return (camera.width_px + COARSE - 1) // COARSE, (camera.height_px + COARSE - 1) // COARSE


def lay_streaks(stage: Bytes, lamps: list[Shining], camera: Camera, light: Light) -> None:
    """The lamps' long reflections in a wet road."""
    if light.wet < 0.3 or not lamps:
        return
    wide, high = camera_size(camera)
    layer: Bytes = np.zeros((high, wide, 3), np.uint8)
    for lamp in lamps:
        radius = max(0.13 * camera.focal_px / lamp.depth_m / COARSE, 0.5)
        centre = (round(lamp.x_px / COARSE * 16), round(lamp.mirror_y_px / COARSE * 16))
        axes = (round(radius * 16), round(radius * 5.0 * 16))
        colour = tuple(v * 0.55 * lamp.strength * light.wet for v in lamp.colour)
        if abs(centre[0]) < 16 * 4000 and abs(centre[1]) < 16 * 4000:
            cv2.ellipse(layer, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_8, 4)
    layer = cv2.GaussianBlur(layer, (0, 0), 0.8, sigmaY=3.0)
    cv2.add(stage, cv2.resize(layer, (camera.width_px, camera.height_px)), dst=stage)


def lay_glare(picture: Bytes, lamps: list[Shining], camera: Camera, light: Light) -> None:
    """The glow round each lamp that nothing hides; a lamp is hidden where its own pixel is not bright."""
    wide, high = camera_size(camera)
    layer: Bytes = np.zeros((high, wide, 3), np.uint8)
    seen = False
    for lamp in lamps:
        x, y = int(lamp.x_px), int(lamp.y_px)
        if not (0 <= x < camera.width_px and 0 <= y < camera.height_px):
            continue
        if int(picture[y, x].max()) < 0.75 * max(lamp.colour) * lamp.clear:
            continue
        radius = max(0.17 * camera.focal_px / lamp.depth_m / COARSE, 0.55)
        colour = tuple(min(255.0, v * lamp.strength) for v in lamp.colour)
        centre = (round(lamp.x_px / COARSE * 16), round(lamp.y_px / COARSE * 16))
        cv2.circle(layer, centre, round(radius * 16), colour, -1, cv2.LINE_8, 4)
        seen = True
    if not seen:
        return
    size = camera.height_px / 360
    dark = 1.0 - min(1.0, sum(light.ambient) / 2.2)
    foggy = 1.8 if light.fog_per_m > 0.02 else 1.0
    near = cv2.GaussianBlur(layer, (0, 0), 1.1 * size)
    broad = cv2.GaussianBlur(layer, (0, 0), 4.2 * size * foggy)
    glow = cv2.addWeighted(near, 0.35 + 0.75 * dark, broad, (0.25 + 1.5 * dark) * foggy, 0.0)
    cv2.add(picture, cv2.resize(glow, (camera.width_px, camera.height_px)), dst=picture)
