"""Campaigns: frames that are looked for on purpose, by conditions in CEL on a frame's facts.

The conditions run in cel-cpp by `cel-expr-python`, of the makers of CEL: it is the only one of four that checks names and types before
it runs, bounds depth and loops by itself, and comes as wheels for x86-64 and aarch64. `common-expression-language` (Rust) finds an
unknown name only when it runs and has no bound on loops, `cel-python` takes seventy times as long, `cel-bind` has no wheels for aarch64.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from cel_expr_python import cel

from edgecase_models.config import printable
from edgecase_models.facts import FACTS, Facts, Kind
from edgecase_models.policy import MAX_CONDITION_CHARS, CampaignPolicy, CampaignState, PolicyError

_REFUSALS: Final = (ValueError, LookupError, RuntimeError)
_FAULT: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_UNKNOWN: Final = re.compile(r"undeclared reference to '([^']*)'")
_NO_OVERLOAD: Final = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")
_TEXT_OR_COMMENT: Final = re.compile(
    r"""[rR][bB]?"[^"\n]*"|[rR][bB]?'[^'\n]*'|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|//[^\n]*"""
)
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_PARENTHESIS: Final = re.compile(r"\.\s*(all|exists|exists_one|map|filter)\s*\(|[()]")


@dataclass(frozen=True, eq=False, slots=True)
class Condition:
    """A condition that was checked. `names`: the facts that it speaks of."""

    text: str
    names: frozenset[str]
    _expression: cel.Expression = field(repr=False)

    def matches(self, facts: Facts) -> bool:
        """Whether the condition holds; False where it cannot be decided, for a fact that is absent or of another type. Never raises."""
        known = {name: facts[name] for name in self.names if name in facts}
        try:
            return self._expression.eval(data=known).value() is True
        except _REFUSALS:  # such as loops that took too many steps
            return False


class Campaigns:
    """The campaigns that concern one device, by priority. Pure: the time is passed in."""

    def __init__(self, policies: Sequence[CampaignPolicy], device: str, cohorts: Collection[str] = ()) -> None:
        """`cohorts`: the names of those that the device belongs to. Raises `PolicyError` for a condition that cannot be used."""
        names = (device, *cohorts)
        ours = [policy for policy in policies if _is_for(policy, names)]
        ordered = sorted(ours, key=lambda policy: -policy.priority)
        self._campaigns = tuple((policy, compile_condition(policy.when)) for policy in ordered)

    @property
    def policies(self) -> tuple[CampaignPolicy, ...]:
        """Those that concern this device, in order of priority; also those that rest."""
        return tuple(policy for policy, _ in self._campaigns)

    def matching(self, facts: Facts, now: datetime) -> list[str]:
        """The names of the campaigns that run at `now` and whose condition holds, the highest priority first."""
        return [
            policy.name
            for policy, condition in self._campaigns
            if policy.state_at(now) is CampaignState.RUNS and condition.matches(facts)
        ]


def compile_condition(text: str) -> Condition:
    """Check a condition against the table of facts.

    Raises `PolicyError` with the place, counted in characters from 1, and the cure: for an unknown name, types that do not go together, a
    result that is not true or false, more than `MAX_CONDITION_CHARS`, and loops that could take long. What is accepted takes less than a
    millisecond.
    """
    if len(text) > MAX_CONDITION_CHARS:
        raise PolicyError(f"a condition of {len(text):,} characters; {MAX_CONDITION_CHARS:,} are the most")
    _refuse_halves(text)
    code = _TEXT_OR_COMMENT.sub(lambda found: " " * len(found.group()), text)
    _refuse_triple_quotes(text)
    _refuse_long_loops(code)
    checking, running = _environments()
    try:
        checked = checking.compile(text)
        expression = running.deserialize(checked.serialize())
    except _REFUSALS as error:
        raise PolicyError(_in_words(text, str(error))) from error
    kind = checked.return_type()
    if kind not in (cel.Type.BOOL, cel.Type.DYN):
        raise PolicyError(f"the condition gives a value of type {kind.name().lower()}, not true or false")
    return Condition(text, frozenset(_NAME.findall(code)) & FACTS.keys(), expression)


def _is_for(policy: CampaignPolicy, names: Collection[str]) -> bool:
    return not policy.cohort or any(fnmatchcase(name, pattern) for name in names for pattern in policy.cohort)


