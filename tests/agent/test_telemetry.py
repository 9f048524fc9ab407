"""What telemetry promises: facts of the vehicle while they are fresh and sane, and nothing but a count where they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_agent.telemetry import MAX_BYTES, MAX_OTHERS, Telemetry, TelemetryCounts, TelemetryError, parse

NOW_S = 1_800_000_000.0


def replaced(path: Path, content: bytes | dict, at_s: float = NOW_S) -> None:
    """As the vehicle's software does it."""
    part = path.with_suffix(".part")
    part.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    os.utime(part, (at_s, at_s))
    part.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vehicle.json"


def test_facts_come_in_their_types_and_the_rest_as_one_map(path: Path) -> None:
    replaced(path, {"speed_mps": 12, "gear": 3, "wipers": True, "lane": "left", "doors_open": 1})
    facts = Telemetry(path, 2.0).facts(NOW_S)
    assert facts == {
        "speed_mps": 12.0,
        "gear": "3",
        "wipers": True,
        "telemetry": {"lane": "left", "doors_open": 1},
    }
    assert isinstance(facts["speed_mps"], float)


def test_a_value_out_of_bounds_or_of_another_type_is_left_out_alone_and_counted(path: Path) -> None:
    given = {"speed_mps": 1e9, "latitude_deg": "north", "headlights": 1, "heading_deg": 90, "trip": {"km": 3}}
    replaced(path, given)
    telemetry = Telemetry(path, 2.0)
    assert telemetry.facts(NOW_S) == {"heading_deg": 90.0, "telemetry": {}}
    assert telemetry.counts == TelemetryCounts(read=1, refused=4)
    assert "'speed_mps' was left out: not a double from -50 to 150" in telemetry.problem


def test_a_file_that_is_no_longer_replaced_says_nothing_and_counts_once(path: Path) -> None:
    replaced(path, {"speed_mps": 12})
    telemetry = Telemetry(path, 2.0)
    assert telemetry.facts(NOW_S + 2)["speed_mps"] == 12
    for later_s in (2.1, 3, 4):
        assert telemetry.facts(NOW_S + later_s) == {}
    assert telemetry.counts == TelemetryCounts(read=1, stale=1)
    assert "not replaced for 2 s" in telemetry.problem
    replaced(path, {"speed_mps": 13}, NOW_S + 5)
    assert telemetry.facts(NOW_S + 5)["speed_mps"] == 13
    assert telemetry.problem == ""


def test_a_file_from_the_future_is_stale_too(path: Path) -> None:
    replaced(path, {"speed_mps": 12}, NOW_S + 3600)
    assert Telemetry(path, 2.0).facts(NOW_S) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"12", b"\xff", b'{"a":1}x', b"{" + b" " * MAX_BYTES + b"}"])
def test_a_broken_file_says_nothing_until_the_next(path: Path, content: bytes) -> None:
    replaced(path, {"speed_mps": 12})
    telemetry = Telemetry(path, 10.0)
    assert telemetry.facts(NOW_S)
    replaced(path, content, NOW_S + 1)
    assert telemetry.facts(NOW_S + 1) == {}
    assert telemetry.facts(NOW_S + 2) == {}
    assert telemetry.counts.broken == 1
    assert telemetry.problem
    replaced(path, {"speed_mps": 13}, NOW_S + 3)
    assert telemetry.facts(NOW_S + 3)["speed_mps"] == 13


def test_a_missing_file_says_nothing_and_may_come_later(path: Path) -> None:
    telemetry = Telemetry(path, 2.0)
    assert telemetry.facts(NOW_S) == telemetry.facts(NOW_S + 1) == {}
    assert telemetry.counts == TelemetryCounts(broken=1)
    replaced(path, {"speed_mps": 12}, NOW_S + 2)
    assert telemetry.facts(NOW_S + 2)["speed_mps"] == 12
    path.unlink()
    assert telemetry.facts(NOW_S + 3) == {}
    assert telemetry.counts == TelemetryCounts(read=1, broken=2)


def test_a_pipe_does_not_keep_the_camera_waiting(path: Path) -> None:
    os.mkfifo(path)
    telemetry = Telemetry(path, 2.0)
    assert telemetry.facts(NOW_S) == {}
    assert "not a regular file" in telemetry.problem


def test_it_looks_ten_times_a_second_at_most(path: Path) -> None:
    replaced(path, {"speed_mps": 1}, NOW_S)
    telemetry = Telemetry(path, 2.0)
    assert telemetry.facts(NOW_S)["speed_mps"] == 1
    replaced(path, {"speed_mps": 2}, NOW_S + 0.01)
    assert telemetry.facts(NOW_S + 0.05)["speed_mps"] == 1
    assert telemetry.facts(NOW_S + 0.11)["speed_mps"] == 2


def test_a_clock_that_is_set_back_does_not_stop_it_from_looking(path: Path) -> None:
    replaced(path, {"speed_mps": 1}, NOW_S)
    telemetry = Telemetry(path, 2.0)
    telemetry.facts(NOW_S)
    replaced(path, {"speed_mps": 2}, NOW_S - 3600)
    assert telemetry.facts(NOW_S - 3600)["speed_mps"] == 2


def test_the_other_keys_are_bounded_in_number_and_name() -> None:
    facts, refused = parse(json.dumps({f"key_{number}": number for number in range(MAX_OTHERS + 5)}).encode())
    assert len(facts["telemetry"]) == MAX_OTHERS
    assert len(refused) == 5
    facts, refused = parse(b'{"a b": 1, "": 2, "telemetry": {"x": 1}, "ok": 1}')
    assert facts["telemetry"] == {"ok": 1}
    assert len(refused) == 3


@pytest.mark.parametrize("number", [b"1" + b"0" * 6000, b"1e999", b"-1e999", b"NaN"])
def test_a_number_that_is_none_breaks_the_file(number: bytes) -> None:
    for name in (b"speed_mps", b"gear", b"x"):
        with pytest.raises(TelemetryError):
            parse(b'{"%s": %s}' % (name, number))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
KEYS = st.sampled_from(["speed_mps", "gear", "wipers", "telemetry", "latitude_deg", "x"]) | st.text()


@given(st.binary(max_size=100) | st.dictionaries(KEYS, JSON, max_size=8).map(lambda table: json.dumps(table).encode()))
def test_any_bytes_give_facts_or_one_error(content: bytes) -> None:
    try:
        facts, _ = parse(content)
    except TelemetryError:
        return
    assert all(isinstance(value, bool | float | str | dict) for value in facts.values())
    assert -50 <= facts.get("speed_mps", 0) <= 150
