"""Everything that stands still, drawn once in plain daylight with its distances, so that any light can be laid on later."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_models.street.camera import NEAR_M, Bytes, Camera, Float
from edgecase_models.street.ground import Ground
from edgecase_models.street.houses import Front, draw_front
from edgecase_models.street.layout import Block, Fixture, Lamp, Layout, Tree

FINE = 2
"""The scenery is drawn this many times finer each way and averaged, which smooths its edges."""

SKY, GROUND, EAST, WEST, NORTH, SOUTH, ROUND = range(7)
"""Which way a pixel's surface looks: up, +x, -x, +y, -y, or every way (leaves, poles)."""

SKY_DEPTH_M = 1e6


@dataclass(frozen=True, eq=False)
class Scenery:
    """The still street. `colours` uint8 (H,W,3) in flat daylight; `cover` (H,W) 0..1 is what is not sky;
    `shine` uint8 (H,W,3) glows at night; `facing` (7,H,W) 0..1 tells how much of a pixel looks each way;
    `depth_m` (H,W) along the line of sight; `spots_m` (H,W,3) the world point seen; `occluder_m` (H,W) the depth of
    what can hide a road user (infinite on the ground and the sky); `wetness` (H,W) 0..1.
    """

    colours: Bytes
    cover: Float
    shine: Bytes
    facing: Float
    depth_m: Float
    spots_m: Float
    occluder_m: Float
    wetness: Float


def draw_scenery(street: Layout, camera: Camera, bonnet: bool = False) -> Scenery:
    """The still street as `camera` sees it, over the `bonnet` of the vehicle that carries it if there is one."""
    easel = _Easel(camera.scaled(FINE))
    ground = Ground(street)
    easel.ground(ground)
    for block in street.blocks:
        _draw_block(easel, block)
    for fixture in street.fixtures:
        _draw_fixture(easel, fixture)
    for lamp in street.lamps:
        _draw_lamp(easel, lamp)
    for tree in sorted(street.trees, key=lambda tree: -tree.y):
        _draw_tree(easel, tree)
    if bonnet:
        _draw_bonnet(easel, street.seed)
    return easel.done(ground, camera)


