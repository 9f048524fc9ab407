"""The parts of the simulated street: the camera's geometry, the traffic's closed form, the light, the judgement of sight."""

from __future__ import annotations

import numpy as np
import pytest

from edgecase_models.street.camera import NEAR_M, Camera
from edgecase_models.street.layout import make_layout, stand
from edgecase_models.street.light import LIGHTS, blend, light_of
from edgecase_models.street.sketch import Mesh, MeshMaker, Sketch, sketch_mesh
from edgecase_models.street.spec import CONDITIONS, POSES
from edgecase_models.street.sun import SunMap
from edgecase_models.street.traffic import BUS, CAR, PERSON, TRUCK, Actor, Path, Traffic
from edgecase_models.street.truth import Cast, judge_visible
from edgecase_models.street.vehicles import vehicle_mesh

SIZE = (640, 360)


def ahead() -> Camera:
    """A camera two metres up that looks level along y."""
    return Camera.looking((0.0, 0.0, 2.0), 0.0, 0.0, 1.0, SIZE)


def test_a_point_straight_ahead_falls_on_the_middle() -> None:
    assert np.allclose(ahead().project(np.array([0.0, 10.0, 2.0], np.float32)), [320, 180])


def test_right_is_right_and_up_is_up() -> None:
    u, v = ahead().project(np.array([1.0, 10.0, 3.0], np.float32))
    assert u == pytest.approx(320 + 64)
    assert v == pytest.approx(180 - 64)


def test_yaw_turns_towards_x_and_tilt_looks_down() -> None:
    turned = Camera.looking((0.0, 0.0, 2.0), 90.0, 0.0, 1.0, SIZE)
    assert np.allclose(turned.project(np.array([10.0, 0.0, 2.0], np.float32)), [320, 180], atol=1e-3)
    tilted = Camera.looking((0.0, 0.0, 2.0), 0.0, 10.0, 1.0, SIZE)
    assert tilted.horizon_px < 180 < ahead().horizon_px + 1


def test_rays_lead_back_to_their_pixels() -> None:
    camera = Camera.looking((1.0, 2.0, 3.0), 25.0, 12.0, 0.9, SIZE)
    rays = camera.rays()
    for row, column in ((0, 0), (200, 17), (359, 639)):
        spot = camera.position_m + rays[row, column] * 20.0
        assert np.allclose(camera.project(spot), [column + 0.5, row + 0.5], atol=0.05)


def test_a_mesh_that_reaches_behind_the_camera_is_cut_not_dropped() -> None:
    mesh = vehicle_mesh(BUS, 1)
    beside = sketch_mesh(mesh, 2.2, 2.0, 0.0, ahead(), mirrored=False)
    assert beside is not None
    assert all(np.isfinite(polygon).all() and len(polygon) >= 3 for polygon in beside.polygons)
    assert sketch_mesh(mesh, 0.0, -30.0, 0.0, ahead(), mirrored=False) is None
    assert NEAR_M > 0


@pytest.mark.parametrize("kind", [CAR, BUS, TRUCK])
def test_only_faces_that_look_at_the_camera_are_sketched(kind: int) -> None:
    mesh = vehicle_mesh(kind, 5)
    from_behind = sketch_mesh(mesh, 0.0, 20.0, 0.0, ahead(), mirrored=False)
    from_before = sketch_mesh(mesh, 0.0, 20.0, np.pi, ahead(), mirrored=False)
    assert from_behind is not None
    assert from_before is not None
    assert len(from_behind.polygons) < len(mesh.loops)
    assert (from_behind.normals @ np.array([0.0, 1.0, 0.0]) <= 0.35).all()
    assert len(from_before.polygons) != len(from_behind.polygons)


