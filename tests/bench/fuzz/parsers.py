"""Every parser of ours that reads what others wrote: what it is given, and the errors that it may raise."""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.fuzz.mutate import RAW, TEXTS, Mutation, binary, deep, phrase, structured, table
from edgecase_agent import spool_files
from edgecase_agent.settings import SettingsError as AgentSettingsError
from edgecase_agent.settings import load_settings
from edgecase_agent.spool_files import Damaged
from edgecase_agent.telemetry import TelemetryError
from edgecase_agent.telemetry import parse as telemetry
from edgecase_cloud import settings
from edgecase_cloud.settings import SettingsError as CloudSettingsError
from edgecase_models import wire
from edgecase_models.bundle import Bundle, BundleError
from edgecase_models.campaign import compile_condition
from edgecase_models.facts import FACTS
from edgecase_models.policy import Policy, PolicyError, read_policy
from support.frames import a_meta

GOLDEN: Final = Path(__file__).parents[2] / "golden"
UP, DOWN = ("Offer", "Stored", "Status"), ("Grant", "Decline", "Ack", "Reject", "Poke")


@dataclass(frozen=True)
class Parser:
    """`parse` may raise `refuses` and nothing else, for whatever `mutations` make of the valid `corpus`."""

    name: str
    parse: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    corpus: tuple[bytes, ...]
    mutations: tuple[Mutation, ...]

    def inputs(self, chance: random.Random) -> bytes:
        """The next input."""
        return chance.choices((*self.mutations, deep), (*[9.0] * len(self.mutations), 0.5))[0](
            chance.choice(self.corpus), chance
        )


