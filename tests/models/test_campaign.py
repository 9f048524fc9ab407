"""What campaigns promise: a condition that is accepted never raises, one that cannot be meant is refused with the place and the cure."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_models.campaign import Campaigns, Condition, compile_condition
from edgecase_models.detections import Detections
from edgecase_models.facts import FACTS, TELEMETRY, Kind, seen
from edgecase_models.policy import MAX_CONDITION_CHARS, CampaignPolicy, PolicyError

README = Path(__file__).parents[2] / "models" / "README.md"
NOW = datetime(2026, 11, 26, 22, 30, tzinfo=UTC)
FRAME: dict[str, object] = {
    "classes": ["bicycle", "car"],
    "candidates": ["bicycle", "car", "person"],
    "counts": {"bicycle": 1, "car": 2, "person": 0},
    "score": 0.9,
    "scores": {"bicycle": 0.4, "car": 0.9, "person": 0.1},
    "luma": 12.0,
    "hour": 22,
    "weekday": 4,
    "camera": "front",
    "ede": 2.5,
}
VEHICLE: dict[str, object] = {"speed_mps": 9.0, "wipers": True, "gear": "D", "telemetry": {"lane": "left", "doors": 4}}


def holds(text: str, **more: object) -> bool:
    return compile_condition(text).matches(FRAME | more)


def refused(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        compile_condition(text)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---- conditions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"bicycle" in classes && luma < 40.0 && speed_mps > 5.0', True),
        ('"bicycle" in classes && luma < 40 && speed_mps > 5', True),
        ('"person" in classes', False),
        ('"person" in candidates && !("person" in classes)', True),
        ("luma < 12 || luma == 12", True),
        ("luma != 12", False),
        ("40 > luma && 12 >= luma", True),
        ("luma in [10, 12]", True),
        ("hour < 22.5 && hour >= 22", True),
        ("hour in [21.0, 22.0]", True),
        ('counts["car"] > 1.5', True),
        ('scores["car"] < 1', True),
        ("counts.person == 0", True),
        ('counts["tram"] == 0', False),
        ("luma / 2.0 < 7", True),
        ("luma > -3", True),
        ('classes.exists(name, name.startsWith("bi"))', True),
        ("size(classes) == 2 && weekday <= 5", True),
        ('camera == "front" ? wipers : false', True),
        ("telemetry.doors > 3 && telemetry.lane == 'left'", True),
        ("has(telemetry.trailer)", False),
        ("telemetry.trailer > 1 || luma < 40", True),
        ('gear in ["R", "D"] // backwards or not', True),
        ("true", True),
    ],
)
def test_a_condition_is_read_as_people_mean_it(text: str, expected: bool) -> None:
    assert holds(text, **VEHICLE) is expected


@pytest.mark.parametrize(
    "text",
    ["speed_mps > 5", "!(speed_mps > 5)", "speed_mps <= 5", "speed_mps > 5 && luma < 40", "wipers", "telemetry.x"],
)
def test_a_fact_that_is_absent_here_means_that_it_does_not_match(text: str) -> None:
    assert not holds(text)


def test_the_other_side_may_decide_without_the_absent_fact() -> None:
    assert holds("speed_mps > 5 || luma < 40")
    assert not holds("speed_mps > 5 && luma > 40")


@pytest.mark.parametrize(
    "value",
    [None, "dark", [1.0], {"a": 1}, object(), float("nan"), 10**30, np.zeros(3), b"x", True],
    ids=lambda value: type(value).__name__,
)
def test_a_fact_of_another_type_does_not_match_and_never_raises(value: object) -> None:
    for text in ("luma < 40 && luma / 2.0 > -1", '"car" in classes', 'counts["car"] > 0'):
        condition = compile_condition(text)
        if not (text.startswith("luma") and value is True):  # true is the number 1 in Python
            assert not condition.matches({"luma": value, "classes": value, "counts": value})


def test_numbers_may_come_from_numpy_and_as_whole_ones() -> None:
    for luma in (np.float32(12), np.float64(12), 12, np.int64(12)):
        assert holds("luma / 5.0 < 2.5 && luma < 40", luma=luma)


@pytest.mark.parametrize(
    "text", ["classes[9] == 'car'", "hour / 0 == 1", "hour % 0 == 1", "timestamp('x') < timestamp('y')"]
)
def test_what_fails_on_a_frame_does_not_match(text: str) -> None:
    assert not holds(text)


def test_a_condition_tells_which_facts_it_speaks_of() -> None:
    assert compile_condition('"luma" in classes && speed_mps > 5 // ede').names == {"classes", "speed_mps"}


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lumma < 40", 'at character 1, nothing is called "lumma"; did you mean "luma"?'),
        ('"bicycle" in clases', 'at character 14, nothing is called "clases"; did you mean "classes"?'),
        ("hour > 3 &&\n speed < 3", 'at character 14, nothing is called "speed"; did you mean "speed_mps"?'),
        ('"ü" == "ü" && lumma < 3', "at character 15,"),
        ("bicycle in classes", 'nothing is called "bicycle"; a text stands in quotes'),
        ("nope(luma)", 'nothing is called "nope"'),
        ("camera < 3", 'at character 8, "<" does not take string and int'),
        ("camera == 3", 'at character 8, "==" does not take string and int'),
        ("3 in classes", 'at character 3, "in" does not take int and list(string)'),
        ("luma + 1 > 3", 'at character 6, "+" does not take double and int; write 1.0 for 1'),
        ("wipers == 1", '"==" does not take bool and int'),
        ("luma.mean < 3", "at character 5, expression of type 'double' cannot be the operand"),
        ("luma", "gives a value of type double, not true or false"),
        ("classes", "gives a value of type list<string>, not true or false"),
        ("null", "not true or false"),
        ("luma <", "at character 7, mismatched input '<EOF>'"),
        ("luma < 40 && (hour > 3", "at character 23, missing ')'"),
        ("", "at character 1, mismatched input '<EOF>'"),
        ("9" * 400 + " > luma", "at character 1, invalid int literal"),
        ("luma \x1b[2J < 3", "at character 6, token recognition error at: '�'"),
        ('"a\\q" == camera', "at character 1, token recognition error"),
        ('"""a""" == camera', "at character 1, a text in three quotes"),
        ('camera == "\ud800"', "at character 12, half of a character"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_place_and_the_cure(text: str, expected: str) -> None:
    assert expected in refused(text)


DEEP = MAX_CONDITION_CHARS // 2 - 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("luma < 40 && " * 100 + "true", "1,304 characters; 1,000 are the most"),
        ("(" * DEEP + "true" + ")" * DEEP, "nested too deeply"),
        ("[" * DEEP + "]" * DEEP + " == []", "nested too deeply"),
        ("+".join(["1"] * 200) + " > 3", "nested too deeply"),
        ("classes" + "[0]" * 200, "nested too deeply"),
        ("classes.all(a, classes.all(b, a == b))", "at character 24, a loop inside of a loop"),
        ("classes . map (a, a).size() > 0", "at character 11, map builds a list; ask with all, exists or exists_one"),
        ("size(classes.filter(a, a > 'c')) > 0", "at character 14, filter builds a list"),
        ('r"\\" == camera && classes.all(a, classes.all(b, a == b)) && camera == "x"', "a loop inside of a loop"),
    ],
)
def test_a_huge_or_deep_one_is_refused_at_once(text: str, expected: str) -> None:
    start = time.perf_counter()
    assert expected in refused(text)
    assert time.perf_counter() - start < 1


def test_parentheses_in_texts_are_none() -> None:
    assert holds("[classes . exists (b, b != '')].all(a, a)"), "one after the other"
    assert holds('camera != "(" && classes.exists(a, a != ")") && classes.exists(b, b == "car")')


@pytest.mark.parametrize(
    "text",
    [
        " && ".join(["classes.all(a,a!='')"] * 40),
        "camera.matches('" + "(a*)*" * 100 + "b')",
        "(" + "+".join(["camera"] * 30) + ").size() > 3",
        "!" * 900 + "true",
        "luma in [" + ",".join(["1"] * 480) + "]",
        " || ".join(["luma < 1"] * 80),
    ],
    ids=lambda text: text[:20],
)
def test_the_worst_that_is_accepted_takes_no_time(text: str) -> None:
    condition = compile_condition(text)
    frame = FRAME | {"classes": [f"class {number}" for number in range(300)], "camera": "a" * 200}
    condition.matches(frame)
    start = time.perf_counter()
    condition.matches(frame)
    assert time.perf_counter() - start < 0.25


ATOMS = st.sampled_from(
    [*FACTS, "lumma", "1", "2.5", '"car"', "true", "[1, 2]", "counts['car']", "telemetry.x", "null"]
)
SIGNS = st.sampled_from(
    ["<", "==", "&&", "||", "in", "+", "/", "?", ":", "(", ")", "!", "-", ".", "[", "]", ".all(x, x", '"']
)
VALUES = {
    Kind.BOOL: st.booleans(),
    Kind.INT: st.integers(-(2**63), 2**63 - 1),
    Kind.DOUBLE: st.floats(),
    Kind.STRING: st.text(max_size=5),
    Kind.STRINGS: st.lists(st.text(max_size=5), max_size=3),
    Kind.COUNTS: st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3),
    Kind.SCORES: st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=3),
    Kind.OPEN: st.dictionaries(st.text(max_size=5), st.booleans() | st.floats() | st.text(max_size=5), max_size=3),
}
FRAMES = st.fixed_dictionaries({}, optional={name: VALUES[fact.kind] for name, fact in FACTS.items()})


def tried(text: str) -> Condition | None:
    try:
        return compile_condition(text)
    except PolicyError as error:
        if not str(error).isprintable():
            raise
        return None


@settings(max_examples=100, deadline=None)
@given(st.lists(ATOMS | SIGNS, max_size=12).map(" ".join) | st.text(max_size=40), FRAMES)
def test_any_text_is_a_condition_or_one_line_and_any_frame_matches_or_not(text: str, frame: dict[str, object]) -> None:
    condition = tried(text)
    if condition is not None:
        assert condition.matches(frame) in {True, False}


@settings(max_examples=80, deadline=None)
@given(ATOMS, st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "in"]), ATOMS, FRAMES)
def test_comparisons_of_any_two_atoms_are_decided_or_refused(left: str, sign: str, right: str, frame: dict) -> None:
    condition = tried(f"{left} {sign} {right}")
    if condition is not None:
        assert condition.matches(frame) in {True, False}


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53))
def test_a_whole_number_compares_with_a_fact_as_in_python(luma: float, limit: int) -> None:
    for sign, expected in (("<", luma < limit), (">=", luma >= limit), ("==", luma == limit)):
        assert compile_condition(f"luma {sign} {limit}").matches({"luma": luma}) is expected


# ---- facts ---------------------------------------------------------------------------------------------------------


def test_detections_give_their_facts() -> None:
    detections = Detections.of([(0, 0, 1, 1)] * 4, [0.9, 0.6, 0.3, 0.1], [1, 1, 0, 2])
    assert seen(detections, ["person", "car", "bus", "tram"], 0.25) == {
        "classes": ["person", "car"],
        "candidates": ["person", "car", "bus"],
        "counts": {"person": 1, "car": 2, "bus": 0, "tram": 0},
        "score": pytest.approx(0.9),
        "scores": pytest.approx({"person": 0.3, "car": 0.9, "bus": 0.1, "tram": 0.0}),
    }
    nothing = seen(Detections.empty(), ["person"], 0.25)
    assert nothing == {
        "classes": [],
        "candidates": [],
        "counts": {"person": 0},
        "score": 0.0,
        "scores": {"person": 0.0},
    }


def test_what_detections_give_is_what_conditions_read() -> None:
    detections = Detections.of([(0, 0, 1, 1)] * 2, [0.9, 0.1], [1, 0])
    facts = seen(detections, ["person", "car"], 0.25)
    assert compile_condition(
        'classes == ["car"] && size(candidates) == 2 && counts.car == 1 && score > 0.8 && scores.person < 0.2'
    ).matches(facts)


def test_every_fact_is_specified() -> None:
    section = README.read_text().partition("### Conditions")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([a-z(), ]+) \| (.*) \|$", section, re.MULTILINE)
    assert [(name, kind) for name, kind, _ in rows] == [(name, fact.kind) for name, fact in FACTS.items()]
    for name, _, meaning in rows:
        assert meaning.startswith(FACTS[name].meaning)


def test_telemetry_is_among_the_facts_and_its_numbers_have_bounds() -> None:
    assert TELEMETRY.keys() < FACTS.keys()
    for name, fact in TELEMETRY.items():
        assert fact.kind is not Kind.DOUBLE or -np.inf < fact.low < fact.high < np.inf, name


# ---- campaigns -----------------------------------------------------------------------------------------------------


def campaign(name: str, **given: object) -> CampaignPolicy:
    return CampaignPolicy(**({"name": name, "when": "luma < 40", "quota_per_day": 5} | given))


def test_campaigns_match_in_order_of_priority_and_then_as_written() -> None:
    campaigns = Campaigns(
        [
            campaign("late"),
            campaign("first", priority=5),
            campaign("not", when="luma > 40"),
            campaign("last", priority=-1),
        ],
        "cam-1",
    )
    assert campaigns.matching(FRAME, NOW) == ["first", "late", "last"]
    assert campaigns.matching({}, NOW) == []


def test_a_campaign_runs_from_its_start_until_it_expires() -> None:
    hour = timedelta(hours=1)
    campaigns = Campaigns([campaign("night", starts_at=NOW, expires_at=NOW + hour)], "cam-1")
    when = {at: campaigns.matching(FRAME, NOW + at) for at in (-hour, 0 * hour, hour / 2, hour, 2 * hour)}
    assert [bool(found) for found in when.values()] == [False, True, True, False, False]
    assert [policy.name for policy in campaigns.policies] == ["night"], "an expired one is kept, idle"


@pytest.mark.parametrize(
    ("cohort", "cohorts", "ours"),
    [
        ((), (), True),
        (("van-7",), (), True),
        (("van-*",), (), True),
        (("van-?",), (), True),
        (("van-1", "car-*"), (), False),
        (("berlin",), ("berlin", "night"), True),
        (("ber*", "x"), ("berlin",), True),
        (("berlin",), ("paris",), False),
        (("van",), (), False),
    ],
)
def test_a_campaign_concerns_its_cohort(cohort: tuple[str, ...], cohorts: tuple[str, ...], ours: bool) -> None:
    campaigns = Campaigns([campaign("a", cohort=cohort)], "van-7", cohorts)
    assert bool(campaigns.matching(FRAME, NOW)) is ours
    assert bool(campaigns.policies) is ours