def test_a_path_turns_and_ends_where_it_should() -> None:
    path = Path.through((0.0, 0.0), (0.0, 50.0), (30.0, 50.0))
    assert path.at(0.0)[:2] == pytest.approx((0.0, 0.0))
    assert path.at(path.length_m)[:2] == pytest.approx((30.0, 50.0))
    assert path.at(20.0)[2] == pytest.approx(0.0)
    assert path.at(path.length_m)[2] == pytest.approx(np.pi / 2)
    assert path.at(path.way_to(0.0, 25.0))[1] == pytest.approx(25.0, abs=0.2)


def test_traffic_at_a_moment_needs_no_other_moment() -> None:
    street = make_layout(4, "kerb")
    whole = Traffic(street)
    for second in (0.0, 50.0, 25.0):
        whole.at(second)
    assert whole.at(500.0) == Traffic(street).at(500.0)


def test_road_users_move_at_their_own_speed() -> None:
    traffic = Traffic(make_layout(4, "kerb"))
    before = {actor.track_id: actor for actor in traffic.at(100.0)}
    after = {actor.track_id: actor for actor in traffic.at(100.5)}
    both = [(before[track], after[track]) for track in before.keys() & after.keys()]
    assert len(both) > 5
    for one, other in both:
        way_m = np.hypot(other.x - one.x, other.y - one.y)
        assert way_m <= one.speed_mps * 0.5 + 0.35
        if one.speed_mps == 0.0:
            assert way_m == 0.0


def test_vehicles_keep_clear_of_each_other() -> None:
    """Few meet, and only at the far end; nobody is driven through near the camera."""
    close = together = 0
    for seed in range(6):
        traffic = Traffic(make_layout(seed, "kerb"))
        for second in range(0, 240, 2):
            drivers = [actor for actor in traffic.at(second) if actor.kind != PERSON and actor.speed_mps > 0.0]
            drivers = [actor for actor in drivers if abs(actor.x) < 15.0 and actor.y < 55.0]
            spots = np.array([(actor.x, actor.y) for actor in drivers]).reshape(-1, 2)
            apart = np.hypot(*(spots[:, None] - spots[None]).transpose(2, 0, 1)) + 99.0 * np.eye(len(spots))
            together += len(drivers)
            close += int((apart < 1.3).any(axis=1).sum())
    assert together > 1500
    assert close < 0.01 * together


@pytest.mark.parametrize("pose", POSES)
def test_the_camera_does_not_stand_in_a_parked_car(pose: str) -> None:
    for seed in range(40):
        street = make_layout(seed, pose)
        (x, y, _), *_ = stand(street, pose)
        assert all(np.hypot(car.x - x, car.y - y) > 2.0 for car in street.parked)


def test_two_seeds_are_two_streets() -> None:
    assert len({make_layout(seed, "kerb") for seed in range(20)}) == 20


@pytest.mark.parametrize("condition", CONDITIONS)
def test_lights_of_two_seeds_differ_and_stay_in_bounds(condition: str) -> None:
    lights = [light_of(condition, seed) for seed in range(30)]
    assert len(set(lights)) == 30
    for light in lights:
        assert 0.0 < light.fog_per_m < 0.08
        assert 0.0 < light.noise < 20.0
        assert 0.2 < light.blur_px < 1.5
        assert all(0.0 <= value <= 1.2 for value in light.ambient)


def test_a_blend_begins_and_ends_at_its_lights() -> None:
    day, night = LIGHTS["day"], LIGHTS["night"]
    assert blend(day, night, 0.0) == day
    assert blend(day, night, 1.0).lamps == pytest.approx(night.lamps)
    assert blend(day, night, 0.5).ambient[0] == pytest.approx((day.ambient[0] + night.ambient[0]) / 2)


def test_houses_throw_shadows_away_from_the_sun() -> None:
    street = make_layout(3, "kerb")
    block = max(street.blocks, key=lambda block: block.height_m)
    y = (block.y0 + block.y1) / 2
    shady = SunMap(street, np.arctan2(block.x0 - block.x1, 0.0), np.radians(20.0))
    assert shady.reaches(np.array([block.x1 + 2.0]), np.array([y]))[0] == 0.0
    overhead = SunMap(street, 0.3, np.radians(89.0))
    assert overhead.reaches(np.array([0.0]), np.array([10.0]))[0] == 1.0


