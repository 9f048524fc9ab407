"""A small share of `make fuzz`, and that it would find what it looks for."""

from __future__ import annotations

import json
import random
import time

import pytest

from bench.fuzz.mutate import structured, table
from bench.fuzz.parsers import Parser, parsers
from bench.fuzz.run import LIMIT_MS, fuzz

INPUTS, SEED = 150, 7


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: parser.name)
def test_whatever_is_read_only_our_own_errors_come_and_none_takes_long(parser: Parser) -> None:
    found = fuzz(parser, INPUTS, SEED)
    assert found.foreign == []
    assert found.slow == 0, f"{found.slowest_ms:.0f} ms for {found.slowest[:200]!r}"
    assert found.inputs == INPUTS


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: parser.name)
def test_the_valid_inputs_that_all_others_are_made_of_are_accepted(parser: Parser) -> None:
    for content in parser.corpus:
        parser.parse(content)


def test_errors_of_others_and_slow_inputs_are_found_and_told() -> None:
    def parse(content: bytes) -> None:
        if b"1e309" in content:
            raise KeyError("not ours")
        if b"NaN" in content:
            end_s = time.thread_time() + 1.5 * LIMIT_MS / 1e3
            while time.thread_time() < end_s:
                pass

    def any_of_three(_: bytes, chance: random.Random) -> bytes:
        return chance.choice((b"1e309", b"NaN", b"{}"))

    found = fuzz(Parser("careless", parse, (ValueError,), (b"{}",), (any_of_three,)), 12, SEED)
    assert found.foreign
    assert "KeyError" in found.foreign[0][0]
    assert found.slow
    assert found.slowest_ms > LIMIT_MS
    assert found.accepted + len(found.foreign) == 12


def test_the_same_seed_gives_the_same_inputs() -> None:
    [parser] = [parser for parser in parsers() if parser.name == "messages up"]
    once, again = ([parser.inputs(random.Random(3)) for _ in range(20)] for _ in range(2))
    assert once == again


def test_structured_and_table_inputs_often_still_are_json_and_toml() -> None:
    import tomllib

    chance, read = random.Random(1), 0
    for _ in range(200):
        try:
            json.loads(structured(b'{"a": 1, "b": [1, {"c": "d"}]}', chance))
            tomllib.loads(table(b'a = 1\nb = "c"\n[d]\ne = 2', chance).decode())
            read += 1
        except ValueError:
            pass
    assert 40 < read < 190
