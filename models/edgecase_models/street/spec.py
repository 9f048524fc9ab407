"""Which simulated street is meant: seed, scene, size, rate and pose, written as one `sim://street` address."""

from __future__ import annotations

import difflib
import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, quote, urlsplit

CLASSES: tuple[str, ...] = ("person", "bicycle", "motorcycle", "car", "bus", "truck")
CONDITIONS: tuple[str, ...] = ("day", "dusk", "night", "rain", "fog", "night-rain", "night-fog")
POSES: tuple[str, ...] = ("kerb", "bridge", "dash", "junction", "corner")
TIMELINES: dict[str, str] = {"drift": "day:20,dusk:5,night:30,night-rain:30"}

BLEND_S = 2.0
"""How long the light takes to turn from one condition of a timeline into the next, centred on the change."""

MIN_SIZE_PX, MAX_SIZE_PX = 64, 4096
MAX_FPS = 240.0


class StreetError(ValueError):
    """A street that cannot be built: the message names what is wrong and the nearest valid choice."""


@dataclass(frozen=True)
class Moment:
    """The condition at one moment of a timeline; `mix` of 1 is wholly `after`, 0 wholly `before`."""

    before: str
    after: str
    mix: float

    @property
    def condition(self) -> str:
        """The condition that outweighs the other."""
        return self.after if self.mix >= 0.5 else self.before


@dataclass(frozen=True)
class StreetSpec:
    """One simulated camera. `pose=None` lets the seed choose; every field is checked on construction.

    Raises:
        StreetError: a field is out of its bounds, or scene or pose is unknown.
    """

    seed: int = 0
    scene: str = "day"
    width_px: int = 640
    height_px: int = 360
    fps: float = 10.0
    pose: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise StreetError(f"seed={self.seed}: must be 0 or greater")
        for name, size_px in (("width", self.width_px), ("height", self.height_px)):
            if not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
                nearest = min(max(size_px, MIN_SIZE_PX), MAX_SIZE_PX)
                raise StreetError(
                    f"{name}={size_px}: must be {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels; nearest is {nearest}"
                )
        if not (math.isfinite(self.fps) and 0.0 < self.fps <= MAX_FPS):
            raise StreetError(f"fps={self.fps:g}: must be above 0 and at most {MAX_FPS:g}")
        if self.pose is not None and self.pose not in POSES:
            raise StreetError(f"pose={self.pose!r} is unknown{_nearest(self.pose, POSES)}")
        parse_scene(self.scene)

    @classmethod
    def from_uri(cls, uri: str) -> StreetSpec:
        """Read `sim://street?seed=7&scene=day&width=640&height=360&fps=10&pose=kerb`; every key may be left out.

        Raises:
            StreetError: not such an address, an unknown or repeated key, or a value that does not fit.
        """
        parts = urlsplit(uri)
        if parts.scheme != "sim" or parts.netloc != "street" or parts.path not in ("", "/"):
            raise StreetError(f"{uri!r} is not a simulated street; write sim://street?seed=7&scene=day")
        values: dict[str, str] = {}
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            if key not in _KEYS:
                raise StreetError(f"{key!r} is no key of sim://street{_nearest(key, _KEYS)}")
            if key in values:
                raise StreetError(f"{key!r} is given twice")
            values[key] = value
        return cls(
            seed=_whole("seed", values.get("seed", "0")),
            scene=values.get("scene", "day"),
            width_px=_whole("width", values.get("width", "640")),
            height_px=_whole("height", values.get("height", "360")),
            fps=_number("fps", values.get("fps", "10")),
            pose=values.get("pose"),
        )

    def uri(self) -> str:
        """The address that `from_uri` reads back to an equal spec."""
        text = f"sim://street?seed={self.seed}&scene={quote(self.scene, safe=':,.')}"
        text += f"&width={self.width_px}&height={self.height_px}&fps={self.fps!r}"
        return text if self.pose is None else f"{text}&pose={self.pose}"

    def second(self, index: int) -> float:
        """The time of frame `index` in seconds since the street began.

        Raises:
            StreetError: the index is negative.
        """
        if index < 0:
            raise StreetError(f"frame index {index}: must be 0 or greater")
        return index / self.fps

    def moment(self, index: int) -> Moment:
        """The condition, or the blend of two, at frame `index`.

        Raises:
            StreetError: the index is negative.
        """
        second = self.second(index)
        start = 0.0
        steps = parse_scene(self.scene)
        for (before, length_s), (after, _) in itertools.pairwise(steps):
            change = start + length_s
            if second < change - BLEND_S / 2:
                return Moment(before, before, 1.0)
            if second < change + BLEND_S / 2:
                return Moment(before, after, (second - change) / BLEND_S + 0.5)
            start = change
        return Moment(steps[-1][0], steps[-1][0], 1.0)


_KEYS = ("seed", "scene", "width", "height", "fps", "pose")


@lru_cache(maxsize=256)
def parse_scene(scene: str) -> tuple[tuple[str, float], ...]:
    """The steps of a scene as (condition, seconds); the last lasts for ever, so its seconds may be left out.

    Raises:
        StreetError: an unknown scene or condition, or a length that is not a positive number of seconds.
    """
    if ":" not in scene and "," not in scene and scene not in TIMELINES:
        if scene not in CONDITIONS:
            raise StreetError(f"scene={scene!r} is unknown{_nearest(scene, (*CONDITIONS, *TIMELINES))}")
        return ((scene, math.inf),)
    steps = []
    entries = TIMELINES.get(scene, scene).split(",")
    for place, entry in enumerate(entries):
        condition, _, length = entry.partition(":")
        if condition not in CONDITIONS:
            raise StreetError(f"scene={scene!r}: condition {condition!r} is unknown{_nearest(condition, CONDITIONS)}")
        if not length and place + 1 < len(entries):
            raise StreetError(f"scene={scene!r}: say for how many seconds {condition} lasts, as in {condition}:20")
        length_s = _number(f"scene={scene!r}: the length of {condition}", length) if length else math.inf
        if not length_s > BLEND_S:
            raise StreetError(f"scene={scene!r}: {condition} must last longer than {BLEND_S:g} seconds")
        steps.append((condition, length_s))
    return tuple(steps)


def _nearest(word: str, choices: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(choices)}"


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise StreetError(f"{name}={text!r} is not a whole number") from None


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise StreetError(f"{name}={text!r} is not a number") from None
    if math.isnan(value):
        raise StreetError(f"{name}={text!r} is not a number")
    return value