def card(x0: float, y0: float, x1: float, y1: float) -> Sketch:
    """A flat rectangle on the picture."""
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    one = np.zeros((1, 3), np.float32)
    return Sketch([corners], one, one, np.zeros(1, np.int32), np.zeros(1, np.bool_), [])


def judged(
    *cards: tuple[Sketch, float], fog_per_m: float = 0.0, occluder_m: np.ndarray | None = None
) -> list[tuple[int, list[float], float]]:
    cast = [Cast(Actor(number, CAR, 0, 0, 0, 1, 0, 0), sketch, depth) for number, (sketch, depth) in enumerate(cards)]
    still = np.full((360, 640), np.inf, np.float32) if occluder_m is None else occluder_m
    light = blend(LIGHTS["day"], LIGHTS["day"], 0.0)
    light = light.__class__(**{**light.__dict__, "fog_per_m": fog_per_m})
    truth = judge_visible(cast, still, ahead(), light, "day")
    return [
        (track, box, share)
        for track, box, share in zip(
            truth.track_ids.tolist(), truth.boxes_xyxy_px.tolist(), truth.visible.tolist(), strict=True
        )
    ]


def test_a_free_road_user_has_its_own_box() -> None:
    ((_, box, share),) = judged((card(100.25, 50.5, 140.75, 90.5), 10.0))
    assert box == pytest.approx([100.25, 50.5, 140.75, 90.5])
    assert share == pytest.approx(1.0)


def test_what_a_nearer_one_hides_is_cut_from_the_box() -> None:
    rows = judged((card(100, 50, 140, 90), 5.0), (card(120, 50, 180, 90), 10.0))
    assert rows[1][1] == pytest.approx([140, 50, 180, 90], abs=1.5)
    assert rows[1][2] == pytest.approx(2 / 3, abs=0.05)


def test_a_road_user_that_is_nearly_hidden_is_left_out() -> None:
    assert [track for track, *_ in judged((card(100, 50, 140, 90), 5.0), (card(100, 50, 150, 90), 10.0))] == [0]


def test_what_stands_still_hides_too_but_not_what_is_nearer() -> None:
    still = np.full((360, 640), np.inf, np.float32)
    still[:, :120] = 8.0
    assert judged((card(100, 50, 140, 90), 10.0), occluder_m=still)[0][1] == pytest.approx([120, 50, 140, 90], abs=1.1)
    assert judged((card(100, 50, 140, 90), 5.0), occluder_m=still)[0][1] == pytest.approx([100, 50, 140, 90])


def test_the_frame_s_edge_cuts_the_box_and_counts_as_hiding() -> None:
    ((_, box, share),) = judged((card(-20, 50, 20, 90), 5.0))
    assert box == pytest.approx([0, 50, 20, 90])
    assert share == pytest.approx(0.5, abs=0.03)
    assert judged((card(-40, 50, 8, 90), 5.0)) == []


def test_the_tiny_and_the_fogged_out_are_left_out() -> None:
    assert judged((card(100, 50, 104, 90), 5.0)) == []
    assert judged((card(100, 50, 140, 57), 5.0)) == []
    assert judged((card(100, 50, 140, 90), 80.0), fog_per_m=0.04) == []
    assert len(judged((card(100, 50, 140, 90), 20.0), fog_per_m=0.04)) == 1


def test_a_prism_s_faces_look_outwards() -> None:
    maker = MeshMaker()
    maker.prism([(-1.0, 0.0), (1.0, 0.0), (1.0, 1.0), (-1.0, 1.0)], 0.5, 0.5, (1.0, 1.0, 1.0))
    mesh: Mesh = maker.done()
    middle = mesh.corners_m.mean(axis=0)
    assert (np.einsum("ij,ij->i", mesh.middles_m - middle, mesh.normals) > 0).all()
