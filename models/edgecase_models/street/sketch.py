"""A thing as the camera sees it before it is lit: coloured polygons on the picture, in the order of painting.

A solid (vehicle) is a mesh of flat faces; a figure (person, rider, two-wheeler) is a set of limbs, each drawn as the outline
of a tapered rod. Both become a `Sketch`, from which the painter paints and the truth takes its silhouette.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from edgecase_models.street.camera import NEAR_M, Camera, Float

PLAIN, GLASS, GLOW = 0, 1, 2
"""Surfaces: matt paint; glass, which shows the sky; and lamps or screens, which shine by themselves."""

Ints = NDArray[np.int32]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Beacon:
    """A lamp on a thing, in its own metres; it shines along +y if `ahead`, else along -y."""

    at_m: Triple
    colour: Triple
    ahead: bool


@dataclass(frozen=True, eq=False)
class Mesh:
    """Flat faces in a thing's own metres: x to its right, y ahead, z up, the ground under its middle as origin.

    `corners_m` (V,3); `loops` one index array per face; `normals` (F,3); `colours` (F,3) in 0..255; `surfaces` (F,);
    `parts` (F,) numbers the convex parts, which are painted one after the other, the farthest first.
    """

    corners_m: Float
    loops: tuple[Ints, ...]
    normals: Float
    colours: Float
    surfaces: Ints
    parts: Ints
    decal: NDArray[np.bool_]
    beacons: tuple[Beacon, ...]
    middles_m: Float = field(init=False)
    part_middles_m: Float = field(init=False)

    def __post_init__(self) -> None:
        middles = np.stack([self.corners_m[loop].mean(axis=0) for loop in self.loops])
        object.__setattr__(self, "middles_m", middles.astype(np.float32))
        by_part = [middles[self.parts == part].mean(axis=0) for part in range(int(self.parts.max()) + 1)]
        object.__setattr__(self, "part_middles_m", np.stack(by_part).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Limbs:
    """Tapered rods in world metres: ends (N,3) and (N,3), radii (N,) at each end, colours (N,3), own order if `ordered`."""

    starts_m: Float
    ends_m: Float
    start_radii_m: Float
    end_radii_m: Float
    colours: Float
    rank: Ints
    beacons: tuple[Beacon, ...] = ()


@dataclass(frozen=True, eq=False)
class Sketch:
    """Polygons on the picture: each (K,2) in pixels, `colours` (N,3) unlit, `normals` (N,3) in the world, `surfaces` (N,),
    `decal` (N,) marks those that lie within the silhouette of the others. `mirror` holds the polygons' reflection in
    a wet ground, when asked for.
    """

    polygons: list[Float]
    colours: Float
    normals: Float
    surfaces: Ints
    decal: NDArray[np.bool_]
    mirror: list[Float]

    def extent_px(self) -> tuple[float, float, float, float]:
        """The unclipped box around all polygons: x0, y0, x1, y1."""
        points = np.concatenate(self.polygons)
        low, high = points.min(axis=0), points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def fixed_point(polygons: list[Float], origin_px: float | Float) -> list[Ints]:
    """Polygons as OpenCV's fillers want them with a shift of 4: sixteenths of a pixel from `origin_px`."""
    points = np.round((np.clip(np.concatenate(polygons), -8000.0, 8000.0) - origin_px) * 16.0).astype(np.int32)
    ends = list(accumulate(map(len, polygons)))
    return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def place(points_m: Float, x: float, y: float, heading: float) -> Float:
    """A thing's own points (...,3) in the world."""
    return turn(points_m, heading) + np.array([x, y, 0.0], np.float32)


def turn(vectors: Float, heading: float) -> Float:
    """A thing's own directions (...,3) in the world."""
    c, s = np.cos(heading), np.sin(heading)
    matrix = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], np.float32)
    turned: Float = vectors @ matrix
    return turned


def sketch_mesh(mesh: Mesh, x: float, y: float, heading: float, camera: Camera, mirrored: bool) -> Sketch | None:
    """A mesh standing at (x, y); None when nothing of it lies before the camera."""
    corners = place(mesh.corners_m, x, y, heading)
    view = camera.view(corners)
    if view[:, 2].max() < NEAR_M:
        return None
    normals = turn(mesh.normals, heading)
    middles = place(mesh.middles_m, x, y, heading)
    facing = np.einsum("ij,ij->i", normals, middles - camera.position_m) < 0.0
    if len(mesh.part_middles_m) > 1:
        parts = place(mesh.part_middles_m, x, y, heading) - camera.position_m
        far = np.einsum("ij,ij->i", parts[:, :2], parts[:, :2])
        order = np.argsort(-far[mesh.parts], kind="stable")
    else:
        order = np.arange(len(mesh.loops))
    chosen = order[facing[order]]
    pixels = camera.pixels(view)
    whole = bool(view[:, 2].min() >= NEAR_M)
    polygons, kept = [], []
    for face in chosen.tolist():
        polygon = pixels[mesh.loops[face]] if whole else _clipped(view[mesh.loops[face]], camera)
        if len(polygon) >= 3:
            polygons.append(polygon)
            kept.append(face)
    if not kept:
        return None
    mirror: list[Float] = []
    if mirrored and whole:
        below = camera.project(corners * np.array([1.0, 1.0, -1.0], np.float32))
        mirror = [below[mesh.loops[face]] for face in kept]
    return Sketch(polygons, mesh.colours[kept], normals[kept], mesh.surfaces[kept], mesh.decal[kept], mirror)


_ARC = np.linspace(-np.pi / 2, np.pi / 2, 6, dtype=np.float32)
_ARC_COS, _ARC_SIN = np.cos(_ARC), np.sin(_ARC)


