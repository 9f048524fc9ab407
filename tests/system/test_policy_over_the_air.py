"""A policy that is published at the real cloud reaches a real agent within moments, and its end is the end of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.bundles import a_bundle
from system.conftest import Circle

DARK = """
name = "dark"
selection.triggers = ["campaign"]
selection.window_s = 1.0
[[campaigns]]
name = "everything"
when = "luma >= 0"
cohort = ["cam-*"]
quota_per_day = 5
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_policy_is_published_followed_refused_and_withdrawn_while_the_agent_runs(circle: Circle) -> None:
    bundle = a_bundle(circle.folder / "model.tar")
    source = {"uri": "sim://street?width=160&height=90&fps=5", "camera": "front"}
    quick = {"uplink": {"status_every_s": 0.2}, "update": {"poll_s": 3600}}  # it is the poke that brings the news
    agent = circle.agent("cam-1", "", bundle.path, source=source, selection={"triggers": []}, **quick)
    agent.start()

    def follower() -> dict[str, Any]:
        return json.loads(circle.cloud.run("policy", "show", "--json").stdout)["devices"][0]

    def publish(name: str, content: str) -> str:
        file = circle.folder / name
        Path(file).write_text(content)
        done = circle.cloud.run("policy", "publish", str(file), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["digest"]

    own = circle.until(lambda: follower()["digest"], 60, "the agent to report")
    digest = publish("dark.toml", DARK)
    circle.until(lambda: follower()["digest"] == digest, 30, "the policy to be followed")
    assert follower()["cohort"] == "default"
    circle.until(circle.queue, 30, "a frame of the campaign")
    assert circle.queue()[0]["reasons"][0]["strategy"] == "campaign:everything"

    publish("novelty.toml", 'name = "n"\nselection.strategy = "novelty"\n')
    circle.until(lambda: 'novelty" needs features' in follower()["problem"], 30, "the refusal")
    assert follower()["digest"] == digest
    assert 'novelty" needs features' in agent.status()["update"]["policy_refused"]

    assert circle.cloud.run("policy", "withdraw").returncode == 0
    circle.until(lambda: follower()["digest"] == own and not follower()["problem"], 30, "its own policy again")
    assert agent.stop() == 0, agent.log.read_text()
