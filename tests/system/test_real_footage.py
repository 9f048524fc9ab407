"""The same agent on real video with a real COCO detector: frames flagged, delivered byte for byte, shown in the review page."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from edgecase_agent import spool_files
from edgecase_models.bundle import pack
from system.conftest import SHARED, Circle

CLIP = SHARED / "footage" / "car-detection.mp4"
MODEL = SHARED / "weights" / "yolov8n.onnx"

pytestmark = pytest.mark.skipif(not (CLIP.exists() and MODEL.exists()), reason=f"no footage and weights in {SHARED}")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_frames_of_a_motorway_reach_the_review_page_byte_for_byte(circle: Circle) -> None:
    still = cv2.VideoCapture(str(CLIP)).read()[1]
    bundle = pack(
        MODEL, circle.folder / "coco.tar", name="coco", version="1", golden_pictures=[still[..., ::-1].copy()]
    )
    agent = circle.agent(
        "cam-1",
        str(CLIP),
        bundle.path,
        source={"uri": str(CLIP), "camera": "motorway", "live": False, "max_fps": 1},
        selection={"triggers": ["uncertainty", "audit"], "window_s": 2.0, "gap_s": 0.5},
        **{"selection.budget": {"frames_per_hour": 3600}},
    )
    enrolled = agent.config.read_text()
    agent.config.write_text(enrolled.replace('enrolment = "enrolment"\n', ""))
    agent.start()
    assert agent.wait(100) == 0, agent.log.read_text()
    spooled = {}
    for file in (agent.folder / "data" / "spool" / "frames").glob("*.jpg"):
        picture = file.read_bytes()[: spool_files.describe(file).size_bytes]
        spooled[file.stem] = hashlib.sha256(picture).hexdigest()
    assert len(spooled) > 3, "without a cloud the frames lie in the spool"

    agent.config.write_text(enrolled.replace('triggers = ["uncertainty", "audit"]', "triggers = []"))
    agent.start()
    assert agent.wait(120) == 0, agent.log.read_text()
    balance = agent.status()["balance"]
    assert balance["acknowledged"] == balance["kept"] == len(spooled), balance

    items = {item["id"]: item for item in circle.queue()}
    assert len(items) == balance["acknowledged"]
    for frame_id, digest in spooled.items():
        item = items[frame_id]
        jpeg = circle.hub.get(f"/api/v1/frames/{frame_id}/image").raise_for_status().content
        assert hashlib.sha256(jpeg).hexdigest() == item["sha256"] == digest
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert pixels.shape == (432, 768, 3)
        assert item["model_digest"] == bundle.digest
        assert item["reasons"], "every frame says why it was kept"
    assert any(candidate["score"] > 0.3 for item in items.values() for candidate in item["candidates"])
    page = circle.hub.get(f"/frames/{next(iter(spooled))}").raise_for_status().text
    assert "motorway" in page
