"""Paints whoever is on the street onto the lit plate: shadows, reflections, bodies, lamps."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgecase_models.street.camera import Bytes, Camera, Float
from edgecase_models.street.lamps import Shining, headlamp_light, lay_glare, lay_pools, lay_streaks, shining
from edgecase_models.street.layout import Layout
from edgecase_models.street.light import HEADLAMP_COLOUR, LAMP_COLOUR, Light, Rgb, lamp_light
from edgecase_models.street.scenery import GROUND, Scenery
from edgecase_models.street.sketch import GLASS, GLOW, Beacon, Sketch, fixed_point
from edgecase_models.street.sun import SunMap
from edgecase_models.street.traffic import Actor
from edgecase_models.street.truth import Cast

_SHADOW = 2
"""Shadows are drawn this many times coarser each way."""


@dataclass(frozen=True, eq=False)
class Body:
    """What the painter needs besides the sketch: the lamps, and points (N,3) in the world that cast the shadow."""

    cast: Cast
    beacons: tuple[Beacon, ...]
    solid_m: Float


class Painter:
    """Paints the road users of one street as one camera sees them."""

    def __init__(self, street: Layout, scenery: Scenery, camera: Camera) -> None:
        self._street = street
        self._camera = camera
        self._occluder_m = scenery.occluder_m
        self._ground: Bytes = (scenery.colours * scenery.facing[GROUND][..., None]).astype(np.uint8)

    def paint(self, plate: Bytes, bodies: list[Body], others: list[Actor], light: Light, sun: SunMap) -> Bytes:
        """The picture (H,W,3): `plate` with `bodies`, nearest first; `others` also counts those out of sight."""
        stage = plate.copy()
        if not bodies:
            lay_pools(stage, self._ground, others, self._camera, light)
            return stage
        actors = [body.cast.actor for body in bodies]
        spots = np.array([(actor.x, actor.y) for actor in actors], np.float32)
        reach = (
            sun.reaches(spots[:, 0], spots[:, 1], 0.5) if max(light.sun) > 0.0 else np.zeros(len(actors), np.float32)
        )
        self._lay_shadows(stage, bodies, reach, light, sun)
        lay_pools(stage, self._ground, others, self._camera, light)
        lamps = [shining(body.cast.actor, body.beacons, self._camera, light) for body in bodies]
        flat = [lamp for row in lamps for lamp in row]
        colours = self._lit(bodies, spots, reach, headlamp_light(actors, light), light, sun)
        if light.wet > 0.3:
            self._lay_reflections(stage, bodies, colours, light)
            lay_streaks(stage, flat, self._camera, light)
        picture = stage.copy()
        for body, own_colours, own_lamps in zip(bodies[::-1], colours[::-1], lamps[::-1], strict=True):
            self._paint_body(picture, stage, body, own_colours, own_lamps, light.air)
        lay_glare(picture, flat, self._camera, light)
        return picture

    def _lit(
        self, bodies: list[Body], spots: Float, reach: Float, beams: Float, light: Light, sun: SunMap
    ) -> list[Float]:
        """Every polygon's colour under the light that falls where its road user is."""
        sketches = [body.cast.sketch for body in bodies]
        counts = [len(sketch.polygons) for sketch in sketches]
        owner = np.repeat(np.arange(len(bodies)), counts)
        normals = np.concatenate([sketch.normals for sketch in sketches])
        albedo = np.concatenate([sketch.colours for sketch in sketches])
        surfaces = np.concatenate([sketch.surfaces for sketch in sketches])
        up = 0.74 + 0.26 * normals[:, 2]
        fall = up[:, None] * np.array(light.ambient, np.float32)
        if max(light.sun) > 0.0:
            square = np.clip(normals @ sun.toward, 0.0, 1.0) * reach[owner]
            fall = fall + square[:, None] * np.array(light.sun, np.float32)
        if light.lamps > 0.0:
            heights = np.full((len(bodies), 1), 0.8, np.float32)
            lamp = lamp_light(self._street, np.concatenate([spots, heights], axis=1), upright=True) * light.lamps * 0.75
            fall = fall + (lamp[owner] * (0.6 + 0.5 * normals[:, 2]))[:, None] * LAMP_COLOUR
        dark = 1.0 - min(1.0, sum(light.ambient) / 1.6)
        fall = fall + (beams[owner] * (dark * (1.0 - 0.5 * np.abs(normals[:, 2]))))[:, None] * HEADLAMP_COLOUR
        colours = albedo * fall
        glass = surfaces == GLASS
        sky = np.array(light.sky_low, np.float32)
        colours[glass] += sky * (0.10 + 0.18 * np.clip(normals[glass, 2:], 0.0, 1.0))
        glow = surfaces == GLOW
        moving = np.array([body.cast.actor.speed_mps > 0.0 for body in bodies])[owner]
        colours[glow & moving] += albedo[glow & moving] * np.float32(light.headlamps)
        depth = np.array([body.cast.depth_m for body in bodies], np.float32)[owner]
        clear = np.exp(-light.fog_per_m * depth)[:, None]
        colours = np.clip(colours, 0.0, 255.0) * clear + np.array(light.air, np.float32) * (1.0 - clear)
        return np.split(np.clip(colours, 0.0, 255.0), np.cumsum(counts)[:-1])

    def _lay_shadows(self, stage: Bytes, bodies: list[Body], reach: Float, light: Light, sun: SunMap) -> None:
        camera = self._camera
        top = max(0, min(int(camera.horizon_px), camera.height_px - _SHADOW))
        shade: Bytes = np.zeros((camera.height_px // _SHADOW + 1, camera.width_px // _SHADOW + 1), np.uint8)
        ambient, direct = sum(light.ambient), sum(light.sun)
        depth_of_shadow = 0.72 * direct / (direct + ambient + 0.2)
        slope = sun.toward[:2] / max(float(sun.toward[2]), 0.12)
        for body, sunny in zip(bodies, reach.tolist(), strict=True):
            flat = body.solid_m * np.array([1.0, 1.0, 0.0], np.float32)
            clear = float(np.exp(-light.fog_per_m * body.cast.depth_m))
            if sunny > 0.0 and depth_of_shadow > 0.05:
                thrown = flat.copy()
                thrown[:, :2] -= body.solid_m[:, 2:] * slope
                self._fill_hull(shade, thrown, int(255 * depth_of_shadow * clear))
            self._fill_hull(shade, flat[body.solid_m[:, 2] < 0.9], int(150 * clear))
        shade = cv2.GaussianBlur(shade, (0, 0), 1.1 * camera.height_px / 360)
        full = cv2.resize(shade, (shade.shape[1] * _SHADOW, shade.shape[0] * _SHADOW))[
            top : camera.height_px, : camera.width_px
        ]
        rest = stage[top:]
        cv2.multiply(rest, cv2.merge([cv2.bitwise_not(full)] * 3), dst=rest, scale=1 / 255)

    def _fill_hull(self, shade: Bytes, points_m: Float, value: int) -> None:
        view = self._camera.view(points_m)
        if len(view) < 3 or view[:, 2].min() < 0.8:
            return
        points = np.round(np.clip(self._camera.pixels(view) / _SHADOW, -3000, 3000) * 16).astype(np.int32)
        cv2.fillConvexPoly(shade, cv2.convexHull(points), value, cv2.LINE_8, 4)

    def _lay_reflections(self, stage: Bytes, bodies: list[Body], colours: list[Float], light: Light) -> None:
        layer = stage.copy()
        for body, own in zip(bodies[::-1], colours[::-1], strict=True):
            sketch = body.cast.sketch
            mirror = fixed_point(sketch.mirror, 0.5) if sketch.mirror else []
            for polygon, colour, decal in zip(mirror, own.tolist(), sketch.decal.tolist(), strict=False):
                if not decal:
                    cv2.fillConvexPoly(layer, polygon, colour, cv2.LINE_8, 4)
        smear = max(3, int(self._camera.height_px / 30) | 1)
        layer = cv2.blur(layer, (3, smear))
        cv2.addWeighted(stage, 1.0 - 0.38 * light.wet, layer, 0.38 * light.wet, 0.0, dst=stage)

    def _paint_body(
        self, picture: Bytes, stage: Bytes, body: Body, colours: Float, lamps: list[Shining], air_colour: Rgb
    ) -> None:
        sketch = body.cast.sketch
        for polygon, colour in zip(fixed_point(sketch.polygons, 0.5), colours.tolist(), strict=True):
            cv2.fillConvexPoly(picture, polygon, colour, cv2.LINE_AA, 4)
        for lamp in lamps:
            radius = max(0.075 * self._camera.focal_px / lamp.depth_m, 0.7)
            colour = [
                min(255.0, air + (value - air) * lamp.clear) for value, air in zip(lamp.colour, air_colour, strict=True)
            ]
            centre = (round((lamp.x_px - 0.5) * 16), round((lamp.y_px - 0.5) * 16))
            cv2.circle(picture, centre, round(radius * 16), colour, -1, cv2.LINE_AA, 4)
        self._put_back(picture, stage, sketch, body.cast.depth_m)

    def _put_back(self, picture: Bytes, stage: Bytes, sketch: Sketch, depth_m: float) -> None:
        """What stands still before a road user hides it again."""
        x0, y0, x1, y1 = sketch.extent_px()
        rows = slice(max(int(y0) - 2, 0), max(min(int(y1) + 3, self._camera.height_px), 0))
        columns = slice(max(int(x0) - 2, 0), max(min(int(x1) + 3, self._camera.width_px), 0))
        before = self._occluder_m[rows, columns] < depth_m - 0.3
        if before.any():
            np.copyto(picture[rows, columns], stage[rows, columns], where=before[..., None])
