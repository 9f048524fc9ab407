"""The colour of the ground at any spot: asphalt, lanes, markings, kerbs and pavement."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_models.street.camera import Float
from edgecase_models.street.layout import BEHIND_M, SIDE_REACH_M, Layout

Mask = NDArray[np.bool_]

_TILE = 512


def _cloth(rng: np.random.Generator, *grains: tuple[int, float]) -> Float:
    """A repeating texture (_TILE, _TILE) about 0: noise of several grains, each (cells, strength)."""
    total = np.zeros((_TILE, _TILE), np.float32)
    for cells, strength in grains:
        noise = rng.normal(0.0, strength, (cells, cells)).astype(np.float32)
        total += cv2.resize(np.pad(noise, 1, mode="wrap"), (_TILE, _TILE), interpolation=cv2.INTER_LINEAR)
    return total


class Ground:
    """The ground of one street. `colours` and `wetness` take spots as flat arrays of x, y and metres per pixel there."""

    def __init__(self, street: Layout) -> None:
        rng = np.random.default_rng([street.seed, 51])
        self._street = street
        self._grain = _cloth(rng, (512, 7.0), (128, 3.0), (32, 3.0))
        self._patches = _cloth(rng, (16, 7.0), (64, 3.0))
        grey = float(rng.uniform(84, 118))
        self._asphalt = np.array([grey, grey, grey + rng.uniform(-2, 6)], np.float32)
        tone = rng.uniform(-14, 14, 3) * 0.5 + rng.uniform(-12, 16)
        self._paving = np.array([158, 152, 143], np.float32) + tone.astype(np.float32)
        self._cycle = np.array([[150, 82, 72], [86, 112, 92], grey * np.ones(3)][int(rng.integers(3))], np.float32)
        self._tile_m = float(rng.choice([0.5, 0.8, 1.2]))
        self._solid_centre = bool(rng.random() < 0.35)
        self._spots = rng.uniform((-9.0, 0.0, 0.3), (9.0, 80.0, 0.9), (40, 3)).astype(np.float32)

    def _wood(self, cloth: Float, x: Float, y: Float, per_m: float) -> Float:
        columns = (x * per_m).astype(np.int32) & (_TILE - 1)
        rows = (y * per_m).astype(np.int32) & (_TILE - 1)
        grain: Float = cloth[rows, columns]
        return grain

    def is_road(self, x: Float, y: Float) -> Mask:
        """Which spots are carriageway."""
        street = self._street
        main = (x > street.kerb_left_m) & (x < street.kerb_right_m) & (y < street.end_y_m + street.end_half_m)
        side = (np.abs(y - street.side_y_m) < street.side_half_m) & (x > 0) & (x < SIDE_REACH_M + 20)
        road: Mask = main | side | (np.abs(y - street.end_y_m) < street.end_half_m)
        return road

    def colours(self, x: Float, y: Float, pixel_m: Float) -> Float:
        """Daylight colours (N,3) in 0..255."""
        street = self._street
        road = self.is_road(x, y)
        colour = np.where(road[:, None], self._asphalt, self._paving).astype(np.float32)
        fine = np.clip(1.6 - pixel_m * 18, 0.15, 1.0)
        grain = self._wood(self._grain, x, y, 34.0) * fine + self._wood(self._patches, x, y, 7.0)
        edge = street.lanes_m
        in_cycle = (np.abs(np.abs(x) - (edge + street.cycle_m / 2)) < street.cycle_m / 2) & road
        in_cycle &= np.abs(y - street.side_y_m) > street.side_half_m + 3
        if street.cycle_m > 1.2:
            colour[in_cycle] = self._cycle
        for lane in range(street.lanes_each):
            for sign in (-1, 1):
                for wheel in (-0.75, 0.75):
                    away = np.abs(x - sign * (street.lane_x_m(lane) + wheel))
                    grain -= 6.0 * np.clip(1.0 - away / 0.45, 0.0, 1.0) * road
                away = np.abs(x - sign * street.lane_x_m(lane))
                grain -= 5.0 * np.clip(1.0 - away / 0.5, 0.0, 1.0) * road
        colour += grain[:, None]
        self._paint_pavement(colour, road, x, y, pixel_m)
        self._paint_markings(colour, road, x, y, pixel_m)
        for spot_x, spot_y, size in self._spots:
            near = (np.abs(x - spot_x) < size) & (np.abs(y - spot_y) < size) & road
            if near.any():
                away = np.hypot(x[near] - spot_x, y[near] - spot_y)
                colour[near] *= (1.0 - 0.35 * np.clip(1.2 - away / size, 0, 1))[:, None]
        limited: Float = np.clip(colour, 0.0, 255.0)
        return limited

    def _paint_pavement(self, colour: Float, road: Mask, x: Float, y: Float, pixel_m: Float) -> None:
        street = self._street
        joint = np.clip(1.2 - pixel_m * 12, 0.0, 1.0)
        for along in (x, y):
            within = np.abs((along / self._tile_m) % 1.0 - 0.5) * self._tile_m
            line = np.clip((within - self._tile_m / 2 + 0.03 + pixel_m) / (pixel_m + 0.01), 0.0, 1.0)
            colour -= (line * joint * 22.0 * ~road)[:, None]
        edges = (np.abs(x - street.kerb_left_m), np.abs(x - street.kerb_right_m))
        for away in edges:
            mouth = (x > 0) & (np.abs(y - street.side_y_m) < street.side_half_m)
            _stripe(colour, away, 0.1, pixel_m, ~mouth, (186, 184, 178), 0.8)
            _stripe(colour, away - 0.2, 0.1, pixel_m, road, (70, 70, 72), 0.7)
        behind = (x < street.kerb_left_m - street.pavement_m) | (x > street.kerb_right_m + street.pavement_m)
        beside = np.minimum(
            np.abs(y - street.side_y_m) - street.side_half_m, np.abs(y - street.end_y_m) - street.end_half_m
        )
        yard = behind & ~road & (beside > street.pavement_m * 0.8) & (y < BEHIND_M + 400)
        colour[yard] = colour[yard] * 0.3 + np.array([78, 86, 58], np.float32)

    def _paint_markings(self, colour: Float, road: Mask, x: Float, y: Float, pixel_m: Float) -> None:
        street = self._street
        worn = np.clip(0.82 + self._wood(self._patches, x, y, 19.0) * 0.02, 0.3, 0.95)
        white = (226, 226, 220)
        mouth = np.abs(y - street.side_y_m) < street.side_half_m + 1.0
        zebra_half = 1.7
        zebra = np.abs(y - street.zebra_y_m) < zebra_half
        free = (
            road & ~(np.abs(y - street.zebra_y_m) < zebra_half + 1.4) & (y < street.end_y_m - street.end_half_m - 1.0)
        )
        dash = ((y % 7.5) < 3.0) | (self._solid_centre & ~mouth)
        _stripe(colour, np.abs(x), 0.07, pixel_m, free & dash & ~(mouth & (x > 0)), white, worn)
        for lane in range(1, street.lanes_each):
            _stripe(
                colour, np.abs(np.abs(x) - lane * street.lane_m), 0.06, pixel_m, free & ((y % 7.5) < 2.5), white, worn
            )
        outer = free & ~(mouth & (x > 0))
        _stripe(colour, np.abs(np.abs(x) - street.lanes_m), 0.06, pixel_m, outer, white, worn)
        for sign, strip_m in ((-1, street.strip_left_m), (1, street.strip_right_m)):
            if strip_m:
                start = street.lanes_m + street.cycle_m
                _stripe(colour, np.abs(x * sign - start), 0.05, pixel_m, outer & ((y % 1.6) < 0.8), white, worn)
                bay = outer & (x * sign > start) & (x * sign < start + strip_m)
                _stripe(colour, np.abs((y % 6.2) - 3.1), 0.05, pixel_m, bay, white, worn)
        bars = zebra & (x > street.kerb_left_m) & (x < street.kerb_right_m)
        soft = np.clip(1.5 - pixel_m * 1.2, 0.3, 1.0)
        _stripe(colour, np.abs((x % 1.1) - 0.55), 0.27, pixel_m, bars, white, worn * soft)
        for gap, half in ((-zebra_half - 1.0, x > 0), (zebra_half + 1.0, x < 0)):
            stop = road & half & (np.abs(x) < street.lanes_m)
            _stripe(colour, np.abs(y - street.zebra_y_m - gap), 0.2, pixel_m * 4, stop, white, worn)
        side = road & (x > street.kerb_right_m) & (x < SIDE_REACH_M) & ((x % 6.0) < 2.5)
        _stripe(colour, np.abs(y - street.side_y_m), 0.07, pixel_m, side, white, worn)
        give_way = road & (y > street.side_y_m) & (y < street.side_y_m + street.side_half_m)
        _stripe(colour, np.abs(x - street.kerb_right_m - 0.3), 0.2, pixel_m, give_way, white, worn)

    def wetness(self, x: Float, y: Float) -> Float:
        """How much a wet street mirrors at each spot, 0..1: puddles on the road most, the pavement little."""
        puddles = np.clip(0.55 + self._wood(self._patches, x, y, 5.0) * 0.045, 0.12, 1.0)
        wet: Float = np.where(self.is_road(x, y), puddles, puddles * 0.45).astype(np.float32)
        return wet


def _stripe(
    colour: Float,
    away_m: Float,
    half_m: float,
    pixel_m: Float,
    where: Mask,
    paint: tuple[int, int, int],
    strength: Float | float,
) -> None:
    """Blend a line `half_m` to either side into `colour`, smoothed over a pixel."""
    near = np.flatnonzero(where & (away_m < half_m + pixel_m))
    if not len(near):
        return
    cover = np.clip((half_m - away_m[near]) / pixel_m[near] + 0.5, 0.0, 1.0) * np.minimum(
        1.0, 3.0 * half_m / pixel_m[near] + 0.3
    )
    share = (cover * (strength[near] if isinstance(strength, np.ndarray) else strength))[:, None]
    colour[near] += share * (np.array(paint, np.float32) - colour[near])
