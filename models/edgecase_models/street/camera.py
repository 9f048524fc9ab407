"""Where a point of the street falls in the picture, and how far away it is.

The world is in metres: x to the right of the main road, y along it, z up; the ground is z = 0. Pixels are continuous:
the picture spans 0..width and 0..height, so that the first pixel's centre is at 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
"""Arrays of float32 throughout; NumPy's own typing widens them at every step."""

Bytes = NDArray[np.integer[Any] | np.floating[Any]]
"""Pictures of uint8; OpenCV's typing does not tell them from floats."""

NEAR_M = 0.4
"""Nothing nearer than this, along the line of sight, is drawn."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole without distortion. `rotation` (3,3) has the rows right, down, forward; `position_m` is (3,)."""

    position_m: Float
    rotation: Float
    focal_px: float
    width_px: int
    height_px: int

    @classmethod
    def looking(
        cls,
        position_m: tuple[float, float, float],
        yaw_deg: float,
        down_deg: float,
        focal: float,
        size_px: tuple[int, int],
    ) -> Camera:
        """A camera turned `yaw_deg` from +y towards +x and tilted `down_deg`; `focal` is in picture widths (of 16:9)."""
        yaw, down = math.radians(yaw_deg), math.radians(down_deg)
        forward = np.array([math.sin(yaw) * math.cos(down), math.cos(yaw) * math.cos(down), -math.sin(down)])
        right = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
        rotation = np.stack([right, np.cross(forward, right), forward]).astype(np.float32)
        width_px, height_px = size_px
        focal_px = focal * max(width_px, height_px * 16 / 9)
        return cls(np.array(position_m, np.float32), rotation, focal_px, width_px, height_px)

    def scaled(self, factor: int) -> Camera:
        """The same view in `factor` times as many pixels each way."""
        return Camera(
            self.position_m, self.rotation, self.focal_px * factor, self.width_px * factor, self.height_px * factor
        )

    @property
    def horizon_px(self) -> float:
        """The row of the horizon, which may lie outside the picture."""
        forward = self.rotation[2]
        return float(self.height_px / 2 + self.focal_px * forward[2] / math.hypot(forward[0], forward[1]))

    def view(self, points_m: Float) -> Float:
        """World points (..., 3) as the camera sees them: metres to the right, down, and ahead."""
        seen: Float = (points_m - self.position_m) @ self.rotation.T
        return seen

    def pixels(self, view_m: Float) -> Float:
        """Points (..., 3) from `view` as pixels (..., 2); points nearer than NEAR_M are taken to be at NEAR_M."""
        ahead = np.maximum(view_m[..., 2:], NEAR_M)
        centre = np.array([self.width_px / 2, self.height_px / 2], np.float32)
        spots: Float = view_m[..., :2] * np.float32(self.focal_px) / ahead + centre
        return spots

    def project(self, points_m: Float) -> Float:
        """World points (..., 3) as pixels (..., 2)."""
        return self.pixels(self.view(points_m))

    def rays(self) -> Float:
        """The world direction (H, W, 3) through each pixel's centre, one metre along the line of sight."""
        u = (np.arange(self.width_px, dtype=np.float32) + 0.5 - self.width_px / 2) / self.focal_px
        v = (np.arange(self.height_px, dtype=np.float32) + 0.5 - self.height_px / 2) / self.focal_px
        right, down, forward = self.rotation
        rays: Float = (u[None, :, None] * right + v[:, None, None] * down + forward).astype(np.float32)
        return rays
