"""A desk to review at: the real pages over a real catalogue, in a real Chromium. Skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgecase_cloud.catalogue import Annotation
from edgecase_cloud.services import Services
from support import circle
from support.wait import until

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-device-scale-factor=1"]


@dataclass
class Desk:
    """One cloud's pages and one browser window; `noise` is all that its console said."""

    services: Services
    base: str
    page: Any
    noise: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(self.base + path)
        if path.startswith("/frames"):
            self.ready()

    def frame(self, number: int, query: str = "") -> None:
        self.open(f"/frames/{circle.frame_id(number)}{query}")

    def ready(self) -> None:
        self.page.locator("body[data-ready]").wait_for()

    def arrived_at(self, number: int) -> None:
        """The window shows this frame, ready to work on."""
        self.page.wait_for_url(f"**/frames/{circle.frame_id(number)}*")
        self.ready()

    # ---- in pixels of the picture

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the picture lies on the screen."""
        point = self.page.evaluate(
            "([x, y]) => { const p = new DOMPoint(x, y).matrixTransform(document.getElementById('editor').getScreenCTM());"
            " return [p.x, p.y]; }",
            [x, y],
        )
        return point[0], point[1]

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def drag(self, x1: float, y1: float, x2: float, y2: float, button: str = "left") -> None:
        start, end = self.at(x1, y1), self.at(x2, y2)
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down(button=button)
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        mouse.move(*end)
        mouse.up(button=button)

    def key(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)

    # ---- what is shown, what was saved

    def shown(self, kind: str = ":not(.candidate)") -> list[tuple[int, list[float]]]:
        """(colour number, [x1, y1, x2, y2]) of the boxes in the picture."""
        return self.page.evaluate(  # type: ignore[no-any-return]
            "(kind) => [...document.querySelectorAll(`g.box${kind}`)].map((g) => { const r = g.querySelector('.line');"
            " const n = (k) => Number(r.getAttribute(k)); const round = (v) => Math.round(v * 10) / 10;"
            " return [Number([...g.classList].find((c) => /^k\\d/.test(c)).slice(1)),"
            " [n('x'), n('y'), n('x') + n('width'), n('y') + n('height')].map(round)]; })",
            kind,
        )

    def answers(self, number: int) -> list[Annotation]:
        with self.services.catalogue.session() as session:
            rows = session.query(Annotation).filter_by(frame_id=circle.frame_id(number)).order_by(Annotation.revision)
            return list(rows)

    def saved(self, number: int) -> Annotation:
        """The newest answer, as soon as there is one."""
        return until(lambda: self.answers(number), what=f"an answer to frame {number}")[-1]


@dataclass
class Site:
    """The pages on a free loopback port, over whichever cloud `serve` names."""

    base: str
    app: Any

    def serve(self, services: Services) -> None:
        self.app.state.services = services


@pytest.fixture(scope="session")
def site(stocked: Path) -> Iterator[Site]:
    import uvicorn

    from edgecase_cloud.web.app import create_app

    app = create_app(circle.services_in(stocked))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listener.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium, or set CHROMIUM to its path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with three plain frames, of which each test gets a copy."""
    data = tmp_path_factory.mktemp("stocked") / "data"
    services = circle.services_in(data)
    with services.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        for number in range(1, 4):
            circle.add_frame(services, session, number, score=1.0 - number / 10)
    services.catalogue.close()
    return data


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the whole circle at work, of which each test gets a copy."""
    data = tmp_path_factory.mktemp("full") / "data"
    services = circle.services_in(data)
    circle.fill(services, 12)
    services.catalogue.close()
    return data


@contextmanager
def desk_over(data: Path, site: Site, chromium: Any, **window: Any) -> Iterator[Desk]:
    """A desk over a data folder. When it is left, its console must have been clean."""
    services = circle.services_in(data)
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 760}, **window})
    site.serve(services)
    try:
        page = context.new_page()
        page.set_default_timeout(15_000)
        desk = Desk(services, site.base, page)
        page.on("console", lambda message: desk.noise.append(message.text))
        page.on("pageerror", lambda error: desk.noise.append(str(error)))
        yield desk
        context.close()
        assert [said for said in desk.noise if not any(known in said for known in desk.expected)] == []
    finally:
        services.catalogue.close()


@pytest.fixture
def desk(stocked: Path, site: Site, chromium: Any, tmp_path: Path) -> Iterator[Desk]:
    with desk_over(Path(shutil.copytree(stocked, tmp_path / "data")), site, chromium) as made:
        yield made


@pytest.fixture
def full_desk(full: Path, site: Site, chromium: Any, tmp_path: Path) -> Iterator[Desk]:
    with desk_over(Path(shutil.copytree(full, tmp_path / "data")), site, chromium) as made:
        yield made


@pytest.fixture
def phone(full: Path, site: Site, chromium: Any, tmp_path: Path) -> Iterator[Desk]:
    window = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    with desk_over(Path(shutil.copytree(full, tmp_path / "data")), site, chromium, **window) as made:
        yield made
