"""What nobody is to see is painted over before a frame is stored; a picture that cannot be searched for it does not leave the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edgecase_agent.source import Picture
from edgecase_models import wire
from edgecase_models.bundle import Bundle, BundleError
from edgecase_models.config import nearest, printable
from edgecase_models.detections import Boxes, Detections
from edgecase_models.detector import Detector, Planes, Runtime

METHOD: Final = "fill"
BLOCK_PX: Final = 16
"""A block of a JPEG with halved colour: what is painted begins and ends between two blocks, so that none holds something of both sides."""
OVERLAP: Final = 0.2
"""Of a tile, how much its neighbour sees too: an object up to this size lies whole in one of them."""
_RETRY_S: Final = 60.0

Tile = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, even where it begins."""


class RedactionError(ValueError):
    """Nobody can tell what must not be seen; the message says what to do. No pixels leave until then."""


class Mode(StrEnum):
    """BLUR paints over what must not be seen; DROP keeps no pixels of a frame that shows any of it."""

    BLUR = "blur"
    DROP = "drop"


@dataclass(frozen=True)
class Terms:
    """What must not be seen: `classes` of the model that runs, and what the model in `bundle` finds, all or only `bundle_classes`.

    From `min_score` on, grown on each side by `margin` of the box's width and height. Pictures larger than `tile_px` are searched in
    tiles of that size too, since a small face is lost when a large picture is scaled down to the model; 0 for never.
    """

    mode: Mode = Mode.BLUR
    classes: tuple[str, ...] = ()
    bundle: Path | None = None
    bundle_classes: tuple[str, ...] = ()
    min_score: float = 0.05
    margin: float = 0.2
    tile_px: int = 640


@dataclass(frozen=True, eq=False, slots=True)
class Cleared:
    """What may leave of a frame. `picture` is None where its pixels must stay, and the very picture that was given where it shows nothing
    that must not be seen. `failed`: nobody could tell what it shows.
    """

    picture: Picture | None
    redaction: wire.Redaction
    failed: bool = False


