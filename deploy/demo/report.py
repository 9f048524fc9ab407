"""The demo's report: one HTML file with everything in it, from the same figures as report.json."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from plots import AFTER, BEFORE, Bar, Track, bars, timeline

from edgecase_models.detections import Detections

Rgb = NDArray[np.uint8]
PALETTE = [(230, 126, 34), (46, 204, 113), (186, 104, 200), (52, 152, 219), (241, 196, 15), (231, 76, 60)]
COLUMNS = ("seen", "kept", "acknowledged", "spooled", "evicted", "rejected", "declined", "lost")


@dataclass(frozen=True)
class Kept:
    """A frame that a device kept, as a data URI."""

    picture: str
    caption: str


@dataclass(frozen=True)
class Pair:
    """A held-out frame through both models, as data URIs."""

    before: str
    after: str
    caption: str


def page(
    figures: dict[str, Any],
    checks: Sequence[tuple[bool, str]],
    tracks: Sequence[Track],
    kept: Sequence[Kept],
    pairs: Sequence[Pair],
) -> str:
    """The report as HTML."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    before, after = figures["map50_95"]["before"], figures["map50_95"]["after"]
    overall = {name: {"before": before[name], "after": after[name]} for name in ("drifted", "undrifted")}
    return environment.get_template("report.html.j2").render(
        tiles=_tiles(figures),
        checks=checks,
        before=BEFORE,
        after=AFTER,
        overall=Markup(bars(_bars(overall | figures["map50_95_per_condition"]))),  # noqa: S704 (escaped where it is made)
        classes=Markup(bars(_bars(figures["map50_95_per_class"]))),  # noqa: S704
        timeline=Markup(timeline(tracks)),  # noqa: S704
        columns=COLUMNS,
        devices=figures["devices"],
        kept=kept,
        pairs=pairs,
    )


def drawn(picture: Rgb, boxes: Detections, classes: Sequence[str], floor: float) -> str:
    """The picture with its boxes from `floor` on, those below 0.25 thin, as a data URI."""
    canvas = picture.copy()
    for box, score, cls in zip(boxes.boxes_xyxy_px.astype(int), boxes.scores, boxes.classes, strict=True):
        if score < floor:
            continue
        colour = PALETTE[cls % len(PALETTE)]
        cv2.rectangle(canvas, box[:2].tolist(), box[2:].tolist(), colour, 2 if score >= 0.25 else 1, cv2.LINE_AA)
        at = (int(box[0]) + 2, max(11, int(box[1]) - 4))
        for ink, thickness in (((0, 0, 0), 3), (colour, 1)):
            cv2.putText(
                canvas, f"{classes[cls]} {score:.2f}", at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, ink, thickness, cv2.LINE_AA
            )
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert done, "a picture of this size can be encoded"
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def _bars(rows: dict[str, dict[str, float]]) -> list[Bar]:
    return [Bar(name, row["before"], row["after"]) for name, row in rows.items()]


def _tiles(figures: dict[str, Any]) -> list[tuple[str, str]]:
    frames, bytes_, labels = figures["frames"], figures["bytes"], figures["labels"]
    return [
        (f"{frames['seen']:,}", "frames seen"),
        (f"{frames['kept']:,}", "kept as doubtful"),
        (f"{frames['acknowledged']:,}", "acknowledged by the cloud"),
        (f"{frames['lost']:,}", "lost"),
        (
            f"{bytes_['sent'] / max(1, bytes_['all_frames']):.1%}",
            f"of all frame bytes sent ({bytes_['sent'] / 1e6:.1f} MB)",
        ),
        (f"{labels['spent']} of {labels['budget']}", "labels spent"),
        (f"{figures['seconds']:.0f} s", "for the whole circle"),
    ]