class _Easel:
    """The picture under way: colours with a depth for each pixel, so that the nearer surface wins."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        size = (camera.height_px, camera.width_px)
        self.colours = np.zeros((*size, 3), np.uint8)
        self.shine = np.zeros((*size, 3), np.uint8)
        self.facing = np.zeros(size, np.uint8)
        self.depth = np.full(size, SKY_DEPTH_M, np.float32)

    def ground(self, ground: Ground) -> None:
        rays = self.camera.rays()
        position = self.camera.position_m
        rows = np.flatnonzero((rays[..., 2] < -1e-3).any(axis=1))
        if not len(rows):
            return
        part = slice(int(rows[0]), self.camera.height_px)
        fall = np.minimum(rays[part, :, 2], -1e-3)
        depth = -position[2] / fall
        x = (position[0] + rays[part, :, 0] * depth).ravel()
        y = (position[1] + rays[part, :, 1] * depth).ravel()
        pixel_m = np.maximum(depth.ravel() / self.camera.focal_px, 1e-4)
        shape = (*depth.shape, 3)
        self.colours[part] = ground.colours(x, y, pixel_m).reshape(shape).astype(np.uint8)
        self.facing[part] = GROUND
        self.depth[part] = depth

    def patch(self, polygon_px: Float) -> tuple[slice, slice, Bytes] | None:
        """The rows, columns and mask of a polygon's part of the picture; None when it lies outside."""
        x0, y0 = np.floor(polygon_px.min(axis=0)).astype(int)
        x1, y1 = np.ceil(polygon_px.max(axis=0)).astype(int) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, self.camera.width_px), min(y1, self.camera.height_px)
        if x1 <= x0 or y1 <= y0:
            return None
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        points = np.round((polygon_px - [x0 + 0.5, y0 + 0.5]) * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_8, 4)
        return slice(y0, y1), slice(x0, x1), mask

    def board(
        self, foot0: tuple[float, float], foot1: tuple[float, float], high_m: float, front: Front, facing: int
    ) -> None:
        """A wall between two feet on the ground, `high_m` tall, which shows a front."""
        feet = np.array([[*foot0, 0.0], [*foot1, 0.0]], np.float32)
        tops = feet + np.array([0.0, 0.0, high_m], np.float32)
        near = np.minimum(self.camera.view(feet)[:, 2], self.camera.view(tops)[:, 2])
        limit = NEAR_M * 2
        if near.max() <= limit:
            return
        shares = [0.0, 1.0]
        for end in (0, 1):
            if near[end] < limit:
                shares[end] = float((limit - near[0]) / (near[1] - near[0]))
        corners = np.stack(
            [feet[0] + (feet[1] - feet[0]) * s for s in shares]
            + [tops[0] + (tops[1] - tops[0]) * s for s in shares[::-1]]
        )
        view = self.camera.view(corners)
        pixels = self.camera.pixels(view)
        patch = self.patch(pixels)
        if patch is None:
            return
        rows, columns, mask = patch
        wall_h, wall_w = front.wall.shape[:2]
        scale = float(np.clip(np.ptp(pixels[[0, 3], 1]) / wall_h, 0.05, 1.0))
        scale = max(scale, float(np.clip(np.ptp(pixels[[1, 2], 1]) / wall_h, 0.05, 1.0)))
        small = (max(2, int(wall_w * scale)), max(2, int(wall_h * scale)))
        x0, x1 = shares[0] * small[0], shares[1] * small[0]
        source = np.array([[x0, small[1]], [x1, small[1]], [x1, 0], [x0, 0]], np.float32)
        target = (pixels - [columns.start, rows.start]).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(source, target)
        inverse_depth = np.linalg.solve(
            np.column_stack([target[:3], np.ones(3)]).astype(np.float64), (1.0 / view[:3, 2]).astype(np.float64)
        )
        size = (mask.shape[1], mask.shape[0])
        u = np.arange(size[0], dtype=np.float32)[None, :] + 0.5
        v = np.arange(size[1], dtype=np.float32)[:, None] + 0.5
        depth = (1.0 / np.maximum(u * inverse_depth[0] + v * inverse_depth[1] + inverse_depth[2], 1e-6)).astype(
            np.float32
        )
        inside = (mask > 0) & (depth < self.depth[rows, columns])
        if not inside.any():
            return
        for canvas, picture in ((self.colours, front.wall), (self.shine, front.shine)):
            shrunk = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
            warped = cv2.warpPerspective(shrunk, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            np.copyto(canvas[rows, columns], warped, where=inside[..., None])
        self._settle(rows, columns, inside, depth, facing)

    def stamp(self, polygon_px: Float, depth_m: float, colour: tuple[float, ...], facing: int = ROUND) -> None:
        """A flat polygon at one depth."""
        patch = self.patch(polygon_px)
        if patch is None:
            return
        rows, columns, mask = patch
        inside = (mask > 0) & (depth_m < self.depth[rows, columns])
        self.colours[rows, columns][inside] = np.clip(colour, 0, 255).astype(np.uint8)
        self.shine[rows, columns][inside] = 0
        self._settle(rows, columns, inside, np.float32(depth_m), facing)

    def _settle(
        self, rows: slice, columns: slice, inside: NDArray[np.bool_], depth: Float | np.float32, facing: int
    ) -> None:
        np.copyto(self.depth[rows, columns], depth, where=inside)
        self.facing[rows, columns][inside] = facing

    def rod(
        self,
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        radius_m: float,
        colour: tuple[float, ...],
    ) -> None:
        """A pole, drawn as a flat strip."""
        view = self.camera.view(np.array([start, end], np.float32))
        if view[:, 2].min() < NEAR_M * 2:
            return
        a, b = self.camera.pixels(view)
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-3)
        aside = np.array([-along[1], along[0]], np.float32)
        wide = np.maximum(radius_m * self.camera.focal_px / view[:, 2], 0.7)
        self.stamp(
            np.stack([a + aside * wide[0], b + aside * wide[1], b - aside * wide[1], a - aside * wide[0]]),
            float(view[:, 2].min()),
            colour,
        )

    def done(self, ground: Ground, camera: Camera) -> Scenery:
        size = (camera.width_px, camera.height_px)

        def smaller(picture: np.ndarray) -> np.ndarray:
            return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)

        cover = smaller((self.facing != SKY).astype(np.float32))
        whole = np.maximum(cover, 1e-3)[..., None]
        colours = np.clip(smaller(self.colours.astype(np.float32)) / whole, 0, 255).astype(np.uint8)
        facing = np.stack([smaller((self.facing == way).astype(np.float32)) for way in range(7)])
        depth = self.depth[FINE - 1 :: FINE, ::FINE].copy()
        solid = np.isin(self.facing, (EAST, WEST, NORTH, SOUTH, ROUND))
        occluder = np.where(solid, self.depth, np.inf).astype(np.float32)[FINE - 1 :: FINE, ::FINE].copy()
        spots = camera.position_m + camera.rays() * np.minimum(depth, 2000.0)[..., None]
        wet = ground.wetness(spots[..., 0].ravel(), spots[..., 1].ravel()).reshape(depth.shape) * facing[GROUND]
        return Scenery(colours, cover, smaller(self.shine), facing, depth, spots, occluder, wet)


def _draw_block(easel: _Easel, block: Block) -> None:
    x, y = float(easel.camera.position_m[0]), float(easel.camera.position_m[1])
    sides = (
        (x > block.x1, (block.x1, block.y1), (block.x1, block.y0), EAST),
        (x < block.x0, (block.x0, block.y0), (block.x0, block.y1), WEST),
        (y > block.y1, (block.x0, block.y1), (block.x1, block.y1), NORTH),
        (y < block.y0, (block.x0, block.y0), (block.x1, block.y0), SOUTH),
    )
    for seen, foot0, foot1, facing in sides:
        if seen:
            wide = float(np.hypot(foot1[0] - foot0[0], foot1[1] - foot0[1]))
            front = draw_front(wide, block.height_m, block.style)
            easel.board(foot0, foot1, block.height_m, front, facing)