@cache
def _folder() -> Path:
    """Where files to be read are laid down; gone with this process."""
    folder = Path(tempfile.mkdtemp(prefix="edgecase-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _from_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def parse(content: bytes) -> object:
        path = _folder() / name
        path.write_bytes(content)
        return read(path)

    return parse


def _documents(file: str, *names: str) -> tuple[bytes, ...]:
    content = json.loads((GOLDEN / file).read_bytes())
    return tuple(json.dumps(content[name]).encode() for name in names) if names else (json.dumps(content).encode(),)


def _conditions(content: bytes) -> object:
    """As a campaign's condition: what is accepted is asked of frames, too."""
    condition = compile_condition(content.decode("utf-8", "surrogateescape"))
    return [condition.matches(facts) for facts in ({}, FRAME)]


FRAME: Final[dict[str, object]] = {
    "luma": 12.0, "hour": 22.0, "classes": ["car"] * 300, "counts": {"car": 300}, "scores": {"car": 0.9}, "camera": "front",
    "speed_mps": 3.0, "weekday": 3, "telemetry": {f"x{n}": "y" * 200 for n in range(64)},
}  # fmt: skip
CONDITIONS: Final = (
    b'"bicycle" in classes && luma < 40 && speed_mps > 5',
    b'classes.exists ( name , name.startsWith ( "bi" ) ) || counts [ "car" ] > 1.5',
    b'camera == "front" ? wipers : false',
    b"has ( telemetry.trailer ) && telemetry.lane == 'left' // a word",
)
WORDS: Final = (
    *FACTS, *RAW, *(json.dumps(text) for text in TEXTS[:12]), "&&", "||", "!", "==", "<", ">=", "+", "*", "/", "%", "?", ":", "in", "(",
    ")", "[", "]", "{", "}", ",", ".", "size(", ".all(x,", ".exists(x,", ".map(x,", ".filter(x,", ".matches('(a+)+$')", "duration('1s')",
    "timestamp('x')", "dyn(", "type(", "'''", '"""', "r'", "b'", "//", "telemetry.a.b", "x",
)  # fmt: skip


@cache
def _bundle_parts() -> dict[str, bytes]:
    with tarfile.open(GOLDEN / "bundle-v1.edgecase.tar") as tar:
        parts = {info.name: tar.extractfile(info).read() for info in tar.getmembers()}  # type: ignore[union-attr]
    manifest = json.loads(parts.pop("manifest.json"))
    small = {name: content[:40] for name, content in parts.items()}
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in small.items()
    }
    calibration = {
        "knots": [0.0, 0.5, 1.0], "values": [0.1, 0.4, 0.9], "offsets": [0.0] * len(manifest["classes"]),
        "quality": [0.5] * len(manifest["classes"]), "frames": 100, "candidates": 1000, "iou": 0.5,
    }  # fmt: skip
    return {"manifest.json": json.dumps(manifest | {"calibration": calibration}).encode(), **small}


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _bundle_with(manifest: Mutation) -> Mutation:
    """A bundle whose manifest went through this."""

    def mutated(_: bytes, chance: random.Random) -> bytes:
        parts = _bundle_parts()
        return _tar({**parts, "manifest.json": manifest(parts["manifest.json"], chance)})

    return mutated


_SPOOLED: Final = "0" * 32
_PICTURE: Final = b"\xff\xd8picture\xff\xd9"


@cache
def _description() -> bytes:
    return msgspec.json.encode(a_meta(frame_id=_SPOOLED))


def _spooled(description: bytes) -> bytes:
    """A frame's file with this description, whose checksum is right."""
    digest = hashlib.sha256(_PICTURE).digest()
    checksum = spool_files._checksum(len(_PICTURE), digest, description)
    footer = spool_files._FOOTER.pack(len(_PICTURE), len(description), digest, checksum, spool_files._MAGIC)
    return _PICTURE + description + footer


def _described(_: bytes, chance: random.Random) -> bytes:
    return _spooled(chance.choice((structured, deep))(_description(), chance))


def _cloud_settings(path: Path) -> object:
    return settings.load(path.parent)


def parsers() -> tuple[Parser, ...]:
    """All of them."""
    policy = json.loads(_documents("policy-v1.json")[0])
    agent = _agent_toml()
    json_ways = (structured, structured, binary)
    toml_ways = (table, table, binary)
    telemetry_file = b'{"speed_mps": 3.5, "gear": "D", "wipers": true, "lane": "left", "doors": 4, "trailer": 1e3}'
    return (
        Parser("messages up", wire.decode_up, (wire.WireError,), _documents("wire-v1.json", *UP), json_ways),
        Parser("messages down", wire.decode_down, (wire.WireError,), _documents("wire-v1.json", *DOWN), json_ways),
        Parser(
            "topics",
            lambda content: wire.device_of(content.decode("utf-8", "replace")),
            (wire.WireError,),
            (b"edgecase/1/up/cam-1/offer", b"edgecase/1/down/van_7/ack"),
            (binary, phrase(("edgecase", "/", "1", "up", *TEXTS))),
        ),
        Parser(
            "bundles",
            _from_file("bundle.tar", Bundle.open),
            (BundleError,),
            (_tar(_bundle_parts()),),
            (*(_bundle_with(way) for way in json_ways), binary),
        ),
        Parser("policies as JSON", Policy.from_json, (PolicyError,), _documents("policy-v1.json"), json_ways),
        Parser("policies as TOML", _from_file("policy.toml", read_policy), (PolicyError,), (_toml(policy),), toml_ways),
        Parser("agent.toml", _from_file("agent.toml", load_settings), (AgentSettingsError,), (agent,), toml_ways),
        Parser(
            "cloud.toml",
            _from_file(settings.FILE_NAME, _cloud_settings),
            (CloudSettingsError,),
            (_cloud_toml(),),
            toml_ways,
        ),
        Parser("conditions", _conditions, (PolicyError,), CONDITIONS, (phrase(WORDS), phrase(WORDS), binary)),
        Parser(
            "spooled frames",
            _from_file(f"{_SPOOLED}.jpg", spool_files.describe),
            (Damaged,),
            (_spooled(_description()),),
            (_described, binary),
        ),
        Parser("telemetry", telemetry, (TelemetryError,), (telemetry_file,), json_ways),
    )


def _toml(content: dict[str, Any]) -> bytes:
    """Plain values, and tables of them, as TOML lines."""
    lines, tables = [], []
    for key, value in content.items():
        if isinstance(value, dict):
            tables.append((f"[{key}]", value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [(f"[[{key}]]", each) for each in value]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    for head, value in tables:
        lines += [head, *(f"{k} = {_inline(v)}" for k, v in value.items())]
    return "\n".join(lines).encode()


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def _agent_toml() -> bytes:
    policy = json.loads(_documents("policy-v1.json")[0])
    return b"\n".join(
        [
            b'device = "cam-1"\ncohorts = ["vans"]\ndata = "data"\nenrolment = "cam-1"\nlog_level = "info"',
            b'[source]\nuri = "rtsp://camera.local/stream"\ncamera = "front"\nlive = true\nmax_fps = 10.0',
            b'[model]\nbundle = "coco.edgecase.tar"\nthreads = 1\nproviders = ["CPUExecutionProvider"]',
            b"[spool]\nquota_bytes = 2_000_000_000\nmin_free_bytes = 0\n[uplink]\nin_flight = 16\nkeepalive_s = 20",
            b'[telemetry]\nfile = "telemetry.json"\nmax_age_s = 2.0\n[update]\npoll_s = 60\npolicies = true',
            _toml({"selection": policy["selection"], "campaigns": policy["campaigns"]}),
        ]
    )


def _cloud_toml() -> bytes:
    values = {
        "host": "127.0.0.1", "web_port": 8700, "durability": "strict", "grant_s": 900, "max_frames_per_device_per_day": 100,
        "decline_duplicates": True, "batch_explore_share": 0.25, "max_classes": 2000, "min_free_bytes": 1 << 20,
    }  # fmt: skip
    return "\n".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items()).encode()
