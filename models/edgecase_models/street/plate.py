"""The still street under one light: the picture that everything that moves is painted onto."""

from __future__ import annotations

import cv2
import numpy as np

from edgecase_models.street.camera import Bytes, Camera, Float
from edgecase_models.street.layout import Layout
from edgecase_models.street.light import LAMP_COLOUR, Light, lamp_light
from edgecase_models.street.scenery import EAST, GROUND, NORTH, ROUND, SKY_DEPTH_M, SOUTH, WEST, Scenery
from edgecase_models.street.sun import SunMap

_OUTWARD = {EAST: (1.0, 0.0, 0.0), WEST: (-1.0, 0.0, 0.0), NORTH: (0.0, 1.0, 0.0), SOUTH: (0.0, -1.0, 0.0)}
_AMBIENT_SHARE = {GROUND: 1.0, EAST: 0.82, WEST: 0.80, NORTH: 0.86, SOUTH: 0.84, ROUND: 0.86}


def light_plate(scenery: Scenery, light: Light, street: Layout, camera: Camera, sun: SunMap) -> Bytes:
    """The still street (H,W,3) under `light`."""
    colours = scenery.colours.astype(np.float32)
    colours *= (1.0 - 0.38 * light.wet * scenery.wetness)[..., None]
    fall = _daylight(scenery, light, sun)
    if light.lamps > 0.0:
        fall += _lamplight(scenery, light, street)
    lit = colours * fall + scenery.shine * np.float32(0.95 * light.windows)
    depth = np.minimum(scenery.depth_m, SKY_DEPTH_M)
    clear = np.exp(-light.fog_per_m * depth)[..., None]
    air = _air(light, street, scenery, depth)
    lit = lit * clear + air * (1.0 - clear)
    cover = scenery.cover[..., None]
    picture = lit * cover + _sky(light, street, camera, sun) * (1.0 - cover)
    _add_lamp_heads(picture, scenery, light, street, camera)
    if light.wet > 0.0:
        _mirror(picture, scenery, light, camera)
    return np.clip(picture, 0.0, 255.0).astype(np.uint8)


def _daylight(scenery: Scenery, light: Light, sun: SunMap) -> Float:
    ambient = np.zeros(scenery.cover.shape, np.float32)
    for way, share in _AMBIENT_SHARE.items():
        ambient += share * scenery.facing[way]
    ambient += 0.9 * np.clip(1.0 - ambient, 0.0, 1.0) * (ambient < 0.05)
    fall: Float = ambient[..., None] * np.array(light.ambient, np.float32)
    if max(light.sun) > 0.0:
        fall += _sunlight(scenery, sun)[..., None] * np.array(light.sun, np.float32)
    return fall


def _sunlight(scenery: Scenery, sun: SunMap) -> Float:
    """How squarely the sun hits each pixel, 0 in the shade."""
    size = scenery.cover.shape[::-1]
    coarse = scenery.spots_m[::2, ::2].copy()
    square = np.zeros(scenery.cover.shape, np.float32)
    for way, outward in _OUTWARD.items():
        slant = float(np.dot(outward, sun.toward))
        square += max(slant, 0.0) * scenery.facing[way]
        coarse += 0.7 * scenery.facing[way][::2, ::2, None] * np.array(outward, np.float32)
    square += float(sun.toward[2]) * scenery.facing[GROUND] + 0.75 * scenery.facing[ROUND]
    height = np.where(scenery.facing[GROUND][::2, ::2] > 0.5, 0.0, np.maximum(coarse[..., 2], 0.0))
    reach = sun.reaches(coarse[..., 0], coarse[..., 1], height.astype(np.float32))
    reach = np.where(scenery.facing[ROUND][::2, ::2] > 0.5, 1.0, reach).astype(np.float32)
    soft: Float = np.asarray(cv2.resize(cv2.GaussianBlur(reach, (0, 0), 1.2), size), np.float32)
    return square * soft


def _lamplight(scenery: Scenery, light: Light, street: Layout) -> Float:
    upright = scenery.facing[GROUND] < 0.5
    coarse = scenery.spots_m[::2, ::2]
    size = scenery.cover.shape[::-1]
    ground = cv2.resize(lamp_light(street, coarse, upright=False), size)
    walls = cv2.resize(lamp_light(street, coarse, upright=True), size)
    share = np.where(upright, walls, ground) * np.float32(0.62 * light.lamps)
    fall: Float = share[..., None] * LAMP_COLOUR
    return fall


