"""What a person wrote in a configuration: read, and what is wrong with it told in one line that names the key and the cure."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

MAX_TOML_BYTES: Final = 200_000
"""A longer file takes longer to read than anybody should have to wait for; as JSON a policy may have half as many."""
_TOO_DEEP: Final = re.compile(
    rb"^(?:\xef\xbb\xbf)?[ \t\[]*(?:[\w\"'-]+[ \t]*\.[ \t]*){32}", re.MULTILINE
)  # such a key takes the parser long

Location = tuple[int | str, ...]


class ConfigError(ValueError):
    """A file that cannot be read as a configuration; the message is one line."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file in UTF-8 of at most `MAX_TOML_BYTES`, or `ConfigError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOML_BYTES + 1)
        if len(content) > MAX_TOML_BYTES:
            raise ConfigError(
                f"{path.name}: more than {MAX_TOML_BYTES:,} bytes; no configuration is that long, name another file"
            )
        if _TOO_DEEP.search(content):
            raise ConfigError(f"{path.name}: a key of more than 32 parts; none is that deep")
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name}: not valid TOML: {error}") from error


def make_absolute(content: dict[str, Any], keys: Collection[tuple[str, ...]], folder: Path) -> None:
    """Replace in place the paths under `keys` that are relative: they are meant from `folder` on. Addresses with a scheme stay."""
    for *sections, key in keys:
        table: Any = content
        for section in sections:
            table = table.get(section, {}) if isinstance(table, dict) else {}
        value = table.get(key) if isinstance(table, dict) else None
        if isinstance(value, str) and value and "://" not in value:
            table[key] = str(folder / Path(value).expanduser())


def first_fault(
    faults: Sequence[Mapping[str, Any]],
    content: Mapping[str, Any],
    name: str,
    known: Collection[str],
    elsewhere: str = "",
) -> str:
    """The first of pydantic's `faults` in one line.

    `content` is what the source called `name` holds; a fault that lies nowhere in it is one of `elsewhere` (of the environment).
    `known` are the keys that there are, as `section.key`.
    """
    first = faults[0]
    location: Location = tuple(part for part in first["loc"] if part != "[key]")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    where = f"in {name}" if not elsewhere or _contains(content, location) else f"in {elsewhere}"
    key = _shown_key(location)
    if first["type"] == "extra_forbidden":
        key = _first_leaf(key, first["input"])
        sections = {other.rpartition(".")[0] for other in known} - {""}
        return f'unknown key "{key}" {where}{nearest(key, sections.union(known))}{more}'
    if first["type"] == "missing":
        return f'"{key}" is missing in {name}{more}'
    subject = f'"{key}" {where}' if key else name
    if first["type"] == "value_error":  # a sentence of ours, which says what to do
        return f"{subject}: {str(first['msg']).removeprefix('Value error, ')}{more}"
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"{subject}: {said}, not {_shown(first['input'])}{more}"


def nearest(key: str, known: Collection[str]) -> str:
    """A hint at the key that was meant: nearly the same, or the same name in another section; empty where there is none."""
    plain = re.sub(r"\[\d+\]", "", key)
    elsewhere = sorted(other for other in known if other.rpartition(".")[2] == plain.rpartition(".")[2])
    close = difflib.get_close_matches(plain, known, n=1, cutoff=0.75) or elsewhere
    return f'; did you mean "{close[0]}"?' if close else ""


def printable(text: str) -> str:
    """A text from outside as it may stand in a line: not too long, and without what moves a cursor or ends a line."""
    shown = "".join(char if char.isprintable() else "�" for char in text[:200])
    return shown if len(text) <= 200 else f"{shown}..."


def _contains(content: Any, location: Location) -> bool:
    for part in location:
        if isinstance(part, int):
            if not isinstance(content, Sequence) or isinstance(content, str) or part >= len(content):
                return False
        elif not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def _shown_key(location: Location) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return printable("".join(parts).removeprefix("."))


def _first_leaf(key: str, value: object) -> str:
    while isinstance(value, Mapping) and value:
        part, value = next(iter(value.items()))
        key = f"{key}.{part}"
    return printable(key)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