def sketch_limbs(limbs: Limbs, camera: Camera, mirrored: bool) -> Sketch | None:
    """Rods in the world; None when any lies at or behind the camera."""
    ends = np.stack([limbs.starts_m, limbs.ends_m])
    view = camera.view(ends)
    if view[..., 2].min() < NEAR_M:
        return None
    order = np.lexsort((-view[..., 2].mean(axis=0), limbs.rank))
    polygons = _rods(camera.pixels(view), view[..., 2], limbs, camera.focal_px)
    mirror: list[Float] = []
    if mirrored:
        below = camera.view(ends * np.array([1.0, 1.0, -1.0], np.float32))
        mirror = list(_rods(camera.pixels(below), below[..., 2], limbs, camera.focal_px)[order])
    toward = camera.position_m - ends.mean(axis=0)
    toward[:, 2] = 1.5
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    count = len(order)
    plain = np.zeros(count, np.int32)
    return Sketch(list(polygons[order]), limbs.colours[order], toward[order], plain, np.zeros(count, np.bool_), mirror)


def _rods(pixels: Float, depth_m: Float, limbs: Limbs, focal_px: float) -> Float:
    """Each rod's outline (N,12,2): half a circle round either end."""
    start, end = pixels
    radius0 = (limbs.start_radii_m * focal_px / depth_m[0])[:, None]
    radius1 = (limbs.end_radii_m * focal_px / depth_m[1])[:, None]
    along = end - start
    length = np.hypot(along[:, 0], along[:, 1])[:, None]
    unit = np.where(length > 1e-3, along / np.maximum(length, 1e-3), np.array([0.0, 1.0], np.float32))
    ux, uy = unit[:, :1], unit[:, 1:]
    head = np.stack([ux * _ARC_COS - uy * _ARC_SIN, uy * _ARC_COS + ux * _ARC_SIN], axis=-1)
    outline: Float = np.concatenate(
        [end[:, None] + radius1[..., None] * head, start[:, None] - radius0[..., None] * head], axis=1
    ).astype(np.float32)
    return outline


def _clipped(view_m: Float, camera: Camera) -> Float:
    """The pixels of a polygon cut at the near plane (Sutherland-Hodgman, one plane)."""
    kept: list[Float] = []
    for here, after in zip(view_m, np.roll(view_m, -1, axis=0), strict=True):
        if here[2] >= NEAR_M:
            kept.append(here)
        if (here[2] >= NEAR_M) != (after[2] >= NEAR_M):
            share = (NEAR_M - here[2]) / (after[2] - here[2])
            kept.append(here + share * (after - here))
    return camera.pixels(np.stack(kept)) if len(kept) >= 3 else np.zeros((0, 2), np.float32)


class MeshMaker:
    """Puts a mesh together face by face; faces of a part are painted in the order in which they were added."""

    def __init__(self) -> None:
        self._corners: list[Triple] = []
        self._loops: list[Ints] = []
        self._normals: list[Triple] = []
        self._colours: list[Triple] = []
        self._surfaces: list[int] = []
        self._parts: list[int] = []
        self._decals: list[bool] = []
        self._beacons: list[Beacon] = []
        self.part = 0

    def face(
        self, points: Sequence[Triple], outward: Triple, colour: Triple, surface: int = PLAIN, decal: bool = False
    ) -> None:
        """One flat convex face; `outward` is its normal, of any length."""
        first = len(self._corners)
        self._corners += points
        self._loops.append(np.arange(first, len(self._corners), dtype=np.int32))
        size = float(np.linalg.norm(outward)) or 1.0
        self._normals.append((outward[0] / size, outward[1] / size, outward[2] / size))
        self._colours.append(colour)
        self._surfaces.append(surface)
        self._parts.append(self.part)
        self._decals.append(decal)

    def prism(self, profile: Sequence[tuple[float, float]], low_half: float, high_half: float, colour: Triple) -> None:
        """A convex profile of (y, z), seen from the right and running anticlockwise there, drawn out to both sides.

        The half width goes from `low_half` at the lowest z to `high_half` at the highest.
        """
        low, high = min(z for _, z in profile), max(z for _, z in profile)

        def half(z: float) -> float:
            return low_half + (high_half - low_half) * (z - low) / (high - low)

        for (y0, z0), (y1, z1) in zip(profile, [*profile[1:], profile[0]], strict=True):
            ring = [(-half(z0), y0, z0), (half(z0), y0, z0), (half(z1), y1, z1), (-half(z1), y1, z1)]
            self.face(ring, (0.0, z1 - z0, y0 - y1), colour)
        lean = (low_half - high_half) / (high - low)
        for side in (-1.0, 1.0):
            self.face([(side * half(z), y, z) for y, z in profile], (side, 0.0, lean), colour)

    def disc(self, centre: Triple, radius: float, side: float, colour: Triple) -> None:
        """A wheel's face: a disc in the plane of y and z that looks to `side` (+1 right, -1 left)."""
        x, y, z = centre
        ring = [
            (x, y + radius * float(np.cos(a)), z + radius * float(np.sin(a)))
            for a in np.linspace(0, 2 * np.pi, 13)[:-1]
        ]
        self.face(ring, (side, 0.0, 0.0), colour)

    def beacon(self, at: Triple, colour: Triple, ahead: bool) -> None:
        """A lamp that shines at night."""
        self._beacons.append(Beacon(at, colour, ahead))

    def done(self) -> Mesh:
        """The mesh made so far."""
        return Mesh(
            np.array(self._corners, np.float32),
            tuple(self._loops),
            np.array(self._normals, np.float32),
            np.array(self._colours, np.float32),
            np.array(self._surfaces, np.int32),
            np.array(self._parts, np.int32),
            np.array(self._decals, np.bool_),
            tuple(self._beacons),
        )
