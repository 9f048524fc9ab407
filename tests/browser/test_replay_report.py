"""The replay's report in a real browser: its own sheet is let in, it asks for nothing, and nothing in it is out of place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecase_agent.replay import Options, replay
from edgecase_agent.replay_report import page
from edgecase_agent.source import open_source
from edgecase_agent.truths import read_truths
from edgecase_models.policy import Policy
from support.bundles import a_bundle
from support.pictures import a_folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    pictures, bundle = str(a_folder(folder / "pictures", 30)), a_bundle(folder / "tiny.tar")
    (folder / "gt.txt").write_text("\n".join(f"{number},{number // 9},20,20,60,60" for number in range(1, 31)))
    truths = read_truths(str(folder / "gt.txt"), pictures, bundle.manifest.classes, "red")
    policies = {
        name: Policy.model_validate({"selection": {"seed": seed, "window_s": 2}}) for seed, name in enumerate("ab")
    }
    recorded = replay(open_source(pictures), bundle, policies, Options(share=0.3), truths)
    (folder / "report.html").write_text(page(recorded))
    return folder / "report.html"


@pytest.fixture(params=[1280, 390])
def window(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": request.param, "height": 800})
    yield context.new_page()
    context.close()


def test_the_report_is_whole_by_itself(report: Path, window: Any) -> None:
    heard: list[str] = []
    window.on("console", lambda message: heard.append(message.text))
    window.on("pageerror", lambda error: heard.append(str(error)))
    window.on(
        "request", lambda request: heard.append(request.url) if request.url[:5] not in ("file:", "data:") else None
    )
    window.goto(report.as_uri())
    assert heard == []
    facts = window.evaluate(
        "() => ({ font: getComputedStyle(document.querySelector('h1')).fontSize,"
        " stroke: getComputedStyle(document.querySelector('figure .low, figure .seen')).strokeWidth,"
        " wide: document.documentElement.scrollWidth <= innerWidth,"
        " shown: [...document.querySelectorAll('details[open] figure')].every((f) => f.getBoundingClientRect().height > 60) })"
    )
    assert facts["font"] == "22px"
    assert facts["stroke"] in ("1.2px", "1.9px")
    assert facts["wide"]
    assert facts["shown"]
