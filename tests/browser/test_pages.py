"""The pages around the editor: alive without a reload, workable by keys and on a phone, quiet in the console."""

from __future__ import annotations

from typing import Any

from edgecase_cloud import label_queue
from edgecase_cloud.batch import BatchRules
from edgecase_cloud.catalogue import Job, JobState
from support import circle
from support.wait import until

PAGES = ("/", "/queue", "/devices", "/datasets", "/jobs", "/jobs/1", "/releases", f"/frames/{circle.frame_id(1)}")


def test_the_overview_follows_the_work_without_a_reload(full_desk: Any) -> None:
    full_desk.open("/")
    full_desk.page.evaluate("window.same = true")
    assert full_desk.page.locator(".station.calls strong").inner_text() == "12"
    with full_desk.services.catalogue.session.begin() as session:
        job = session.query(Job).filter_by(state=JobState.RUNNING).one()
        job.stage, job.progress = "gate", 0.4
        session.get_one(circle.Frame, circle.frame_id(1)).review = "rejected"
    station = full_desk.page.locator(".station.runs strong")
    until(lambda: station.inner_text() == "gate 40 %", within_s=90, what="the new stage")
    assert full_desk.page.locator(".station.calls strong").inner_text() == "11"
    assert full_desk.page.locator("#waiting").inner_text().startswith("11")
    assert full_desk.page.evaluate("window.same") is True


def test_the_queue_is_walked_by_arrows_and_opened_by_enter(full_desk: Any) -> None:
    full_desk.open("/queue")
    full_desk.key("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp")
    focused = full_desk.page.evaluate("[...document.querySelectorAll('[data-card]')].indexOf(document.activeElement)")
    assert focused == 0
    address = full_desk.page.evaluate("document.activeElement.href")
    full_desk.key("Enter")
    full_desk.page.wait_for_url(address, wait_until="commit")
    full_desk.ready()


def test_a_filter_acts_when_it_is_chosen_and_stands_in_the_url(full_desk: Any) -> None:
    full_desk.open("/queue")
    full_desk.page.get_by_label("Device").select_option("van-7")
    full_desk.page.wait_for_url("**/queue?device=van-7", wait_until="commit")
    until(lambda: full_desk.page.locator("[data-card]").count() == 3, what="the frames of that device")
    full_desk.page.get_by_label("Order").select_option("time")
    full_desk.page.wait_for_url("**/queue?order=time&device=van-7", wait_until="commit")
    full_desk.page.get_by_role("link", name="clear").click()
    full_desk.page.wait_for_url("**/queue", wait_until="commit")


def test_a_reviewer_who_starts_with_the_first_walks_down_the_batch_and_sees_why(full_desk: Any) -> None:
    label_queue.look_at_frames(full_desk.services.catalogue)
    rules = BatchRules(frames=6, explore_share=0.25)
    batch = label_queue.reorder(full_desk.services.catalogue, rules, circle.START)
    full_desk.open("/queue")
    places = full_desk.page.locator(".place").all_inner_texts()
    assert [place.split(" · ")[0] for place in places[:6]] == ["1", "2", "3", "4", "5", "6"]
    for key, pick in zip("gnn", batch.picks, strict=False):
        full_desk.key(key)
        full_desk.page.wait_for_url(f"**/frames/{pick.id}*", wait_until="commit")
        full_desk.ready()
        assert pick.reason in full_desk.page.locator("#standing").inner_text()


def test_a_training_is_started_by_a_button(desk: Any) -> None:
    desk.open("/jobs")
    desk.page.get_by_role("button", name="Retrain now").click()
    desk.page.wait_for_url("**/jobs/1", wait_until="commit")
    desk.page.get_by_text("The learning worker takes it up").wait_for()


def test_a_cloud_that_stops_answering_is_told_on_the_page(full_desk: Any) -> None:
    full_desk.expected.append("net::ERR_INTERNET_DISCONNECTED")
    full_desk.open("/")
    full_desk.page.context.set_offline(True)
    full_desk.page.get_by_text("the cloud does not answer").wait_for()
    full_desk.page.context.set_offline(False)
    full_desk.page.get_by_text("the cloud does not answer").wait_for(state="hidden")


def test_nothing_reaches_over_the_edge_of_a_phone(phone: Any) -> None:
    for path in PAGES:
        phone.open(path)
        wide, window = phone.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window, path


def test_a_thumb_selects_moves_and_answers(phone: Any) -> None:
    phone.frame(0)
    kept = phone.shown()
    box = max(kept, key=lambda each: (each[1][2] - each[1][0]) * (each[1][3] - each[1][1]))[1]
    x, y = phone.at((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    phone.page.touchscreen.tap(x, y)
    phone.page.locator("g.box.selected").wait_for()
    phone.page.locator("#reject").tap()
    assert phone.saved(0).verdict == "rejected"


def test_the_page_can_be_read_without_its_script(full_desk: Any, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(full_desk.base + "/queue?device=van-7")
    assert page.locator("[data-card]").count() == 3
    page.get_by_label("State").select_option("any")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**review=any**", wait_until="commit")
    context.close()
