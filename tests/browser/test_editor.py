"""The box editor, by mouse and by keys: what a person does to a picture is what is saved, and nothing else."""

from __future__ import annotations

from typing import Any

from edgecase_cloud.catalogue import Frame, Review
from support import circle

CAR, PERSON = [200, 120, 360, 240], [60, 100, 100, 200]
TRUCK = [440, 90, 560, 200]  # the unlikely one, score 0.17


def boxes(answer: Any) -> list[tuple[int, list[float], str]]:
    return [(b["cls"], [b["x1"], b["y1"], b["x2"], b["y2"]], b["origin"]) for b in answer.boxes]


def near(found: list[float], wanted: list[float], within: float = 1.0) -> bool:
    return all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))


def test_a_frame_opens_with_the_models_boxes_and_the_unlikely_ones_dashed(desk: Any) -> None:
    desk.frame(1)
    assert sorted(desk.shown()) == [[0, PERSON], [3, CAR]]
    assert desk.shown(".candidate") == [[5, TRUCK]]
    assert desk.page.locator("#box-count").inner_text() == "2 and 1 unlikely"
    assert "expects 0.50 wrong or missing boxes" in desk.page.locator(".why").first.inner_text()


def test_what_was_painted_over_on_the_device_is_marked_and_in_nobodys_way(desk: Any) -> None:
    with desk.services.catalogue.session.begin() as session:
        row = session.get_one(Frame, circle.frame_id(1))
        row.redaction = {
            "mode": "blur",
            "method": "fill",
            "count": 1,
            "boxes": [[192, 112, 368, 256]],
            "classes": ["car"],
        }
    desk.frame(1)
    (marked,) = desk.page.locator("rect.redacted").all()
    assert [int(marked.get_attribute(name)) for name in ("x", "y", "width", "height")] == [192, 112, 176, 144]
    assert "1 area painted over" in desk.page.locator("#redaction").inner_text()
    desk.click(280, 180)
    assert desk.page.locator("g.box.selected").count() == 1
    desk.frame(2)
    assert desk.page.locator("rect.redacted, #redaction").count() == 0


def test_a_drawn_box_is_saved_where_it_was_drawn(desk: Any) -> None:
    desk.frame(1)
    desk.key("4")  # car
    desk.drag(400, 250, 520, 330)
    desk.key("s")
    desk.arrived_at(2)
    answer = desk.saved(1)
    assert answer.verdict == Review.CORRECTED
    cls, place, origin = boxes(answer)[2]
    assert (cls, origin) == (3, "human")
    assert near(place, [400, 250, 520, 330])


def test_a_box_is_moved_by_dragging_it_and_stays_inside_the_picture(desk: Any) -> None:
    desk.frame(1)
    desk.click(280, 230)
    desk.drag(280, 180, 310, 200)
    moved = next(place for cls, place in desk.shown() if cls == 3)
    assert near(moved, [230, 140, 390, 260])
    desk.drag(300, 200, 900, 600)
    moved = next(place for cls, place in desk.shown() if cls == 3)
    assert near(moved, [480, 240, 640, 360])
    desk.key("s")
    desk.arrived_at(2)
    assert [(c, o) for c, _, o in boxes(desk.saved(1))] == [(3, "edited"), (0, "model")]


HANDLES = {
    "nw": (200, 120, [190, 110, 360, 240]),
    "n": (280, 120, [200, 110, 360, 240]),
    "ne": (360, 120, [200, 110, 350, 240]),
    "e": (360, 180, [200, 120, 350, 240]),
    "se": (360, 240, [200, 120, 350, 230]),
    "s": (280, 240, [200, 120, 360, 230]),
    "sw": (200, 240, [190, 120, 360, 230]),
    "w": (200, 180, [190, 120, 360, 240]),
}


def test_each_of_the_eight_handles_pulls_its_own_side(desk: Any) -> None:
    desk.frame(1)
    desk.click(280, 180)
    for name, (x, y, expected) in HANDLES.items():
        desk.drag(x, y, x - 10, y - 10)
        assert near(next(place for cls, place in desk.shown() if cls == 3), expected), name
        desk.key("z")


def test_relabel_delete_undo_and_redo_are_each_one_key(desk: Any) -> None:
    desk.frame(1)
    desk.click(280, 180)
    desk.key("5")
    assert [cls for cls, place in desk.shown() if place == CAR] == [4]
    desk.key("Delete")
    assert desk.shown() == [[0, PERSON]]
    desk.key("z")
    assert sorted(desk.shown()) == [[0, PERSON], [4, CAR]]
    desk.key("z")
    assert sorted(desk.shown()) == [[0, PERSON], [3, CAR]]
    assert desk.page.locator("#undo").is_disabled()
    desk.key("y", "Control+Shift+z")
    assert desk.shown() == [[0, PERSON]]
    desk.key("s")
    desk.arrived_at(2)
    assert boxes(desk.saved(1)) == [(0, PERSON, "model")]


def test_a_touched_box_loses_the_models_score(desk: Any) -> None:
    desk.frame(1)
    desk.click(280, 180)
    assert "0.83" in desk.page.locator("#boxes .selected").inner_text()
    desk.key("ArrowRight")
    assert "edited" in desk.page.locator("#boxes .selected").inner_text()


