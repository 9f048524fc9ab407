"""The address of a simulated street: what it says is what is built, and what is wrong is named with its cure."""

from __future__ import annotations

import pytest

from edgecase_models.street import StreetError, StreetSpec
from edgecase_models.street.spec import parse_scene


@pytest.mark.parametrize(
    "spec",
    [
        StreetSpec(),
        StreetSpec(seed=7, scene="night-rain", width_px=1280, height_px=720, fps=29.97, pose="bridge"),
        StreetSpec(scene="day:20,dusk:5,night:30.5,night-rain"),
        StreetSpec(scene="drift", pose="dash"),
    ],
)
def test_an_address_reads_back_to_the_same_spec(spec: StreetSpec) -> None:
    assert StreetSpec.from_uri(spec.uri()) == spec


def test_every_key_may_be_left_out() -> None:
    assert StreetSpec.from_uri("sim://street") == StreetSpec()
    assert StreetSpec.from_uri("sim://street?seed=7&scene=fog") == StreetSpec(seed=7, scene="fog")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("rtsp://street", "sim://street"),
        ("sim://road?seed=1", "sim://street"),
        ("sim://street?sede=7", "did you mean 'seed'"),
        ("sim://street?seed=7&seed=8", "twice"),
        ("sim://street?seed=seven", "whole number"),
        ("sim://street?seed=-1", "seed=-1"),
        ("sim://street?scene=nihgt", "did you mean 'night'"),
        ("sim://street?scene=day:20,fogg:5", "did you mean 'fog'"),
        ("sim://street?scene=day:-5,night", "longer than"),
        ("sim://street?scene=day:long,night", "not a number"),
        ("sim://street?scene=day,night", "how many seconds"),
        ("sim://street?pose=curb", "did you mean 'kerb'"),
        ("sim://street?width=-640", "nearest is 64"),
        ("sim://street?height=99999", "nearest is 4096"),
        ("sim://street?fps=0", "fps=0"),
        ("sim://street?fps=nan", "not a number"),
    ],
)
def test_what_is_wrong_is_named_with_its_cure(uri: str, said: str) -> None:
    with pytest.raises(StreetError) as caught:
        StreetSpec.from_uri(uri)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_last_step_of_a_scene_lasts_for_ever() -> None:
    assert parse_scene("day:20,night") == (("day", 20.0), ("night", float("inf")))
