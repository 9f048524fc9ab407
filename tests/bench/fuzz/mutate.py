"""Inputs that a parser must survive: valid ones with something wrong in them, from single bits to ten thousand brackets. Seeded."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

RAW: Final = (
    "NaN", "Infinity", "-Infinity", "1e309", "-1e309", "1e-400", "-0", "0", "-1", "255", "65536", "2147483648", "1.0000000000000002",
    "9007199254740993", "18446744073709551616", "1" + "0" * 400, "null", "true", "[]", "{}", '""', "nan", "inf", "0x10", "1_000",
)  # fmt: skip
TEXTS: Final = (
    "", " ", "\0", "a\0b", "\t", "\n", "\r\n", "\ufeff", "\u202egpj.exe", "\u2028", "🚲" * 40, "a" * 300, "A" * 65, "../x",
    "../../etc/passwd", "/etc/passwd", "site/cam+1", "#", "$SYS/x", "cam-1\n", "0" * 32, "f" * 64, "g" * 64, "%s%n", "<script>",
    "2026-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "-1", "1e309", "NaN", "\ud800",
)  # fmt: skip
BYTES: Final = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\t", b"\r", b"\n\n", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xc0\x80", b'"', b"\\",
    b"\\u0000", b"{", b"}", b"[", b"]", b",", b":", b"=", b"#", b"..", b"/", b"'''", b'"""', b"1e309", b"NaN", b"\x1b[2J",
)  # fmt: skip
MANY: Final = 10_000
LONGEST: Final = 2_000_000  # characters of a list

Mutation = Callable[[bytes, random.Random], bytes]


def binary(content: bytes, chance: random.Random) -> bytes:
    """Bits flipped, stretches lost, doubled, moved and replaced."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        length = min(chance.choice((1, 1, 2, 8, 64, 4096)), len(data) - at)
        match chance.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at:at] = chance.choice(BYTES) * chance.choice((1, 1, 1, 2, 40))
            case 4:
                data[at : at + length] = chance.randbytes(length)
            case 5:
                del data[at:]
            case _:
                data[at:at] = chance.choice(BYTES)
    return bytes(data)


def deep(_: bytes, chance: random.Random) -> bytes:
    """Ten thousand of one bracket, closed or not, alone or as a value."""
    opening, closing = chance.choice(
        (("[", "]"), ('{"a":', "}"), ("(", ")"), ("!", ""), ("-", ""), ("a.", "b"), ("[[x]]\n", ""))
    )
    depth = chance.choice((500, 1500, MANY))
    before = chance.choice(("", "a=", '{"a":'))
    return (before + opening * depth + chance.choice(("", "1")) + closing * chance.choice((0, depth))).encode()


class _Raw(str):
    """Stands for itself in a JSON document, whatever it is."""

    __slots__ = ()


def structured(content: bytes, chance: random.Random) -> bytes:
    """A JSON document with values that do not belong, keys twice, keys gone, and far too many of something."""
    try:
        tree = json.loads(content)
    except ValueError:
        return binary(content, chance)
    holder: dict[str, Any] = {"": tree}
    for _ in range(chance.choice((1, 1, 2, 4))):
        parent, key = chance.choice(_places(holder))
        _spoil(parent, key, chance)
    return _written(holder[""], chance).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every value in it, as whose it is and under which key."""
    keys: Sequence[Any] = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found: list[tuple[Any, Any]] = []
    for key in keys[:40]:
        found.append((tree, key))
        found += _places(tree[key])
    return found


def _spoil(parent: Any, key: Any, chance: random.Random) -> None:
    value = parent[key]
    match chance.randrange(8):
        case 0 | 1:
            parent[key] = _Raw(chance.choice(RAW))
        case 2 | 3:
            parent[key] = chance.choice(TEXTS)
        case 4:
            parent[key] = [value] * chance.choice((0, 2, 17, 301, 1001))
        case 5 if isinstance(parent, dict) and key:
            del parent[key]
        case 5 | 6 if isinstance(value, list) and value:
            parent[key] = value * chance.choice((2, 20, MANY // len(value)))
        case _ if isinstance(value, dict):
            value[chance.choice(TEXTS)] = chance.choice(TEXTS)
        case _:
            parent[key] = {"a": value}


def _written(tree: Any, chance: random.Random) -> str:
    """As JSON, now and then with a key twice."""
    if isinstance(tree, _Raw):
        return str(tree)
    if isinstance(tree, dict):
        pairs = [f"{json.dumps(key, ensure_ascii=False)}:{_written(value, chance)}" for key, value in tree.items()]
        if pairs and chance.random() < 0.05:
            pairs.append(chance.choice(pairs))
        return "{" + ",".join(pairs) + "}"
    if isinstance(tree, list):
        once: dict[int, str] = {}  # many of them are one and the same
        texts: list[str] = []
        room = LONGEST
        for value in tree:
            if id(value) not in once:
                once[id(value)] = _written(value, chance)
            texts.append(once[id(value)])
            room -= len(texts[-1])
            if room < 0:  # many of many of many would never end
                break
        return "[" + ",".join(texts) + "]"
    return json.dumps(tree, ensure_ascii=False)


def table(content: bytes, chance: random.Random) -> bytes:
    """A TOML file with lines lost, doubled and swapped, values that do not belong, a BOM, tabs."""
    lines = content.decode().splitlines()
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(lines))
        key = lines[at].partition("=")[0].strip() or "x"
        quoted = json.dumps(chance.choice(TEXTS), ensure_ascii=chance.random() < 0.5)
        match chance.randrange(9):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(at, lines[chance.randrange(len(lines))])
            case 2 | 3:
                lines[at] = f"{key} = {chance.choice(RAW)}"
            case 4:
                lines[at] = f"{key} = {quoted}"
            case 5:
                lines.insert(at, f"{quoted} = {chance.choice(RAW)}")
            case 6:
                lines[at] = f"[{key}]" if chance.random() < 0.5 else f"[[{key}]]"
            case 7:
                value = lines[at].partition("=")[2].strip() or "1"
                lines[at] = f"{key} = [{', '.join([value] * chance.choice((0, 2, 300, 2000)))}]"
            case _:
                lines[at] = "\t" + lines[at] + "\t" + chance.choice(TEXTS)
    text = chance.choice(("", "", "", "\ufeff")) + chance.choice(("\n", "\n", "\r\n", "\r")).join(lines)
    return text.encode("utf-8", "surrogatepass")


def phrase(words: Sequence[str]) -> Mutation:
    """A sentence of a language: its words in an order that may mean something."""

    def spoken(content: bytes, chance: random.Random) -> bytes:
        said = content.decode().split(" ")
        for _ in range(chance.choice((1, 2, 4, 8))):
            at = chance.randrange(len(said) + 1)
            match chance.randrange(4):
                case 0 if at < len(said):
                    said[at] = chance.choice(words)
                case 1 if at < len(said) > 1:
                    del said[at]
                case _:
                    said.insert(at, chance.choice(words))
        return " ".join(said * chance.choice((1, 1, 1, 1, 20))).encode("utf-8", "surrogatepass")

    return spoken