def test_a_click_takes_over_an_unlikely_box_and_delete_gives_it_back(desk: Any) -> None:
    desk.frame(1)
    desk.click(500, 150)
    assert desk.shown(".candidate") == []
    desk.key("Delete")
    assert desk.shown(".candidate") == [[5, TRUCK]]
    desk.key("z", "s")
    desk.arrived_at(2)
    assert (5, TRUCK, "model") in boxes(desk.saved(1))


def test_the_slider_hides_unlikely_boxes_and_is_remembered(desk: Any) -> None:
    desk.frame(1)
    desk.page.locator("#floor").fill("0.2")
    assert desk.shown(".candidate") == []
    desk.frame(2)
    assert desk.shown(".candidate") == []
    desk.page.locator("#floor").fill("0.05")
    assert desk.shown(".candidate") == [[5, TRUCK]]


def test_a_small_box_can_be_drawn_inside_a_large_one(desk: Any) -> None:
    desk.frame(1)
    desk.drag(240, 150, 280, 180)  # the car is not selected: this draws
    assert len(desk.shown()) == 3
    desk.click(340, 230)  # the car
    desk.page.keyboard.down("Shift")
    desk.drag(300, 190, 330, 215)  # it is selected now: shift draws
    desk.page.keyboard.up("Shift")
    assert len(desk.shown()) == 4
    assert [3, CAR] in desk.shown()
    desk.click(260, 165)
    assert desk.page.locator("#boxes .selected").inner_text().startswith("person"), "the smaller box lies on top"


def test_drawing_is_exact_while_zoomed_and_panned(desk: Any) -> None:
    desk.frame(1)
    desk.page.mouse.move(*desk.at(500, 280))
    desk.page.mouse.wheel(0, -600)
    before = desk.at(500, 280)
    desk.page.keyboard.down("Space")
    desk.drag(500, 280, 480, 270)
    desk.page.keyboard.up("Space")
    after = desk.at(500, 280)
    assert before != after
    assert len(desk.shown()) == 2, "panning draws nothing"
    desk.drag(470, 260, 530, 300)
    desk.key("0")
    assert near(desk.shown()[-1][1], [470, 260, 530, 300], 0.6)


def test_escape_drops_a_drag_and_then_the_selection(desk: Any) -> None:
    desk.frame(1)
    desk.click(280, 180)
    desk.page.mouse.move(*desk.at(280, 180))
    desk.page.mouse.down()
    desk.page.mouse.move(*desk.at(320, 200))
    desk.key("Escape")
    desk.page.mouse.up()
    assert [3, CAR] in desk.shown()
    assert desk.page.locator("#undo").is_disabled()
    desk.key("Escape")
    assert desk.page.locator("g.box.selected").count() == 0


def test_everything_can_be_done_with_keys_alone(desk: Any) -> None:
    desk.frame(1)
    desk.key("Tab")  # from left to right: the person first
    assert desk.page.locator("#boxes .selected").inner_text().startswith("person")
    desk.key("2")  # a bicycle after all
    desk.key("Tab", "Delete")  # no car there
    desk.key("Tab", "Tab", "Enter")  # past the bicycle to the dashed truck: take it over
    desk.key("b", "3")  # a motorcycle in the middle,
    desk.key(*["ArrowRight"] * 3, "Control+ArrowDown", *["Shift+ArrowRight"] * 2, "Control+Shift+ArrowDown")
    desk.key("s")
    desk.arrived_at(2)
    assert boxes(desk.saved(1)) == [
        (1, PERSON, "edited"),
        (5, TRUCK, "model"),
        (2, [259, 154, 389, 236], "human"),
    ]


def test_tab_walks_through_the_boxes_and_then_on_to_the_rest_of_the_page(desk: Any) -> None:
    desk.frame(1)
    walked = []
    for _ in range(4):
        desk.key("Tab")
        chosen = desk.page.locator("#boxes .selected")
        walked.append(chosen.inner_text().split()[0] if chosen.count() else "")
    assert walked == ["person", "car", "truck", ""]
    assert desk.page.evaluate("document.activeElement.id") != "editor"


def test_the_boxes_of_the_frame_saved_last_can_be_copied(desk: Any) -> None:
    desk.frame(1)
    desk.drag(400, 250, 520, 330)
    desk.key("s")
    desk.arrived_at(2)
    for _ in range(2):
        desk.key("Tab", "Delete")
    desk.key("c", "s")
    desk.arrived_at(3)
    first, second = boxes(desk.saved(1)), boxes(desk.saved(2))
    assert [b[:2] for b in second] == [b[:2] for b in first]
    assert {origin for *_, origin in second} == {"human"}


def test_typing_a_name_is_no_command(desk: Any) -> None:
    desk.frame(1)
    desk.page.locator("#author").fill("")
    desk.page.locator("#author").press_sequentially("sara b")
    assert sorted(desk.shown()) == [[0, PERSON], [3, CAR]]
    desk.key("Escape", "a")
    desk.arrived_at(2)
    assert desk.saved(1).author == "sara b"
    assert desk.page.locator("#author").input_value() == "sara b"


def test_the_keys_are_told_on_a_question_mark(desk: Any) -> None:
    desk.frame(1)
    desk.key("?")
    assert desk.page.locator("#help").is_visible()
    desk.key("r")
    desk.key("?")
    assert not desk.page.locator("#help").is_visible()
    assert desk.answers(1) == []
