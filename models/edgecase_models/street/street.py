"""A simulated street camera: any frame by its number, with the exact truth."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_models.street.camera import Bytes, Camera
from edgecase_models.street.figures import figure_limbs
from edgecase_models.street.layout import make_layout, stand
from edgecase_models.street.light import Light, blend, light_of, sun_azimuth
from edgecase_models.street.painter import Body, Painter
from edgecase_models.street.plate import light_plate
from edgecase_models.street.scenery import draw_scenery
from edgecase_models.street.sensor import Sensor
from edgecase_models.street.sketch import place, sketch_limbs, sketch_mesh
from edgecase_models.street.spec import POSES, StreetSpec
from edgecase_models.street.sun import SunMap
from edgecase_models.street.traffic import BUS, CAR, TRUCK, Actor, Traffic
from edgecase_models.street.truth import Cast, Truth, judge_visible
from edgecase_models.street.vehicles import vehicle_mesh

_FARTHEST_M = 135.0


def pose_of(spec: StreetSpec) -> str:
    """The pose of a spec's camera: its own, or the one that its seed chooses."""
    return spec.pose or POSES[int(np.random.default_rng([spec.seed, 1]).integers(len(POSES)))]


class Street:
    """One simulated camera. A frame depends on the spec and its index alone and is the same, byte for byte, each time.

    The still street is drawn on construction (some tenths of a second) and lit once for each condition. One instance
    is for one thread.
    """

    def __init__(self, spec: StreetSpec) -> None:
        self.spec = spec
        pose = pose_of(spec)
        self._street = make_layout(spec.seed, pose)
        self._camera = Camera.looking(*stand(self._street, pose), (spec.width_px, spec.height_px))
        self._traffic = Traffic(self._street)
        self._scenery = draw_scenery(self._street, self._camera, bonnet=pose == "dash")
        self._painter = Painter(self._street, self._scenery, self._camera)
        self._sensor = Sensor(spec.seed, spec.width_px, spec.height_px)
        self._sun = lru_cache(maxsize=8)(self._make_sun)
        self._plate = lru_cache(maxsize=8)(self._make_plate)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Frame `index` as uint8 (H, W, 3) RGB.

        Raises:
            StreetError: the index is negative.
        """
        return self._paint(index, *self._present(index))

    def truth(self, index: int) -> Truth:
        """The truth of frame `index`, without painting it.

        Raises:
            StreetError: the index is negative.
        """
        return self._judge(index, self._present(index)[1])

    def frame(self, index: int) -> tuple[NDArray[np.uint8], Truth]:
        """Frame `index` and its truth.

        Raises:
            StreetError: the index is negative.
        """
        actors, bodies = self._present(index)
        return self._paint(index, actors, bodies), self._judge(index, bodies)

    def condition(self, index: int) -> str:
        """The condition of frame `index`, as in its truth.

        Raises:
            StreetError: the index is negative.
        """
        return self.spec.moment(index).condition

    def _light(self, index: int) -> Light:
        moment = self.spec.moment(index)
        after = light_of(moment.after, self.spec.seed)
        return after if moment.mix == 1.0 else blend(light_of(moment.before, self.spec.seed), after, moment.mix)

    def _present(self, index: int) -> tuple[list[Actor], list[Body]]:
        """Everybody on the street, and those in the picture, nearest first."""
        actors = self._traffic.at(self.spec.second(index))
        wet = self._light(index).wet > 0.3
        bodies = [body for actor in actors if (body := self._body(actor, wet)) is not None]
        return actors, sorted(bodies, key=lambda body: (body.cast.depth_m, body.cast.actor.track_id))

    def _body(self, actor: Actor, mirrored: bool) -> Body | None:
        camera = self._camera
        view = camera.view(np.array([actor.x, actor.y, 0.8], np.float32))
        right, depth_m = float(view[0]), float(view[2])
        if (
            not -7.0 < depth_m < _FARTHEST_M
            or abs(right) > max(depth_m, 0.0) * camera.width_px / camera.focal_px / 2 + 8.0
        ):
            return None
        if actor.kind in (CAR, BUS, TRUCK):
            mesh = vehicle_mesh(actor.kind, actor.style)
            sketch = sketch_mesh(mesh, actor.x, actor.y, actor.heading, camera, mirrored)
            solid, beacons = place(mesh.corners_m, actor.x, actor.y, actor.heading), mesh.beacons
        else:
            limbs = figure_limbs(actor)
            sketch = sketch_limbs(limbs, camera, mirrored)
            solid, beacons = np.concatenate([limbs.starts_m, limbs.ends_m]), limbs.beacons
        if sketch is None:
            return None
        x0, y0, x1, y1 = sketch.extent_px()
        if x1 < 0 or y1 < 0 or x0 > camera.width_px or y0 > camera.height_px:
            return None
        return Body(Cast(actor, sketch, depth_m), beacons if actor.speed_mps > 0.0 else (), solid)

    def _paint(self, index: int, actors: list[Actor], bodies: list[Body]) -> NDArray[np.uint8]:
        moment, light, second = self.spec.moment(index), self._light(index), self.spec.second(index)
        plate = self._plate(moment.after)
        if moment.mix < 1.0:
            plate = cv2.addWeighted(self._plate(moment.before), 1.0 - moment.mix, plate, moment.mix, 0.0)
        picture = self._painter.paint(plate, bodies, actors, light, self._sun(light.sun_elevation_deg))
        return self._sensor.expose(picture, index, second, light).astype(np.uint8, copy=False)

    def _judge(self, index: int, bodies: list[Body]) -> Truth:
        cast = [body.cast for body in bodies]
        return judge_visible(cast, self._scenery.occluder_m, self._camera, self._light(index), self.condition(index))

    def _make_sun(self, elevation_deg: float) -> SunMap:
        return SunMap(self._street, sun_azimuth(self.spec.seed), float(np.radians(elevation_deg)))

    def _make_plate(self, condition: str) -> Bytes:
        light = light_of(condition, self.spec.seed)
        return light_plate(self._scenery, light, self._street, self._camera, self._sun(light.sun_elevation_deg))
