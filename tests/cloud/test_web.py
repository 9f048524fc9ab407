"""What a person at the pages is promised: every state has a page that says what to do, and nothing a device says becomes markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from edgecase_cloud import label_queue, review, reviewable
from edgecase_cloud.batch import BatchRules
from edgecase_cloud.catalogue import Bundle, Job, JobState, Review
from edgecase_cloud.services import Services
from edgecase_cloud.web import outcome, words
from edgecase_cloud.web.app import STATIC, create_app
from support import circle

PAGES = ("/", "/queue", "/devices", "/datasets", "/jobs", "/releases")
RULES = BatchRules(frames=1, explore_share=0.0, cold_labels=0)
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """What of a page could run or load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in {"src", "href", "action"} and value]
        self.inline += [f"{tag} {key}" for key in known if key == "style" or key.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in known and known.get("type") != "application/json"):
            self.inline.append(tag)


def client_of(services: Services) -> TestClient:
    return TestClient(create_app(services), base_url="http://127.0.0.1:8700", follow_redirects=False)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    services = circle.services_in(tmp_path_factory.mktemp("full"))
    circle.fill(services, 9)
    yield client_of(services)
    services.catalogue.close()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = circle.services_in(tmp_path)
    yield made
    made.catalogue.close()


# ---- every page in every state


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/", "edgecase-cloud device add"),
        ("/", "No frame has arrived yet"),
        ("/queue", "edgecase-cloud device add"),
        ("/devices", "edgecase-cloud device add"),
        ("/datasets", "edgecase-cloud dataset import DIR --name golden --kind golden"),
        ("/jobs", "Twenty answers are a fair start"),
        ("/releases", "edgecase-cloud model import"),
        ("/queue/next", None),
    ],
)
def test_an_empty_cloud_says_on_every_page_what_to_do(services: Services, path: str, says: str | None) -> None:
    response = client_of(services).get(path)
    if says is None:
        assert (response.status_code, response.headers["location"]) == (303, "/queue")
    else:
        assert response.status_code == 200
        assert says in response.text


@pytest.mark.parametrize("path", [*PAGES, "/jobs/1", "/jobs/2", "/jobs/3", f"/frames/{circle.frame_id(1)}", "/nothing"])
def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(full: TestClient, path: str) -> None:
    response = full.get(path)
    page = Page(response.text)
    assert response.status_code == (404 if path == "/nothing" else 200)
    assert page.inline == []
    assert [a for a in page.addresses if urlsplit(a).netloc or not a.startswith(("/", "#", "?"))] == []
    assert page.tags.count("h1") == 1


def test_every_address_on_every_page_leads_somewhere(full: TestClient) -> None:
    known: set[str] = set(PAGES)
    asked: set[str] = set()
    while known - asked:
        path = min(known - asked)
        asked.add(path)
        response = full.get(path)
        assert response.status_code in {200, 303, 307}, path
        if response.headers.get("content-type", "").startswith("text/html") and len(asked) < 60:
            known |= {a for a in Page(response.text).addresses if a.startswith("/")}
    assert {"/jobs/1", f"/frames/{circle.frame_id(1)}"} <= asked


