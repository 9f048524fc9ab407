"""What the air, the lens and the sensor do to a finished picture: rain, drops, blur, tone, vignette and noise."""

from __future__ import annotations

import cv2
import numpy as np

from edgecase_models.street.camera import Bytes
from edgecase_models.street.light import Light

_BANK = 160
"""Noise and rain come from larger pictures, drawn once; each frame cuts its own piece out of them."""


class Sensor:
    """The optics of one camera of `width_px` by `height_px`; what it adds to a frame depends on its index alone."""

    def __init__(self, seed: int, width_px: int, height_px: int) -> None:
        self._seed = seed
        self._size = (width_px, height_px)
        self._scale = height_px / 360
        rng = np.random.default_rng([seed, 101])
        shape = (height_px + _BANK, width_px + _BANK)
        grain = (
            rng.standard_normal((*shape, 3), np.float32) * 0.75 + rng.standard_normal((*shape, 1), np.float32) * 0.65
        )
        self._grain = np.clip(grain * 24.0, -127, 127).astype(np.int8)
        self._streaks = _draw_streaks(rng, shape, self._scale)
        y, x = np.mgrid[-1 : 1 : height_px * 1j, -1 : 1 : width_px * 1j]
        fall = 1.0 - float(rng.uniform(0.08, 0.2)) * (x * x + 0.7 * y * y) ** 1.2
        self._vignette = np.repeat((np.clip(fall, 0, 1) * 255)[..., None], 3, axis=2).astype(np.uint8)
        self._noise: dict[float, tuple[Bytes, Bytes]] = {}

    def expose(self, picture: Bytes, index: int, second: float, light: Light) -> Bytes:
        """The frame (H,W,3) that the sensor makes of `picture`."""
        rng = np.random.default_rng([self._seed, 102, index])
        cuts = rng.integers(0, _BANK, 4).tolist()
        width_px, height_px = self._size
        if light.rain > 0.05:
            streaks = self._streaks[cuts[0] : cuts[0] + height_px, cuts[1] : cuts[1] + width_px]
            dim = 0.3 + 0.7 * min(1.0, sum(light.ambient) / 1.5)
            picture = cv2.addWeighted(picture, 1.0, streaks, light.rain * dim, 0.0)
            self._add_drops(picture, second, light.rain)
        sigma = light.blur_px * self._scale
        picture = cv2.GaussianBlur(picture, (5, 5) if sigma > 0.6 else (3, 3), sigma)
        picture = cv2.multiply(picture, self._vignette, scale=1 / 255)
        if light.contrast != 1.0 or light.gain != 1.0:
            picture = cv2.convertScaleAbs(
                picture,
                alpha=light.contrast * light.gain,
                beta=118 * (1 - light.contrast) * min(1.0, sum(light.ambient)),
            )
        more, less = self._noise_of(light.noise)
        part = (slice(cuts[2], cuts[2] + height_px), slice(cuts[3], cuts[3] + width_px))
        return cv2.subtract(cv2.add(picture, more[part]), less[part])

    def _noise_of(self, strength: float) -> tuple[Bytes, Bytes]:
        """What to add and what to take away, for noise of this strength; few strengths are kept."""
        key = round(strength * 2) / 2
        if key not in self._noise:
            if len(self._noise) > 4:
                self._noise.clear()
            grain = self._grain.astype(np.float32) * np.float32(key / 24.0)
            more = np.clip(np.round(grain), 0, 255).astype(np.uint8)
            self._noise[key] = (more, np.clip(np.round(-grain), 0, 255).astype(np.uint8))
        return self._noise[key]

    def _add_drops(self, picture: Bytes, second: float, rain: float) -> None:
        """Drops on the glass, each of which shows the street upside down and blurred, for some seconds."""
        width_px, height_px = self._size
        for number in range(int(16 * rain)):
            life_s = 3.0 + (number * 1.7) % 5.0
            era = int(second / life_s + number * 0.37)
            rng = np.random.default_rng([self._seed, 103, number, era])
            radius = int(max(3.0, rng.uniform(3.5, 9.0) * self._scale))
            x, y = int(rng.integers(radius, width_px - radius)), int(rng.integers(radius, height_px - radius))
            part = picture[y - radius : y + radius, x - radius : x + radius]
            inside = cv2.blur(np.ascontiguousarray(part[::-1, ::-1]), (2 * radius // 3 * 2 + 1,) * 2)
            inside = cv2.convertScaleAbs(inside, alpha=1.06, beta=4)
            grid = np.arange(-radius, radius) + 0.5
            away = np.hypot(grid[None], grid[:, None]) / radius
            share = np.clip((1.0 - away) * 3.0, 0.0, 0.8)[..., None].astype(np.float32)
            part[:] = (part + share * (inside.astype(np.float32) - part)).astype(np.uint8)


def _draw_streaks(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Bytes:
    layer = np.zeros(shape, np.uint8)
    lean = float(rng.uniform(-0.22, 0.22))
    for _ in range(int(620 * shape[0] * shape[1] / (520 * 800) / scale)):
        x, y = int(rng.integers(0, shape[1])), int(rng.integers(0, shape[0]))
        length = float(rng.uniform(7.0, 26.0)) * scale
        end = (int(x + lean * length), int(y + length))
        cv2.line(layer, (x, y), end, float(rng.uniform(20, 66)), max(1, int(scale)), cv2.LINE_AA)
    return cv2.merge([cv2.GaussianBlur(layer, (3, 3), 0.6)] * 3)