def _draw_tree(easel: _Easel, tree: Tree) -> None:
    rng = np.random.default_rng([tree.style, 71])
    easel.rod((tree.x, tree.y, 0.0), (tree.x, tree.y, tree.height_m * 0.75), 0.13, (78, 62, 48))
    middle = np.array([tree.x, tree.y, tree.height_m - tree.crown_m * 0.8], np.float32)
    view = easel.camera.view(middle)
    if view[2] < 3.0:
        return
    at = easel.camera.pixels(view)
    unit = easel.camera.focal_px / float(view[2])
    green = np.array(
        [[74, 108, 52], [92, 120, 58], [60, 92, 56], [128, 116, 50], [142, 92, 44]][int(rng.integers(5))], np.float32
    )
    count = int(np.clip(unit * tree.crown_m * 1.2, 30, 150))
    angles = np.linspace(0, 2 * np.pi, 9)[:-1]
    for number in range(count):
        rise = number / count
        away = rng.normal(0.0, 0.5, 2) * np.array([1.0, 0.8])
        away = away / max(1.0, float(np.hypot(*away)) / 0.95)
        radius = tree.crown_m * rng.uniform(0.14, 0.34) * (1.2 - 0.5 * rise) * unit
        spot = at + away * tree.crown_m * unit - np.array([0.0, rise * 0.25 * tree.crown_m * unit])
        bright = 0.55 + 0.4 * rise - 0.25 * away[1] + rng.uniform(-0.1, 0.1)
        ring = spot + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.7, 1.15, (8, 1))
        easel.stamp(ring.astype(np.float32), float(view[2]) - 0.35 - 0.01 * rise, tuple(green * bright))


def _draw_lamp(easel: _Easel, lamp: Lamp) -> None:
    steel = (88, 92, 94)
    top = (lamp.x, lamp.y, lamp.height_m)
    easel.rod((lamp.x, lamp.y, 0.0), (lamp.x, lamp.y, 1.0), 0.1, steel)
    easel.rod((lamp.x, lamp.y, 0.9), top, 0.06, steel)
    if lamp.reach_m:
        easel.rod(top, (lamp.x + lamp.reach_m, lamp.y, lamp.height_m + 0.1), 0.045, steel)
    head = lamp.x + lamp.reach_m
    easel.rod(
        (head - 0.35, lamp.y, lamp.height_m + 0.05), (head + 0.35, lamp.y, lamp.height_m + 0.05), 0.08, (120, 122, 120)
    )


def _draw_fixture(easel: _Easel, fixture: Fixture) -> None:
    rng = np.random.default_rng([fixture.style, 72])
    x, y = fixture.x, fixture.y
    if fixture.kind == "sign":
        easel.rod((x, y, 0.0), (x, y, 2.5), 0.035, (140, 142, 144))
        view = easel.camera.view(np.array([x, y, 2.4], np.float32))
        if view[2] > 2.0:
            angles = (
                np.linspace(0, 2 * np.pi, 13)[:-1]
                if rng.random() < 0.6
                else np.linspace(0, 2 * np.pi, 4)[:-1] + np.pi / 6
            )
            at, unit = easel.camera.pixels(view), easel.camera.focal_px / float(view[2])
            for radius, colour in (
                (0.33, (196, 40, 36)),
                (0.24, (238, 236, 230) if rng.random() < 0.7 else (44, 88, 170)),
            ):
                ring = at + radius * unit * np.stack([np.cos(angles), np.sin(angles)], axis=1)
                easel.stamp(ring.astype(np.float32), float(view[2]) - 0.4 + radius, colour)
        return
    wide, high = {"bin": (0.25, 0.95), "cabinet": (0.45, 1.25), "bollard": (0.07, 0.9)}[fixture.kind]
    colour = [(58, 72, 62), (96, 98, 100), (40, 44, 60), (130, 126, 116)][int(rng.integers(4))]
    easel.rod((x, y, 0.0), (x, y, high), wide, colour)
    easel.rod((x, y, high - 0.06), (x, y, high), wide * 1.06, tuple(v * 0.7 for v in colour))


def _draw_bonnet(easel: _Easel, seed: int) -> None:
    """The front of the vehicle that carries the camera, along the lower edge."""
    rng = np.random.default_rng([seed, 73])
    paint = np.array([(60, 66, 78), (150, 154, 160), (120, 44, 40), (46, 72, 104)][int(rng.integers(4))], np.float32)
    wide, high = easel.camera.width_px, easel.camera.height_px
    across = np.linspace(-0.06, 1.06, 33)
    middle = float(rng.uniform(0.42, 0.5))
    for layer in range(7):
        rise = 0.905 + 0.012 * layer + 0.16 * np.abs(across - middle) ** 2.4
        edge = np.stack([across * wide, rise * high], axis=1)
        outline = np.concatenate([edge, [[1.1 * wide, 1.2 * high], [-0.1 * wide, 1.2 * high]]]).astype(np.float32)
        easel.stamp(outline, 0.9 - 0.001 * layer, tuple(paint * (0.55 if layer == 0 else 1.25 - 0.1 * layer)))
