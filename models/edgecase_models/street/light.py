"""How a condition lights the street: a table of lights, their blends, and the light that falls on a spot."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from edgecase_models.street.camera import Float
from edgecase_models.street.layout import Lamp, Layout

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """One condition's light and air. Colours of lights are factors on a surface's daylight colour; `sky_*` and `air`
    are colours in 0..255. `lamps`, `windows` and `headlamps` are 0 (off) to 1; `fog_per_m` is the extinction of the
    air; `rain` and `wet` are 0..1; `noise` is the sensor's standard deviation in grey levels, `blur_px` its blur at
    a height of 360 pixels, `contrast` and `gain` its tone.
    """

    sky_top: Rgb
    sky_low: Rgb
    ambient: Rgb
    sun: Rgb
    sun_elevation_deg: float
    air: Rgb
    fog_per_m: float = 0.0008
    lamps: float = 0.0
    windows: float = 0.0
    headlamps: float = 0.0
    rain: float = 0.0
    wet: float = 0.0
    noise: float = 2.0
    blur_px: float = 0.45
    contrast: float = 1.0
    gain: float = 1.0
    clouds: float = 0.5


LIGHTS: dict[str, Light] = {
    "day": Light((92, 146, 214), (206, 222, 236), (0.63, 0.66, 0.71), (0.66, 0.61, 0.52), 42.0, (206, 216, 226), noise=2.6),
    "dusk": Light(
        (66, 74, 118), (246, 168, 112), (0.35, 0.32, 0.37), (0.34, 0.19, 0.07), 9.0, (196, 150, 124),
        fog_per_m=0.003, lamps=0.55, windows=0.6, headlamps=0.75, noise=4.0, blur_px=0.55,
    ),
    "night": Light(
        (9, 11, 24), (40, 37, 46), (0.115, 0.12, 0.155), (0.0, 0.0, 0.0), 40.0, (32, 31, 38),
        fog_per_m=0.002, lamps=1.0, windows=0.75, headlamps=1.0, noise=7.0, blur_px=0.7, clouds=0.2,
    ),
    "rain": Light(
        (140, 147, 154), (184, 188, 190), (0.62, 0.64, 0.66), (0.0, 0.0, 0.0), 40.0, (172, 177, 181),
        fog_per_m=0.009, headlamps=0.7, windows=0.25, rain=0.75, wet=0.85, noise=3.2, blur_px=0.65, contrast=0.9, clouds=0.8,
    ),
    "fog": Light(
        (186, 191, 195), (198, 202, 205), (0.68, 0.69, 0.70), (0.0, 0.0, 0.0), 40.0, (196, 200, 203),
        fog_per_m=0.034, headlamps=0.75, windows=0.15, lamps=0.15, wet=0.15, noise=3.0, blur_px=0.7, clouds=0.0,
    ),
    "night-rain": Light(
        (11, 12, 20), (40, 37, 42), (0.095, 0.10, 0.13), (0.0, 0.0, 0.0), 40.0, (34, 33, 38),
        fog_per_m=0.007, lamps=0.95, windows=0.6, headlamps=1.0, rain=0.95, wet=1.0, noise=8.0, blur_px=0.8, clouds=0.2,
    ),
    "night-fog": Light(
        (40, 38, 40), (54, 51, 50), (0.14, 0.14, 0.155), (0.0, 0.0, 0.0), 40.0, (58, 54, 52),
        fog_per_m=0.030, lamps=1.0, windows=0.5, headlamps=1.0, wet=0.2, noise=6.0, blur_px=0.8, clouds=0.0,
    ),
}  # fmt: skip

LAMP_COLOUR = np.array([1.0, 0.80, 0.52], np.float32)
HEADLAMP_COLOUR = np.array([1.0, 0.96, 0.86], np.float32)
HEADLAMP_REACH_M = 28.0


def light_of(condition: str, seed: int) -> Light:
    """A condition's light for the camera of `seed`: no two streets are equally bright, clear or warm, and no two cameras
    equally sharp, noisy or well exposed.
    """
    base = LIGHTS[condition]
    rng = np.random.default_rng([seed, 81])
    warm, clear, bright, thick, high, grain, sharp, gain = rng.uniform(-1.0, 1.0, 8).tolist()
    sun_share = float(np.clip(0.65 + 0.75 * clear, 0.0, 1.15))
    tint = (1.0 + 0.035 * warm, 1.0, 1.0 - 0.04 * warm)
    overcast = float(np.clip(-clear, 0.0, 1.0)) * 0.5 if condition == "day" else 0.0
    fill = 1.0 + 0.08 * bright + (0.16 * (1.0 - sun_share) if max(base.sun) > 0.0 else 0.0)
    return replace(
        base,
        sky_top=_mix(base.sky_top, (196.0, 203.0, 210.0), overcast),
        ambient=_times(base.ambient, tint, fill),
        sun=_times(base.sun, tint, sun_share),
        sun_elevation_deg=base.sun_elevation_deg * (1.0 + 0.3 * high),
        fog_per_m=base.fog_per_m * (1.0 + 0.22 * thick) + 0.010 * max(0.0, thick) ** 2,
        noise=base.noise * 2.0 ** (0.8 * grain),
        blur_px=base.blur_px * (1.0 + 0.35 * sharp),
        gain=base.gain * 2.0 ** (0.32 * gain),
        clouds=float(np.clip(base.clouds * (1.0 - 0.8 * clear), 0.0, 1.0)),
    )


def _mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    return (
        one[0] + (other[0] - one[0]) * share,
        one[1] + (other[1] - one[1]) * share,
        one[2] + (other[2] - one[2]) * share,
    )


def _times(colour: Rgb, tint: Rgb, share: float) -> Rgb:
    return (colour[0] * tint[0] * share, colour[1] * tint[1] * share, colour[2] * tint[2] * share)


def blend(before: Light, after: Light, mix: float) -> Light:
    """The light between two conditions: `mix` of 0 is `before`, 1 is `after`."""
    values: dict[str, object] = {}
    for entry in fields(Light):
        a, b = getattr(before, entry.name), getattr(after, entry.name)
        values[entry.name] = _mix(a, b, mix) if isinstance(a, tuple) else a + (b - a) * mix
    return replace(before, **values)  # type: ignore[arg-type]


def sun_azimuth(seed: int) -> float:
    """Where the sun stands over the street of `seed`, in radians from +y towards +x."""
    return float(np.random.default_rng([seed, 82]).uniform(-np.pi, np.pi))


def lamp_light(street: Layout, spots_m: Float, upright: bool) -> Float:
    """What the street lamps at full power add at spots (...,3): a share (...) of their colour. `upright` surfaces
    catch the light from the side, the ground from above.
    """
    total = np.zeros(spots_m.shape[:-1], np.float32)
    for lamp in street.lamps:
        total += _one_lamp(lamp, spots_m, upright)
    return total


def _one_lamp(lamp: Lamp, spots_m: Float, upright: bool) -> Float:
    dx = spots_m[..., 0] - (lamp.x + lamp.reach_m)
    dy = spots_m[..., 1] - lamp.y
    dz = lamp.height_m - spots_m[..., 2]
    square = dx * dx + dy * dy + dz * dz
    slant = np.clip(dz, 0.0, None) / np.sqrt(square + 0.01)
    share = 0.35 + 0.3 * slant if upright else slant
    power = 1.6 * lamp.height_m**2
    light = power * share * np.clip(dz + 0.5, 0.0, 1.0) / (square + 4.0)
    capped: Float = np.minimum(light, 1.3).astype(np.float32)
    return capped
