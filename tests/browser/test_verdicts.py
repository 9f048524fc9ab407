"""Answers: given with a key, followed by the next frame, and never lost to a colleague, a broken line or a careless click."""

from __future__ import annotations

from typing import Any

from edgecase_cloud import review
from edgecase_cloud.catalogue import Review
from support import circle


def colleague_answers(desk: Any, number: int = 1) -> None:
    with desk.services.catalogue.session.begin() as session:
        saved = review.save_annotation(
            session,
            circle.frame_id(number),
            revision=0,
            verdict=Review.REJECTED,
            boxes=(),
            author="lee",
            now=circle.START,
        )
        assert isinstance(saved, review.Saved)


def test_accepting_saves_the_models_boxes_and_opens_the_next_frame_until_none_is_left(desk: Any) -> None:
    desk.open("/queue/next")
    for number in (1, 2):
        desk.arrived_at(number)
        desk.key("a")
    desk.arrived_at(3)
    assert "accepted; P goes back" in desk.page.locator("#state").inner_text()
    desk.key("a")
    desk.page.get_by_text("All done").wait_for()
    for number in (1, 2, 3):
        assert desk.saved(number).verdict == Review.ACCEPTED
        assert [(b["cls"], b["origin"]) for b in desk.saved(number).boxes] == [(3, "model"), (0, "model")]


def test_rejecting_saves_no_boxes(desk: Any) -> None:
    desk.frame(1)
    desk.page.locator("#reject").click()
    desk.arrived_at(2)
    assert (desk.saved(1).verdict, desk.saved(1).boxes) == (Review.REJECTED, [])


def test_back_shows_the_answer_just_given_and_a_second_one_replaces_it(desk: Any) -> None:
    desk.frame(1)
    desk.drag(400, 250, 520, 330)
    desk.key("s")
    desk.arrived_at(2)
    desk.key("p")
    desk.arrived_at(1)
    assert len(desk.shown()) == 3
    assert "corrected" in desk.page.locator(".badge").inner_text()
    desk.key("r")
    desk.arrived_at(2)
    assert [answer.verdict for answer in desk.answers(1)] == [Review.CORRECTED, Review.REJECTED]


def test_changed_boxes_are_not_accepted_as_the_models(desk: Any) -> None:
    desk.frame(1)
    desk.click(280, 180)
    desk.key("Delete", "a")
    assert "these differ" in desk.page.locator("#banner").inner_text()
    assert desk.answers(1) == []
    desk.page.get_by_role("button", name="Back to the model's").click()
    assert len(desk.shown()) == 2
    desk.key("a")
    desk.arrived_at(2)
    assert desk.saved(1).verdict == Review.ACCEPTED


def test_a_colleagues_answer_is_not_overwritten_unseen(desk: Any) -> None:
    desk.expected.append("409")
    desk.frame(1)
    colleague_answers(desk)
    desk.drag(400, 250, 520, 330)
    desk.key("s")
    banner = desk.page.locator("#banner")
    banner.wait_for()
    assert "lee rejected this frame while you looked at it" in banner.inner_text()
    assert len(desk.shown()) == 3, "one's own boxes are still there"
    assert [answer.author for answer in desk.answers(1)] == ["lee"]
    desk.page.get_by_role("button", name="Save mine over it").click()
    desk.arrived_at(2)
    assert [answer.verdict for answer in desk.answers(1)] == [Review.REJECTED, Review.CORRECTED]


def test_a_colleagues_answer_can_be_looked_at_instead(desk: Any) -> None:
    desk.expected.append("409")
    desk.frame(1)
    colleague_answers(desk)
    desk.key("a")
    desk.page.get_by_role("button", name="Show their answer").click()
    desk.page.get_by_text("by lee, revision 1").wait_for()


def test_leaving_with_unsaved_boxes_asks_first(desk: Any) -> None:
    asked: list[str] = []

    def stay(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    desk.frame(1)
    desk.drag(400, 250, 520, 330)
    desk.page.once("dialog", stay)
    with desk.page.expect_event("dialog"):
        desk.key("n")
    assert "not saved" in desk.page.locator("#state").inner_text()
    assert asked == ["beforeunload"]
    assert len(desk.shown()) == 3
    desk.key("z", "n")  # nothing to lose any more: no question
    desk.arrived_at(2)


def test_skipped_frames_come_again_at_the_end(desk: Any) -> None:
    desk.frame(1)
    desk.key("n")
    desk.arrived_at(2)
    desk.key("a")
    desk.arrived_at(3)
    desk.key("a")
    desk.arrived_at(1)


def test_boxes_outlive_a_cloud_that_does_not_answer(desk: Any) -> None:
    desk.expected.append("net::ERR_INTERNET_DISCONNECTED")
    desk.frame(1)
    desk.drag(400, 250, 520, 330)
    desk.page.context.set_offline(True)
    desk.key("s")
    desk.page.get_by_text("Not saved: the cloud does not answer").wait_for()
    assert len(desk.shown()) == 3
    desk.page.context.set_offline(False)
    desk.page.get_by_role("button", name="Try again").click()
    desk.arrived_at(2)
    assert len(desk.saved(1).boxes) == 3


def test_an_impatient_double_press_saves_once(desk: Any) -> None:
    desk.frame(1)
    desk.page.evaluate("() => { for (let i = 0; i < 3; i += 1) document.getElementById('accept').click(); }")
    desk.arrived_at(2)
    assert len(desk.answers(1)) == 1


def test_the_filter_goes_along_from_frame_to_frame(desk: Any) -> None:
    with desk.services.catalogue.session.begin() as session:
        circle.add_device(session, "van")
        circle.add_frame(desk.services, session, 5, device_id="van", score=0.1)
        circle.add_frame(desk.services, session, 6, device_id="van", score=0.05)
    desk.open("/queue/next?device=van")
    desk.arrived_at(5)
    assert "2 in this queue" in desk.page.locator("#left").inner_text()
    desk.key("a")
    desk.arrived_at(6)
    desk.key("r")
    desk.page.get_by_text("No frame matches").wait_for()
    assert "device=van" in desk.page.url
