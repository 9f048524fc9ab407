"""Of two equal keys in a JSON object readers take either: what one checks, another may not see. So neither is taken."""

from __future__ import annotations

import json
from typing import Any


class RepeatedKey(ValueError):
    """An object says the same key twice."""


def check_keys(payload: bytes) -> None:
    """Raises `RepeatedKey` where an object anywhere in this JSON has a key twice, and what `json` raises for what it cannot read."""
    json.loads(payload.decode(), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise RepeatedKey(f"key {key[:80]!r} occurs twice")
        seen.add(key)
