"""Which spots the sun reaches: shadows of houses and trees, found on a map of heights."""

from __future__ import annotations

import numpy as np

from edgecase_models.street.camera import Float
from edgecase_models.street.layout import Layout

_X0, _X1, _Y0, _Y1 = -95.0, 115.0, -70.0, 150.0
_CELL_M = 0.5
_TALLEST_M = 21.0
_STEPS_M = np.concatenate([np.arange(0.5, 20.0, 0.5), np.arange(20.0, 70.0, 1.5)])


class SunMap:
    """The sun of one street; `azimuth` in radians from +y towards +x is where it stands, `elevation` how high."""

    def __init__(self, street: Layout, azimuth: float, elevation: float) -> None:
        flat = np.cos(elevation)
        self.toward = np.array([np.sin(azimuth) * flat, np.cos(azimuth) * flat, np.sin(elevation)], np.float32)
        """The unit vector (3,) towards the sun."""
        self._slope = float(np.tan(elevation))
        self._heights = _heights(street)

    def reaches(self, x: Float, y: Float, z: Float | float = 0.0) -> Float:
        """1 where the sun shines on spots of any one shape, 0 in the shade."""
        free = np.ones(np.shape(x), np.float32)
        east, north = self.toward[0] / np.hypot(*self.toward[:2]), self.toward[1] / np.hypot(*self.toward[:2])
        rows_n, columns_n = self._heights.shape
        for step in _STEPS_M.tolist():
            if step * self._slope > _TALLEST_M:
                break
            rise = step * self._slope + z
            columns = np.clip(((x + east * step) - _X0) / _CELL_M, 0, columns_n - 1).astype(np.int32)
            rows = np.clip(((y + north * step) - _Y0) / _CELL_M, 0, rows_n - 1).astype(np.int32)
            free[self._heights[rows, columns] > rise] = 0.0
        return free


def _heights(street: Layout) -> Float:
    heights = np.zeros((int((_Y1 - _Y0) / _CELL_M), int((_X1 - _X0) / _CELL_M)), np.float32)
    for block in street.blocks:
        rows = slice(max(0, int((block.y0 - _Y0) / _CELL_M)), max(0, int((block.y1 - _Y0) / _CELL_M)))
        columns = slice(max(0, int((block.x0 - _X0) / _CELL_M)), max(0, int((block.x1 - _X0) / _CELL_M)))
        heights[rows, columns] = block.height_m
    y, x = np.mgrid[_Y0:_Y1:_CELL_M, _X0:_X1:_CELL_M]
    for tree in street.trees:
        crown = np.hypot(x - tree.x, y - tree.y) < tree.crown_m * 0.8
        heights[crown] = np.maximum(heights[crown], tree.height_m - tree.crown_m * 0.5)
    return heights
