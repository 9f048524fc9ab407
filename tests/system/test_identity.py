"""Who a device is, with both halves as they are: certificates come and go while frames flow, and a person is told what to do."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgecase_agent.identity import Identity
from edgecase_agent.status import UplinkReport, overview
from edgecase_models import wire
from support.bundles import a_bundle
from system.conftest import Agent, Circle, a_circle

LIFE_DAYS = 90 / 86_400  # renewed after 60 s


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_certificates_are_renewed_revoked_and_given_anew_while_frames_flow() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="identity-") as folder,
        a_circle(Path(folder), EDGECASE_CLOUD_CERTIFICATE_DAYS=str(LIFE_DAYS)) as circle,
    ):
        agent = an_agent(circle)
        agent.start()
        certificate = agent.folder / "enrolment" / "certificate.pem"
        first, ends = certificate.read_text(), Identity(certificate.parent).validity().ends
        circle.until(lambda: balance(agent).acknowledged, 60, "the first frames")

        circle.until(lambda: wire.now() > ends, 120, "the first certificate to end")
        assert "certificate renewed" in happened(circle)
        assert certificate.read_text() != first
        before = balance(agent).acknowledged
        circle.until(lambda: balance(agent).acknowledged > before, 60, "frames after that")
        assert uplink(agent).connected, "all the time"
        assert "broker connection lost" not in agent.log.read_text()

        assert circle.cloud.run("device", "revoke", "cam-1").returncode == 0
        circle.until(lambda: not uplink(agent).connected, 30, "the device to be cut off")
        circle.until(lambda: "enrol it again" in uplink(agent).refused, 60, "the uplink to say why")
        circle.until(lambda: "revoked; add the device again" in problem(agent), 90, "its cure")
        alone = balance(agent)
        circle.until(lambda: balance(agent).kept > alone.kept, 60, "frames to be kept all the same")
        assert {"certificate refused", "renewal refused"} <= set(happened(circle))

        shutil.rmtree(agent.folder / "enrolment")
        circle.enrol("cam-1")
        circle.until(lambda: balance(agent).acknowledged > alone.acknowledged, 90, "what waited to be delivered")
        circle.until(lambda: problem(agent) == "", 90, "the problem to be told no more")
        assert agent.stop() == 0, agent.log.read_text()
        left = balance(agent)
        assert left.kept == left.acknowledged + left.spooled, left


def an_agent(circle: Circle) -> Agent:
    return circle.agent(
        "cam-1",
        "",
        a_bundle(circle.folder / "model.tar", "seed").path,
        source={"uri": "sim://street?width=160&height=90&fps=5", "camera": "front"},
        selection={"triggers": ["audit"], "window_s": 1.0, "repeat_bits": -1},
        **{"selection.budget": {"frames_per_hour": 3600}},
        spool={"min_free_bytes": 0},
        uplink={"status_every_s": 0.2},
    )


def balance(agent: Agent) -> wire.Balance:
    return overview(agent.folder / "data").balance


def uplink(agent: Agent) -> UplinkReport:
    told = overview(agent.folder / "data").uplink
    assert told is not None
    return told


def problem(agent: Agent) -> str:
    told = overview(agent.folder / "data").update
    return "" if told is None else told.identity_problem


def happened(circle: Circle) -> list[str]:
    told: list[dict[str, Any]] = json.loads(circle.cloud.run("audit", "--json").stdout)
    return [event["kind"] for event in told]