class Redactor:
    """Searches pictures and paints over what it finds. One instance is for one thread."""

    def __init__(self, terms: Terms, runtime: Runtime = Runtime(), clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is loaded before the first picture; what cannot be loaded then is tried again once a minute."""
        self.terms = terms
        self._runtime = runtime
        self._clock = clock
        self._finder: Finder | None = None
        self._failure = ""
        self._retry_s = -math.inf

    def own(self, detections: Detections, names: Sequence[str]) -> Boxes | None:
        """What the model that runs has found of `terms.classes`, candidates included; None where it does not know one of them."""
        if not set(self.terms.classes) <= set(names):
            return None
        return found(detections, [names.index(each) for each in self.terms.classes], self.terms.min_score)

    def must_know(self, names: Sequence[str]) -> None:
        """`RedactionError` where a model of these classes does not know each of `terms.classes`."""
        if unknown := [each for each in self.terms.classes if each not in names]:
            raise RedactionError(f'privacy.classes: the model knows no "{unknown[0]}"{nearest(unknown[0], names)}')

    def suits(self, names: Sequence[str]) -> Finder | None:
        """Load what searches now; `RedactionError` where it cannot be had, and as `must_know`."""
        self.must_know(names)
        return self.finder()

    def clear(self, picture: Callable[[], Picture], own: Boxes | None) -> Cleared:
        """What may leave of a picture in which `own` was found by the model that runs. Never raises: what fails lets no pixels leave."""
        try:
            given = picture()
            areas = self._areas(given, own)
            cleared = None if self.terms.mode is Mode.DROP and areas else painted(given, areas)
        except Exception as error:  # noqa: BLE001 (whatever it is, pixels that were not searched must not leave)
            why = printable(str(error) or type(error).__name__)[:180]
            return Cleared(None, self._told([], f"not searched: {why}"), failed=True)
        if cleared is None:
            return Cleared(None, self._told(areas, f"it shows what must not be seen, {len(areas)} times"))
        return Cleared(cleared, self._told(areas))

    def finder(self) -> Finder | None:
        """The model that searches, loaded; None where none is asked for. `RedactionError` where it cannot be had."""
        if self.terms.bundle is None or self._finder is not None:
            return self._finder
        if self._clock() < self._retry_s:
            raise RedactionError(self._failure)
        try:
            self._finder = Finder(self.terms, self._runtime)
        except Exception as error:  # a model that is loaded and tried may raise anything; the camera runs on
            self._failure, self._retry_s = f"privacy.bundle: {error}", self._clock() + _RETRY_S
            raise RedactionError(self._failure) from error
        return self._finder

    def _areas(self, picture: Picture, own: Boxes | None) -> list[Tile]:
        if own is None:
            raise RedactionError(
                f"the model that runs does not know each of privacy.classes: {', '.join(self.terms.classes)}"
            )
        finder = self.finder()
        boxes = own if finder is None else np.concatenate([own, finder.search(picture)])
        return grown(boxes, hw_px_of(picture), self.terms.margin)

    def _told(self, areas: Sequence[Tile], withheld: str = "") -> wire.Redaction:
        largest = sorted(areas, key=lambda each: (each[0] - each[2]) * (each[3] - each[1]))[: wire.MAX_BOXES]
        return wire.Redaction(
            mode=self.terms.mode.value,
            method=METHOD,
            count=len(areas),
            boxes=[wire.Area(*each) for each in largest],
            classes=list(self.terms.classes),
            model_digest=UNSET if self._finder is None else self._finder.digest,
            withheld=withheld or UNSET,
        )


class Finder:
    """The model of a redaction bundle. It is not trusted before it has found on this machine what it found when it was packed."""

    def __init__(self, terms: Terms, runtime: Runtime) -> None:
        """Raises `BundleError`, or `OSError` of the disk."""
        assert terms.bundle is not None
        bundle = Bundle.open(terms.bundle)
        bundle.verify_golden(runtime)
        names = bundle.manifest.classes
        if unknown := [each for each in terms.bundle_classes if each not in names]:
            raise BundleError(f"bundle {terms.bundle}: finds no {unknown[0]}; it finds {', '.join(names[:20])}")
        self.digest = bundle.digest
        self.names = terms.bundle_classes or tuple(names)
        self._classes = [names.index(each) for each in self.names]
        self._terms = terms
        thresholds = replace(bundle.thresholds, candidate=min(bundle.thresholds.candidate, terms.min_score))
        self._detector: Detector = bundle.detector(runtime, thresholds)

    def search(self, picture: Picture) -> Boxes:
        """Boxes (N, 4) of all that it finds in the whole picture and in each tile."""
        boxes = [np.zeros((0, 4), np.float32)]
        for tile in tiles(hw_px_of(picture), self._terms.tile_px):
            seen = self._detector.detect(crop(picture, tile))
            boxes.append(found(seen, self._classes, self._terms.min_score) + np.array(tile[:2] * 2, np.float32))
        return np.concatenate(boxes)


# ---- pure ------------------------------------------------------------------------------------------------------------------


def found(detections: Detections, classes: Sequence[int], min_score: float) -> Boxes:
    """The boxes (N, 4) that may be one of the classes: where each class's probability is known, also those that another class leads."""
    wanted = np.asarray(classes, np.intp)
    hit = np.isin(detections.classes, wanted) & (detections.scores >= min_score)
    if detections.probabilities is not None and len(detections) and len(wanted):
        hit |= detections.probabilities[:, wanted].max(axis=1) >= min_score
    return detections.boxes_xyxy_px[hit]


def tiles(hw_px: tuple[int, int], tile_px: int) -> Iterator[Tile]:
    """The whole picture, then, where it is larger than a tile, tiles that cover it and overlap by `OVERLAP` or more."""
    height, width = hw_px
    yield 0, 0, width, height
    if tile_px and max(hw_px) > tile_px:
        for top in _starts(height, tile_px):
            for left in _starts(width, tile_px):
                yield left, top, min(width, left + tile_px), min(height, top + tile_px)


def _starts(side_px: int, tile_px: int) -> list[int]:
    """Where tiles begin along a side: evenly spread, even numbers, so that halved colour planes can be cut there too."""
    count = 1 + max(0, math.ceil((side_px - tile_px) / (tile_px * (1 - OVERLAP))))
    step = (side_px - tile_px) / max(1, count - 1)
    return [2 * math.ceil(number * step / 2) for number in range(count)]


def crop(picture: Picture, tile: Tile) -> Picture:
    """A part of a picture, without a copy of it."""
    left, top, right, bottom = tile
    if isinstance(picture, Planes):
        colour = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
        return Planes(picture.y[top:bottom, left:right], picture.u[colour], picture.v[colour], picture.full_range)
    return picture[top:bottom, left:right]


def grown(boxes: Boxes, hw_px: tuple[int, int], margin: float) -> list[Tile]:
    """The boxes with their margin, grown to whole blocks and cut at the picture's edges; none that lies in another."""
    if not len(boxes):
        return []
    height, width = hw_px
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    low = np.floor((boxes[:, :2] - more) / BLOCK_PX) * BLOCK_PX
    high = np.ceil((boxes[:, 2:] + more) / BLOCK_PX) * BLOCK_PX
    edges = np.clip(np.concatenate([low, high], axis=1), 0, (width, height, width, height)).astype(np.int64)
    areas = np.unique(edges[(edges[:, :2] < edges[:, 2:]).all(axis=1)], axis=0)
    first, other = areas[:, None], areas[None]
    inside = np.all(first[..., :2] >= other[..., :2], axis=2) & np.all(first[..., 2:] <= other[..., 2:], axis=2)
    alone = inside.sum(axis=1) == 1  # each lies in itself
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in areas[alone].tolist()]