@lru_cache(maxsize=1)
def _environments() -> tuple[cel.Env, cel.Env]:
    """One to check and one to run.

    CEL's checker refuses `luma < 40`, a double and an int, although its comparisons at run time take any two numbers. So the checker is
    told of those, in an environment of its own: one that runs them would have them twice.
    """
    kinds = {
        Kind.BOOL: cel.Type.BOOL,
        Kind.INT: cel.Type.INT,
        Kind.DOUBLE: cel.Type.DOUBLE,
        Kind.STRING: cel.Type.STRING,
        Kind.STRINGS: cel.Type.List(cel.Type.STRING),
        Kind.COUNTS: cel.Type.Map(cel.Type.STRING, cel.Type.INT),
        Kind.SCORES: cel.Type.Map(cel.Type.STRING, cel.Type.DOUBLE),
        Kind.OPEN: cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
    }
    variables = {name: kinds[fact.kind] for name, fact in FACTS.items()}
    double, whole, truth = cel.Type.DOUBLE, cel.Type.INT, cel.Type.BOOL
    mixed = [
        cel.FunctionDecl(
            f"_{sign}_",
            [
                cel.Overload(f"{name}_double_int64", truth, [double, whole]),
                cel.Overload(f"{name}_int64_double", truth, [whole, double]),
            ],
        )
        for sign, name in {
            "<": "less",
            "<=": "less_equals",
            ">": "greater",
            ">=": "greater_equals",
            "==": "equals",
            "!=": "not_equals",
        }.items()
    ]
    within = [
        cel.Overload("in_double_list", truth, [double, cel.Type.List(whole)]),
        cel.Overload("in_int64_list", truth, [whole, cel.Type.List(double)]),
    ]
    numbers = cel.CelExtension("numbers", [*mixed, cel.FunctionDecl("@in", within)])
    checking = cel.NewEnv(variables=variables, extensions=[numbers])
    running = cel.NewEnv(variables=variables)
    running.compile("true")  # it learns the types of its variables only when it compiles
    return checking, running


def _refuse_triple_quotes(text: str) -> None:
    for quotes in ('"""', "'''"):
        if quotes in text:
            raise PolicyError(f"at character {text.index(quotes) + 1}, a text in three quotes; write it in one")


def _refuse_halves(text: str) -> None:
    """Half of a pair of UTF-16, as JSON may hold it, is no text that could be written down."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PolicyError(f"at character {error.start + 1}, half of a character; write it whole") from error


def _refuse_long_loops(code: str) -> None:
    """Loops inside of loops, and those that build lists, which takes the square of their length."""
    inside: list[bool] = []
    for found in _PARENTHESIS.finditer(code):
        loop = found.group(1)
        if loop in {"map", "filter"}:
            raise PolicyError(
                f"at character {found.start(1) + 1}, {loop} builds a list; ask with all, exists or exists_one"
            )
        if loop is not None and any(inside):
            raise PolicyError(f"at character {found.start(1) + 1}, a loop inside of a loop; walk one list at a time")
        if found.group() != ")":
            inside.append(loop is not None)
        elif inside:
            inside.pop()


def _in_words(text: str, said: str) -> str:
    """The first fault that the library found, in one line."""
    if "recursion" in said:
        return "the condition is nested too deeply; 30 levels are the most"
    fault = _FAULT.search(said)
    if fault is None:
        return printable(said)
    line, column, why = int(fault.group(1)), int(fault.group(2)), fault.group(3)
    at = sum(len(before) + 1 for before in text.split("\n")[: line - 1]) + column
    return f"at character {at}, {_cause(why)}"


def _cause(why: str) -> str:
    unknown = _UNKNOWN.match(why)
    if unknown is not None:
        name = unknown.group(1)
        close = difflib.get_close_matches(name.partition(".")[0], FACTS, n=1, cutoff=0.6)
        return f'nothing is called "{name}"; ' + (f'did you mean "{close[0]}"?' if close else "a text stands in quotes")
    overload = _NO_OVERLOAD.match(why)
    if overload is not None:
        sign, kinds = overload.group(1).strip("_@"), overload.group(2)
        mixed = {"int", "double"} <= set(kinds.split(", "))
        return f'"{sign}" does not take {kinds.replace(", ", " and ", 1)}' + ("; write 1.0 for 1" if mixed else "")
    return printable(why.removeprefix("Syntax error: ").partition(" expecting ")[0])
