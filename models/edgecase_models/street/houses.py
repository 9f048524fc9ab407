"""House fronts as flat pictures: walls, windows, shops and doors, with a second picture of what shines at night."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgecase_models.street.camera import Bytes

PIXELS_PER_M = 16

WALLS = (
    (178, 120, 92), (150, 84, 70), (204, 188, 160), (222, 212, 196), (168, 162, 154), (120, 122, 128), (196, 164, 120),
    (214, 178, 150), (142, 150, 158), (110, 78, 66), (186, 196, 188), (232, 226, 214),
)  # fmt: skip
AWNINGS = ((150, 40, 42), (38, 84, 66), (44, 66, 118), (196, 150, 60), (90, 90, 96))
LIT = ((255, 214, 142), (255, 232, 186), (236, 240, 255), (255, 190, 110))


@dataclass(frozen=True, eq=False)
class Front:
    """A wall's picture and its shine, both uint8 (H,W,3), PIXELS_PER_M to the metre, the ground at the lower edge."""

    wall: Bytes
    shine: Bytes


def draw_front(width_m: float, height_m: float, style: int) -> Front:
    """The front of a house."""
    rng = np.random.default_rng([style, 61])
    wide, high = max(8, int(width_m * PIXELS_PER_M)), max(8, int(height_m * PIXELS_PER_M))
    base = np.array(WALLS[int(rng.integers(len(WALLS)))], np.float32) + rng.uniform(-16, 10) + rng.uniform(-6, 6, 3)
    base = base * 0.9 + base.mean() * 0.1
    coat = np.broadcast_to(base, (high, wide, 3)).astype(np.float32)
    stains = cv2.resize(rng.normal(0, 7, (max(2, high // 40), max(2, wide // 24))).astype(np.float32), (wide, high))
    coat = coat + stains[..., None] + rng.normal(0, 4, (high, wide, 1)).astype(np.float32)
    if rng.random() < 0.5:
        coat[:: PIXELS_PER_M // 3] *= 0.93
    wall: Bytes = np.ascontiguousarray(np.clip(coat, 0, 255).astype(np.uint8))
    shine = np.zeros_like(wall)
    _draw_storeys(wall, shine, height_m, rng)
    cornice = tuple(float(v) for v in np.clip(base * rng.uniform(0.62, 1.18), 0, 255))
    cv2.rectangle(wall, (0, 0), (wide, int(0.4 * PIXELS_PER_M)), cornice, -1)
    cv2.rectangle(wall, (0, int(0.4 * PIXELS_PER_M)), (wide, int(0.5 * PIXELS_PER_M)), (60, 58, 56), -1)
    cv2.line(wall, (0, 0), (0, high), tuple(float(v) for v in base * 0.6), 2)
    return Front(wall, shine)


def _draw_storeys(wall: Bytes, shine: Bytes, height_m: float, rng: np.random.Generator) -> None:
    high, wide = wall.shape[:2]
    m = PIXELS_PER_M
    shop = height_m > 5.0 and rng.random() < 0.55
    ground_m = 3.6 if shop else 0.4
    storey_m = float(rng.uniform(2.8, 3.4))
    bay_m = float(rng.uniform(2.0, 3.4))
    bays = max(1, int(wide / m / bay_m))
    window_m = (bay_m * float(rng.uniform(0.38, 0.62)), storey_m * float(rng.uniform(0.45, 0.62)))
    frame = (235, 232, 226) if rng.random() < 0.6 else (70, 62, 58)
    glass = np.array([66, 78, 92]) + rng.uniform(-14, 18)
    homely = float(rng.uniform(0.15, 0.5))
    step = wide / bays
    floors = int((height_m - ground_m - 0.6) / storey_m)
    for floor in range(floors):
        top = high - int((ground_m + floor * storey_m + storey_m * 0.25 + window_m[1]) * m)
        for bay in range(bays):
            left = int(bay * step + (step - window_m[0] * m) / 2)
            right, bottom = left + int(window_m[0] * m), top + int(window_m[1] * m)
            if floor == 0 and not shop and bay == bays // 2:
                _draw_door(wall, left, right, rng)
                continue
            _draw_window(wall, shine, (left, top, right, bottom), frame, glass, rng, homely)
        if rng.random() < 0.4:
            line = high - int((ground_m + floor * storey_m) * m)
            cv2.line(wall, (0, line), (wide, line), tuple(float(v) * 0.8 for v in wall[max(line - 3, 0), 2]), 2)
    if shop:
        _draw_shop(wall, shine, rng)


def _draw_window(
    wall: Bytes,
    shine: Bytes,
    box: tuple[int, int, int, int],
    frame: tuple[int, int, int],
    glass: np.ndarray,
    rng: np.random.Generator,
    homely: float,
) -> None:
    left, top, right, bottom = box
    if bottom - top < 4 or right - left < 4 or top < 0:
        return
    cv2.rectangle(wall, (left - 2, top - 2), (right + 2, bottom + 2), frame, -1)
    slope = np.linspace(1.35, 0.75, bottom - top)[:, None, None]
    pane = np.clip(glass * slope * np.ones((1, right - left, 1)) + rng.uniform(-10, 10), 0, 255).astype(np.uint8)
    wall[top:bottom, left:right] = pane
    if rng.random() < 0.35:
        blind = top + int((bottom - top) * rng.uniform(0.2, 0.7))
        wall[top:blind, left:right] = np.array([196, 190, 178]) * rng.uniform(0.7, 1.0)
    middle = (left + right) // 2
    cv2.line(wall, (middle, top), (middle, bottom), frame, 1)
    cv2.rectangle(wall, (left - 3, bottom + 1), (right + 3, bottom + 3), (206, 202, 194), -1)
    if rng.random() < homely:
        colour = np.array(LIT[int(rng.integers(len(LIT)))]) * rng.uniform(0.35, 0.95)
        shine[top:bottom, left:right] = colour * np.linspace(1.0, 0.8, bottom - top)[:, None, None]
        cv2.line(shine, (middle, top), (middle, bottom), (20, 16, 10), 1)


def _draw_door(wall: Bytes, left: int, right: int, rng: np.random.Generator) -> None:
    high = wall.shape[0]
    top = high - int(2.25 * PIXELS_PER_M)
    colour = tuple(float(v) for v in rng.uniform(30, 120, 3))
    cv2.rectangle(wall, (left - 2, top - 2), (right + 2, high), (214, 210, 202), -1)
    cv2.rectangle(wall, (left, top), (right, high), colour, -1)


def _draw_shop(wall: Bytes, shine: Bytes, rng: np.random.Generator) -> None:
    high, wide = wall.shape[:2]
    m = PIXELS_PER_M
    top, sign = high - int(2.7 * m), high - int(3.4 * m)
    cv2.rectangle(wall, (3, top), (wide - 4, high - int(0.4 * m)), (52, 56, 62), -1)
    glass = np.clip(
        rng.normal(74, 24, (6, max(4, wide // 14), 1)) + rng.normal(0, 9, (6, max(4, wide // 14), 3)), 20, 150
    ).astype(np.uint8)
    pane = cv2.resize(glass, (wide - 14, int(2.1 * m)), interpolation=cv2.INTER_NEAREST)
    pane = cv2.GaussianBlur(pane, (0, 0), 2.0)
    wall[top + 4 : top + 4 + pane.shape[0], 7 : 7 + pane.shape[1]] = pane
    for x in range(7, wide - 7, int(2.2 * m)):
        cv2.line(wall, (x, top), (x, high - int(0.3 * m)), (44, 44, 46), 2)
    board = AWNINGS[int(rng.integers(len(AWNINGS)))]
    cv2.rectangle(wall, (3, sign), (wide - 4, top), board, -1)
    ink = (236, 230, 210)
    x = int(rng.integers(10, max(11, wide // 3)))
    for _ in range(int(rng.integers(4, 10))):
        letter = int(rng.integers(4, 9))
        if x + letter < wide - 10:
            cv2.rectangle(wall, (x, sign + 4), (x + letter, top - 4), ink, 1 + int(rng.integers(2)))
        x += letter + 4
    if rng.random() < 0.6:
        warm = np.array(LIT[int(rng.integers(len(LIT)))]) * rng.uniform(0.5, 0.95)
        shine[top + 4 : top + 4 + pane.shape[0], 7 : 7 + pane.shape[1]] = np.clip(pane / 110.0 * warm, 0, 255)
        cv2.rectangle(shine, (3, sign), (wide - 4, top), tuple(float(v) * 0.5 for v in board), -1)