def painted(picture: Picture, areas: Sequence[Tile]) -> Picture:
    """A copy in which each connected area has one colour, its mean; the picture itself where there is no area.

    A blur or a mosaic can be undone: networks tell people by mosaics of 16 px cells (McPherson, Shokri, Shmatikov: Defeating Image
    Obfuscation with Deep Learning, 2016), and frames sent beside a pick show one face several times, cut otherwise each time. Of an
    area that is filled three bytes are left. Boxes that touch share a colour: many candidates on one face would make a mosaic.
    """
    if not areas:
        return picture
    height, width = hw_px_of(picture)
    blocks = np.zeros((-(-height // BLOCK_PX), -(-width // BLOCK_PX)), np.uint8)
    for left, top, right, bottom in areas:
        blocks[top // BLOCK_PX : -(-bottom // BLOCK_PX), left // BLOCK_PX : -(-right // BLOCK_PX)] = 1
    groups = np.asarray(cv2.connectedComponents(blocks, connectivity=8)[1], np.int32)
    if isinstance(picture, Planes):
        y, (u, v) = (
            _filled(picture.y, groups, BLOCK_PX),
            (_filled(each, groups, BLOCK_PX // 2) for each in (picture.u, picture.v)),
        )
        return Planes(y, u, v, picture.full_range)
    return np.dstack([_filled(picture[:, :, channel], groups, BLOCK_PX) for channel in range(3)])


def _filled(plane: NDArray[np.uint8], groups: NDArray[np.int32], block_px: int) -> NDArray[np.uint8]:
    """The plane with the mean of each group, from 1 on, in its place."""
    fine = groups.repeat(block_px, axis=0)[: plane.shape[0]].repeat(block_px, axis=1)[:, : plane.shape[1]]
    covered = fine > 0
    group = fine[covered]
    sums = np.bincount(group, weights=plane[covered])
    means = np.round(sums / np.maximum(np.bincount(group), 1)).astype(np.uint8)
    filled = plane.copy()
    filled[covered] = means[group]
    return filled


def hw_px_of(picture: Picture) -> tuple[int, int]:
    """Height and width."""
    return picture.hw_px if isinstance(picture, Planes) else (int(picture.shape[0]), int(picture.shape[1]))
