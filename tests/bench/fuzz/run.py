"""Inputs to one parser, and what they came to."""

from __future__ import annotations

import random
import time
import traceback
from dataclasses import dataclass, field

from bench.fuzz.parsers import Parser, parsers

LIMIT_MS = 100.0


@dataclass
class Found:
    """What some inputs to one parser came to. `slowest_ms` is time of the processor, which other programs do not lengthen."""

    inputs: int = 0
    accepted: int = 0
    slowest_ms: float = 0.0
    slowest: bytes = b""
    slow: int = 0
    foreign: list[tuple[str, bytes]] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Count in what others found."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.slow += other.slow
        self.foreign += other.foreign
        if other.slowest_ms > self.slowest_ms:
            self.slowest_ms, self.slowest = other.slowest_ms, other.slowest


def fuzz(parser: Parser, inputs: int, seed: int) -> Found:
    """Give the parser so many inputs; the same seed gives the same ones."""
    chance = random.Random(f"{parser.name} {seed}")
    found = Found()
    for content in parser.corpus:  # what is imported at the first use is none of the first input's time
        _timed_ms(parser, content)
    for _ in range(inputs):
        content = parser.inputs(chance)
        found.inputs += 1
        try:
            took_ms, accepted = _timed_ms(parser, content)
            if took_ms > LIMIT_MS:  # once more: it may have been the garbage of others
                took_ms = min(took_ms, _timed_ms(parser, content)[0])
        except Exception:  # noqa: BLE001 (they are what is looked for)
            found.foreign.append((traceback.format_exc(limit=-3), content))
            continue
        found.accepted += accepted
        found.slow += took_ms > LIMIT_MS
        if took_ms > found.slowest_ms:
            found.slowest_ms, found.slowest = took_ms, content
    return found


def _timed_ms(parser: Parser, content: bytes) -> tuple[float, bool]:
    """How long it took and whether it was accepted; raises what is not the parser's own refusal."""
    began_s = time.thread_time()
    try:
        parser.parse(content)
    except parser.refuses:
        return (time.thread_time() - began_s) * 1e3, False
    return (time.thread_time() - began_s) * 1e3, True


def chunk(name: str, inputs: int, seed: int) -> Found:
    """`fuzz` for a parser by its name, in a process of its own."""
    return fuzz(next(parser for parser in parsers() if parser.name == name), inputs, seed)
