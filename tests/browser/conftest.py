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
PATIENCE_S = 30  # a machine that trains a model beside the tests is slow, not broken
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
        self.page.goto(self.base + path, wait_until="domcontentloaded")
        if path.startswith("/frames"):
            self.ready()

    def frame(self, number: int, query: str = "") -> None:
        self.open(f"/frames/{circle.frame_id(number)}{query}")

    def ready(self) -> None:
        self.page.locator("body[data-ready]").wait_for()

    def arrived_at(self, number: int) -> None:
        """The window shows this frame, ready to work on."""
        self.page.wait_for_url(f"**/frames/{circle.frame_id(number)}*", wait_until="commit")
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
        return until(lambda: self.answers(number), within_s=PATIENCE_S, what=f"an answer to frame {number}")[-1]


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
def desk_over(data: Path, site: Site, page: Any) -> Iterator[Desk]:
    """A desk over a data folder, in a window that remembers nothing. When it is left, its console must have been clean."""
    services = circle.services_in(data)
    site.serve(services)
    desk = Desk(services, site.base, page)
    clear(page, site.base + "/healthz")

    def hear(message: Any) -> None:
        desk.noise.append(str(getattr(message, "text", message)))

    page.on("console", hear)
    page.on("pageerror", hear)
    try:
        yield desk
        assert [said for said in desk.noise if not any(known in said for known in desk.expected)] == []
    finally:
        page.remove_listener("console", hear)
        page.remove_listener("pageerror", hear)
        page.context.set_offline(False)
        services.catalogue.close()


def clear(page: Any, address: str) -> None:
    """Go to a plain page and forget everything; the test before may have left a page that was just going elsewhere."""

    from playwright.sync_api import Error

    def there() -> bool:
        try:
            page.goto(address, wait_until="commit")
            page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        except Error:  # another navigation overtook this one
            return False
        return True

    until(there, within_s=PATIENCE_S, what="a clean window")


@contextmanager
def window(chromium: Any, **options: Any) -> Iterator[Any]:
    """One window, for all tests that want such a one: opening it costs more than most of them."""
    context = chromium.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    yield page
    context.close()


@pytest.fixture(scope="session")
def wide(chromium: Any) -> Iterator[Any]:
    with window(chromium, viewport={"width": 1280, "height": 760}) as page:
        yield page


@pytest.fixture(scope="session")
def narrow(chromium: Any) -> Iterator[Any]:
    size = {"width": 390, "height": 780}
    with window(chromium, viewport=size, has_touch=True, is_mobile=True, color_scheme="dark") as page:
        yield page


@pytest.fixture
def desk(stocked: Path, site: Site, wide: Any, tmp_path: Path) -> Iterator[Desk]:
    with desk_over(Path(shutil.copytree(stocked, tmp_path / "data")), site, wide) as made:
        yield made


@pytest.fixture
def full_desk(full: Path, site: Site, wide: Any, tmp_path: Path) -> Iterator[Desk]:
    with desk_over(Path(shutil.copytree(full, tmp_path / "data")), site, wide) as made:
        yield made


@pytest.fixture
def phone(full: Path, site: Site, narrow: Any, tmp_path: Path) -> Iterator[Desk]:
    with desk_over(Path(shutil.copytree(full, tmp_path / "data")), site, narrow) as made:
        yield made