def _air(light: Light, street: Layout, scenery: Scenery, depth_m: Float) -> Float:
    """The colour of the air before each pixel; lamps light fog from within."""
    air = np.broadcast_to(np.array(light.air, np.float32), (*depth_m.shape, 3))
    if light.lamps < 0.5 or light.fog_per_m < 0.02:
        return air
    near = cv2.resize(lamp_light(street, scenery.spots_m[::4, ::4], upright=True), depth_m.shape[::-1])
    near = cv2.GaussianBlur(near, (0, 0), depth_m.shape[0] / 36)
    glow: Float = air + (40.0 * np.clip(near, 0.0, 2.0))[..., None] * LAMP_COLOUR
    return glow


def _sky(light: Light, street: Layout, camera: Camera, sun: SunMap) -> Float:
    rays = camera.rays()
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    rise = np.clip(rays[..., 2:] / 0.55, 0.0, 1.0) ** 0.7
    low, top = np.array(light.sky_low, np.float32), np.array(light.sky_top, np.float32)
    sky: Float = low + (top - low) * rise
    if light.clouds > 0.0:
        rng = np.random.default_rng([street.seed, 91])
        rows, columns = camera.height_px, camera.width_px
        shape = np.zeros((rows, columns), np.float32)
        for cells, strength in ((4, 1.0), (9, 0.6), (20, 0.35), (44, 0.2)):
            noise = rng.normal(0.0, strength, (cells, cells)).astype(np.float32)
            shape += cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC)
        cloud = np.clip(shape * 0.55 + light.clouds - 0.35, 0.0, 0.9)[..., None]
        sky += cloud * (low * 1.05 - sky) * 0.9 - np.clip(cloud - 0.5, 0, 1) * 0.12 * low
    if max(light.sun) > 0.0:
        close = np.clip(rays @ sun.toward, 0.0, 1.0)[..., None]
        glow = 70.0 * close**8 + 110.0 * close**60
        sky += glow * np.array(light.sun, np.float32)
    return sky


def _add_lamp_heads(picture: Float, scenery: Scenery, light: Light, street: Layout, camera: Camera) -> None:
    if light.lamps <= 0.0:
        return
    layer = np.zeros_like(picture)
    for lamp in street.lamps:
        view = camera.view(np.array([lamp.x + lamp.reach_m, lamp.y, lamp.height_m], np.float32))
        depth = float(view[2])
        if depth < 1.5:
            continue
        x, y = camera.pixels(view)
        if (
            not (0 <= x < camera.width_px and 0 <= y < camera.height_px)
            or scenery.occluder_m[int(y), int(x)] < depth - 1.0
        ):
            continue
        clear = float(np.exp(-light.fog_per_m * depth))
        radius = max(0.22 * camera.focal_px / depth, 0.8)
        colour = LAMP_COLOUR * 330.0 * light.lamps * clear
        centre = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(layer, centre, round(radius * 16), tuple(float(v) for v in colour), -1, cv2.LINE_8, 4)
    size = camera.height_px / 360
    wide = 3.0 if light.fog_per_m > 0.02 else 1.0
    picture += layer
    for sigma, share in ((2.0, 1.2), (9.0 * wide, 2.6 * wide)):
        picture += cv2.GaussianBlur(layer, (0, 0), sigma * size) * np.float32(share)


def _mirror(picture: Float, scenery: Scenery, light: Light, camera: Camera) -> None:
    """Mix into a wet ground what stands above it, mirrored at the horizon and smeared downwards."""
    horizon = camera.horizon_px
    rows = np.arange(camera.height_px)
    source = np.clip(np.round(2 * horizon - rows), 0, camera.height_px - 1).astype(int)
    mirrored = picture[source]
    smear = max(3, int(camera.height_px / 14) | 1)
    mirrored = cv2.blur(mirrored, (3, smear))
    near = np.clip((rows - horizon) / max(camera.height_px - horizon, 1.0), 0.0, 1.0)
    share = (light.wet * scenery.wetness * (0.62 - 0.34 * near)[:, None].astype(np.float32))[..., None]
    picture += share * (mirrored - picture * 0.75)