def test_scripts_load_nothing_from_elsewhere() -> None:
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|\beval\(|new Function|innerHTML =", text), file.name


@pytest.mark.parametrize("path", PAGES)
def test_a_query_of_no_meaning_is_an_error_page_not_a_crash(full: TestClient, path: str) -> None:
    assert full.get(f"{path}?offset=-1&limit=x").status_code in {200, 422}


# ---- nothing a device says becomes markup


def test_whatever_devices_and_models_are_called_stays_text(services: Services) -> None:
    reasons = [{"strategy": EVIL, "score": 1.0, "threshold": 0.5, "propensity": 1.0}]
    with services.catalogue.session.begin() as session:
        circle.add_classes(session, [EVIL, "</script>"])
        circle.add_device(session, status={"update": EVIL, "agent_version": EVIL, "running_digest": EVIL})
        circle.add_frame(services, session, 1, camera=EVIL, reasons=reasons, boxes=[[0, 0.9, 1.0, 1.0, 50.0, 50.0]])
        now = datetime.now(UTC)
        session.add(
            Job(
                kind="retrain",
                state=JobState.FAILED,
                created_at=now,
                request={EVIL: EVIL},
                result={EVIL: EVIL},
                stage=EVIL,
                progress=0.0,
                error=EVIL,
            )
        )
        gate = {
            "passed": False,
            "reasons": [EVIL],
            "incumbent": {},
            "candidate": {"per_class": {EVIL: {"map50_95": 0.1}}},
        }
        session.add(Bundle(digest="a" * 64, name=EVIL, version=EVIL, created_at=now, path="x", gate=gate))
    client = client_of(services)
    for path in (*PAGES, "/jobs/1", f"/frames/{circle.frame_id(1)}", f"/queue?camera={EVIL}", f"/{EVIL}"):
        page = Page(client.get(path).text)
        assert page.inline == [], path
        assert "x" not in page.addresses
        assert page.tags.count("script") <= 2


# ---- the queue and the frame


def test_the_url_is_the_state_of_the_queue(full: TestClient) -> None:
    text = full.get("/queue?device=gate-north&class=car&order=time").text
    assert '<option value="gate-north" selected>' in text
    assert '<option value="car" selected>' in text
    assert '<option value="time" selected>' in text
    cards = re.findall(r'href="(/frames/[0-9a-f]{32}[^"]*)"', text)
    assert cards
    assert all(card.endswith("?device=gate-north&amp;class=car&amp;order=time") for card in cards)


def test_the_next_frame_stays_under_the_filter(full: TestClient) -> None:
    response = full.get("/queue/next?device=van-7&order=time")
    assert response.status_code == 303
    assert re.fullmatch(r"/frames/[0-9a-f]{32}\?device=van-7&order=time", response.headers["location"])


def test_after_the_last_answer_the_queue_says_so_and_names_the_next_step(services: Services) -> None:
    with services.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        circle.add_frame(services, session, 1)
        known = {"verdict": Review.ACCEPTED, "boxes": (), "author": "kim", "now": circle.START}
        review.save_annotation(session, circle.frame_id(1), revision=0, **known)
    client = client_of(services)
    assert client.get(f"/queue/next?after={circle.frame_id(1)}").headers["location"] == "/queue"
    assert "All done" in client.get("/queue").text
    assert "No frame matches" in client.get("/queue?device=nobody").text
    frame = client.get(f"/frames/{circle.frame_id(1)}").text
    assert "accepted" in frame
    assert "by kim, revision 1" in frame


def test_a_frame_says_in_words_why_it_is_here(full: TestClient) -> None:
    text = full.get(f"/frames/{circle.frame_id(3)}").text
    assert "Drawn by lot" in text
    assert "had a chance of 1.2 %" in text


def test_a_frame_says_when_the_model_that_found_it_is_not_the_newest(services: Services) -> None:
    def bundle(digest: str, release: int | None) -> Bundle:
        at = circle.START + timedelta(hours=release or 0)
        return Bundle(digest=digest, name="n", version=digest[:4], release=release, created_at=at, path="")

    with services.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        session.add_all([bundle("a" * 64, 1), bundle("b" * 64, 3), bundle("c" * 64, None)])
        for number, digest in enumerate("abcd"):
            circle.add_frame(services, session, number, model_digest=digest * 64)
    texts = [client_of(services).get(f"/frames/{circle.frame_id(number)}").text for number in range(4)]
    assert "So release 1 saw it; release 3 is out since" in texts[0]
    assert not [text for text in texts[1:] if "is out since" in text]


def test_the_queue_and_a_frame_say_why_they_stand_where_they_stand(services: Services) -> None:
    thumbnail = circle.plain_jpeg()
    with services.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        for number in range(1, 4):
            circle.add_frame(services, session, number, score=number, thumbnail_jpeg=thumbnail if number > 1 else b"")
    label_queue.look_at_frames(services.catalogue)
    (pick, *_) = label_queue.reorder(services.catalogue, RULES, circle.START).picks
    client = client_of(services)
    text = client.get("/queue").text
    assert re.findall(r'<span class="place[^>]*>(.*?)</span>', text) == ["1 · best value", "duplicate"]
    assert pick.reason in html.unescape(text)
    assert '<option value="batch" selected>' in text
    assert pick.reason in html.unescape(client.get(f"/frames/{pick.id}").text)
    repeat = client.get(f"/frames/{circle.frame_id(2)}").text
    assert "so it stands last" in repeat
    assert f'href="/frames/{circle.frame_id(3)}"' in repeat
    assert "Behind the batch" in client.get(f"/frames/{circle.frame_id(1)}").text


def test_a_frame_shows_what_was_before_and_after_it_and_says_of_those_that_they_need_no_label(
    services: Services,
) -> None:
    pick, beside = circle.frame_id(1), circle.frame_id(2)
    with services.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        circle.add_frame(services, session, 1)
        reasons = [{"strategy": "context", "score": -1.5, "threshold": 0.0}]
        circle.add_frame(services, session, 2, reasons=reasons, context_of=pick, review=Review.CONTEXT, score=0.0)
    client = client_of(services)
    page = client.get(f"/frames/{pick}?order=time").text
    assert f'<a href="/frames/{beside}?order=time"><img src="/api/v1/frames/{beside}/thumbnail"' in page
    assert f'<a href="/frames/{pick}?order=time" aria-current="page">' in page
    assert "-1.5 s" in page
    page = client.get(f"/frames/{beside}").text
    assert "need not be labelled" in page
    assert "-1.50 s from it" in page
    assert f"/frames/{beside}" not in client.get("/queue").text
    assert f"/frames/{beside}" in client.get("/queue?review=context").text
    assert client.get(f"/api/v1/frames/{beside}").json()["frame"]["context_of"] == pick


def test_a_reason_is_text_whatever_a_class_is_called(services: Services) -> None:
    with services.catalogue.session.begin() as session:
        circle.add_classes(session, ["car", EVIL])
        circle.add_device(session)
        for number in range(1, 9):
            boxes = [[0, 0.9, 1.0, 1.0, 50.0, 50.0]] * 9 + [[1, 0.3, 1.0, 1.0, 50.0, 50.0]]
            circle.add_frame(services, session, number, boxes=boxes)
    batch = label_queue.reorder(services.catalogue, BatchRules(), circle.START)
    pick = next(pick for pick in batch.picks if "alert(1)" in pick.reason)
    for path in ("/queue", f"/frames/{pick.id}"):
        assert Page(client_of(services).get(path).text).inline == []


def test_the_jobs_page_shows_the_gates_comparison(full: TestClient) -> None:
    text = full.get("/jobs/1").text
    assert "overall mAP50-95 0.341 -&gt; 0.478 (+0.137)" in text
    assert "night-rain" in text
    assert "fewer than 30 objects" in text


def test_a_failed_job_says_why(full: TestClient) -> None:
    assert "the disk is full; free 2 GB and start it again" in full.get("/jobs/2").text


def test_releases_name_the_devices_that_run_them_and_tell_of_models_from_elsewhere(services: Services) -> None:
    with services.catalogue.session.begin() as session:
        circle.add_device(session, "stranger", running_digest="c" * 64)
        circle.add_device(session, "runner", running_digest=circle.STARTER)
        session.add(
            Bundle(
                digest=circle.STARTER, name="street", version="1", release=1, created_at=circle.START, path="x", gate={}
            )
        )
    text = client_of(services).get("/releases").text
    assert re.search(r'<b class="release">1</b>.*?runner', text, re.DOTALL)
    assert "<b>stranger</b> runs" in text


# ---- looks


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground_by_day_and_by_night(theme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 at least."""
    light, dark = re.findall(r":root \{(.*?)\}", (STATIC / "edgecase.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light if theme == "light" else dark))
    pairs = [
        (text, ground)
        for text in ("ink", "soft", "accent", "call", "good", "warn", "bad")
        for ground in ("paper", "sheet")
    ]
    pairs += [("accent-ink", "accent"), ("call", "call-wash"), ("bad", "bad-wash"), ("accent", "accent-wash")]
    for text, ground in pairs:
        high, low = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


# ---- words


def test_stages_before_the_present_one_are_done_and_later_ones_have_not_begun() -> None:
    job = Job(state=JobState.RUNNING, stage="export", progress=0.5)
    assert outcome.stage_progress(job) == [
        ("dataset", 1.0),
        ("train", 1.0),
        ("export", 0.5),
        ("gate", 0.0),
        ("release", 0.0),
    ]
    assert {share for _, share in outcome.stage_progress(Job(state=JobState.DONE, stage="gate", progress=0.0))} == {1.0}
    assert {share for _, share in outcome.stage_progress(Job(state=JobState.QUEUED, stage="", progress=0.0))} == {0.0}


@pytest.mark.parametrize(
    ("state", "result", "says"),
    [
        (JobState.RUNNING, {"release": 3}, "running"),
        (JobState.FAILED, {}, "failed"),
        (JobState.DONE, {"passed": True, "released": True, "release": 3}, "release 3"),
        (JobState.DONE, {"passed": False, "released": False}, "not passed"),
        (JobState.DONE, {"passed": True, "released": False}, "not released"),
    ],
)
def test_a_job_that_is_done_says_what_came_of_it(state: JobState, result: dict[str, Any], says: str) -> None:
    assert outcome.conclusion(Job(state=state, result=result)) == says


def test_the_loss_falls_from_left_to_right_and_broken_numbers_are_no_curve() -> None:
    losses = outcome.losses({"epochs": [{"epoch": n, "losses": {"box": 4 - n, "cls": 1.0}} for n in (1, 2, 3)]})
    assert losses == ((1, 4.0), (2, 3.0), (3, 2.0))
    assert outcome.curve(losses) == "0.0,0.0 50.0,25.0 100.0,50.0"
    assert outcome.curve(outcome.losses({"epochs": [{"epoch": 1, "losses": {"box": float("nan")}}]})) == ""
    assert outcome.losses({}) == ()


@pytest.mark.parametrize(
    ("kind", "subject", "detail", "line"),
    [
        ("release", "a" * 64, {"release": 2, "name": "street", "version": "v2"}, "number 2: street v2"),
        ("job", "7", {"state": "failed", "error": "disk full"}, "7 failed: disk full"),
        ("dead letter", "gate", {"error": "no JSON"}, "gate: a message was set aside: no JSON"),
        ("forged topic", "gate", {"claims": "van"}, "gate spoke as van; dropped"),
        ("forged topic", "gate", {"reason": "publish", "topic": "up/van"}, "gate may not publish up/van"),
        ("certificate refused", "", {"reason": "no certificate"}, "someone: no certificate"),
        ("forgotten", "cam-1", {"frames": 3}, "3 frames of cam-1"),
        (
            "shared identity",
            "cam-1",
            {"reason": "two runs of its agent are alive"},
            "cam-1: two runs of its agent are alive",
        ),
        ("something new", "b" * 64, {}, "b" * 12),
    ],
)
def test_what_happened_is_told_in_a_line(kind: str, subject: str, detail: dict[str, Any], line: str) -> None:
    assert words.happened(kind, subject, detail) == line


def test_a_gates_report_of_another_make_is_left_out() -> None:
    assert outcome.gate_view({}) is None
    assert outcome.gate_view({"passed": True}) is None
    assert outcome.gate_view({"passed": True, "incumbent": None, "candidate": {}}) is None


def test_a_class_that_only_one_model_was_measured_on_has_no_change() -> None:
    view = outcome.gate_view(
        {"passed": False, "incumbent": {"per_class": {"car": {"map50_95": 0.5, "count": 9}}}, "candidate": {}}
    )
    assert view is not None
    assert [(row.name, row.incumbent, row.candidate, row.change) for row in view.classes] == [("car", 0.5, None, None)]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.number(13299), "13\u202f299"),
        (words.bytes_(999), "999 B"),
        (words.bytes_(4_700_000), "4.7 MB"),
        (words.bytes_(311e6), "311 MB"),
        (words.percent(0.0123), "1.2 %"),
        (words.percent(0.42), "42 %"),
        (words.ago(None), "never"),
        (words.ago(circle.START, circle.START + timedelta(minutes=3)), "3 min ago"),
        (words.duration(circle.START, circle.START + timedelta(seconds=725)), "12 min 05 s"),
        (words.duration(None, None), "—"),
        (
            words.explain(reviewable.Reason("disagreement", 1.0, 0.0, 0.01)),
            "Two looks at this picture disagree about 1 box.",
        ),
        (words.explain(reviewable.Reason("disagreement", 0.0, 0.0, 0.01)), "Both looks report the same boxes."),
        (words.chip("my_own"), "my own"),
        (
            words.explain(reviewable.Reason("my_own", 0.5, 0.25, 1.0)),
            "The strategy “my_own” measured 0.50. From 0.25 on it was worth sending.",
        ),
        (words.explain(reviewable.Reason("{score}", 0.5, 0.0, 1.0)), "The strategy “{score}” measured 0.50."),
    ],
)
def test_numbers_read_as_people_write_them(shown: str, expected: str) -> None:
    assert shown == expected
