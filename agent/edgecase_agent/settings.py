"""What a person may set on a device: one TOML file, and EDGECASE_<SECTION>__<KEY> in the environment over it."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceFailed

from edgecase_agent.log import Level
from edgecase_agent.scoring import Strategy

PREFIX: Final = "EDGECASE_"
_CLOUD_PREFIX: Final = "EDGECASE_CLOUD_"
_PATHS: Final = (("data",), ("enrolment",), ("model", "bundle"), ("committee", "bundle"), ("source", "uri"))

DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class SettingsError(ValueError):
    """A setting that cannot be used: one line that names it and what may stand there."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class SourceSettings(_Section):
    """Where pictures come from."""

    uri: str = Field(
        min_length=1, description="File, folder of pictures, rtsp://, http(s)://, v4l2:///dev/video0, sim://street?…"
    )
    camera: str = Field(default="camera", min_length=1, max_length=200, description="The name that its frames carry.")
    live: bool | None = Field(
        default=None, description="Skip frames rather than lag. Left out: by kind, true for cameras."
    )
    max_fps: float | None = Field(default=None, gt=0, le=1000, description="Pass over frames that come faster.")


class ModelSettings(_Section):
    """What looks at them."""

    bundle: Path = Field(
        description="The model to begin with; later ones come from the hub. Changed by hand, it takes over."
    )
    threads: int = Field(default=1, ge=1, le=256, description="Threads of one inference.")
    spinning: bool = Field(
        default=False, description="Let idle threads spin: faster alone, half as fast on a busy machine."
    )
    providers: tuple[str, ...] = Field(
        default=("CPUExecutionProvider",), min_length=1, description="ONNX Runtime providers, in order."
    )


class SelectionSettings(_Section):
    """Which frames are worth a label; see `selection.Rules`."""

    strategy: Strategy = Field(default=Strategy.EDE, description="What makes a frame doubtful.")
    window_s: float = Field(
        default=10.0, ge=0, le=86_400, description="The most doubtful frames of each stretch of time are kept."
    )
    gap_s: float = Field(
        default=1.0, ge=0, le=86_400, description="Frames kept for their score lie at least this far apart."
    )
    frames_per_hour: float = Field(default=60.0, ge=0, le=1e6, description="How many frames are kept.")
    bytes_per_day: float = Field(default=200e6, ge=0, le=1e15, description="How many bytes of pictures are kept.")
    audit_share: Share = Field(
        default=0.25, description="Of the frames, how many are drawn at random whatever they score."
    )
    min_score: float = Field(
        default=0.0, ge=0, description="A frame that scores no more than this is not kept for its score."
    )
    repeat_bits: int = Field(
        default=4, ge=-1, le=64, description="How alike two pictures may be; -1 keeps repetitions."
    )
    repeat_levels: int = Field(default=6, ge=0, le=255, description="How alike in brightness.")
    leaders: int = Field(default=8, ge=1, le=1000, description="Frames held in memory for one window.")
    memory: int = Field(default=64, ge=0, le=10_000, description="Kept frames that new ones are compared with.")
    seed: int = Field(default=0, ge=0, description="Makes the random picks repeatable.")


class CommitteeSettings(_Section):
    """A second opinion on the doubtful frames."""

    share: Share = Field(default=0.2, description="Of the frames, how many get it by rank; 0 for no committee.")
    random_share: Share = Field(default=0.01, description="Of the others, how many get it by chance.")
    bundle: Path | None = Field(
        default=None, description="Another model as the second member. Left out: the same, half a stride shifted."
    )


class JpegSettings(_Section):
    """How frames are encoded."""

    quality: int = Field(default=85, ge=30, le=100, description="Of the frames that are kept.")
    sample_every: int = Field(
        default=30, ge=1, le=10_000, description="Each n-th frame is encoded to learn what all would weigh."
    )


class SpoolSettings(_Section):
    """Where kept frames wait."""

    quota_bytes: int = Field(default=2_000_000_000, ge=1_000_000, description="Beyond it the least valuable frames go.")
    min_free_bytes: int = Field(default=256_000_000, ge=0, description="With less free disk the spool stops growing.")


class UplinkSettings(_Section):
    """How they reach the cloud."""

    in_flight: int = Field(default=16, ge=1, le=100, description="Frames on their way at one time.")
    uploads_at_once: int = Field(default=2, ge=1, le=16, description="Pictures sent at one time.")
    status_every_s: float = Field(default=5.0, ge=0.2, le=3600, description="How often the device reports.")
    keepalive_s: int = Field(
        default=20, ge=5, le=600, description="A connection that is silent for 1.5 times this is given up."
    )
    connect_timeout_s: float = Field(
        default=10.0, gt=0, le=600, description="To connect to the store, and for each stall of an upload."
    )
    answer_timeout_s: float = Field(default=60.0, gt=0, le=3600, description="For the store's answer.")


class UpdateSettings(_Section):
    """How new models arrive."""

    poll_s: float = Field(default=60.0, ge=1, le=86_400, description="How often the hub is asked; a poke asks at once.")
    max_bundle_bytes: int = Field(default=500_000_000, ge=1000, description="A larger model is not fetched.")
    trial_timeout_s: float = Field(
        default=120.0, ge=1, le=3600, description="A model whose trial takes longer is refused."
    )


class AgentSettings(BaseSettings):
    """The settings of one device. Paths in the file are relative to the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    device: DeviceId | None = Field(default=None, description="Must be that of the enrolment, if both are given.")
    data: Path = Field(default=Path("data"), description="The folder that this device writes to.")
    enrolment: Path | None = Field(
        default=None, description="The folder from `edgecase-cloud device add`; without it nothing is sent."
    )
    log_level: Level = "info"
    source: SourceSettings
    model: ModelSettings
    selection: SelectionSettings = SelectionSettings()
    committee: CommitteeSettings = CommitteeSettings()
    jpeg: JpegSettings = JpegSettings()
    spool: SpoolSettings = SpoolSettings()
    uplink: UplinkSettings = UplinkSettings()
    update: UpdateSettings = UpdateSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


@dataclass(frozen=True)
class Enrolment:
    """Who this device is to the cloud, and what it trusts."""

    device: str
    mqtt_host: str
    mqtt_port: int
    mqtt_username: str
    hub_url: str
    password: str = field(repr=False)
    root: bytes = field(repr=False)


class _DeviceFile(msgspec.Struct, frozen=True):
    device: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]
    mqtt_host: str
    mqtt_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    mqtt_username: str
    hub_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s]+")]


def load_settings(path: Path) -> AgentSettings:
    """Read a device's settings, or raise `SettingsError` with one line."""
    content = {"data": "data", **_table(path)}
    _make_absolute(content, path.absolute().parent)
    _check_environment(os.environ)
    try:
        return AgentSettings(**content)
    except ValidationError as error:
        raise SettingsError(_first(error, content, path.name)) from error
    except SourceFailed as error:
        raise SettingsError(f"environment: {error}") from error


def load_enrolment(settings: AgentSettings) -> Enrolment | None:
    """The device's identity; None where none is set, `SettingsError` where it cannot be used."""
    folder = settings.enrolment
    if folder is None:
        return None
    if not folder.is_dir():
        raise SettingsError(f"enrolment {folder}: no such folder; make one with `edgecase-cloud device add`")
    try:
        device = msgspec.convert(_table(folder / "device.toml"), _DeviceFile)
        password = (folder / "password").read_text().strip()
        root = (folder / "root.json").read_bytes()
    except msgspec.ValidationError as error:
        raise SettingsError(f"{folder / 'device.toml'}: {error}; copy the enrolment again") from error
    except OSError as error:
        raise SettingsError(
            f"enrolment {error.filename}: cannot be read ({error.strerror}); make one with `edgecase-cloud device add`"
        ) from error
    if settings.device not in {None, device.device}:
        raise SettingsError(f'device is "{settings.device}", but {folder} enrols "{device.device}"; change one of them')
    return Enrolment(
        device.device, device.mqtt_host, device.mqtt_port, device.mqtt_username, device.hub_url, password, root
    )


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{path.name}: not valid TOML: {error}") from error


def _make_absolute(content: dict[str, Any], folder: Path) -> None:
    for *sections, key in _PATHS:
        table: Any = content
        for section in sections:
            table = table.get(section, {}) if isinstance(table, dict) else {}
        value = table.get(key) if isinstance(table, dict) else None
        if isinstance(value, str) and value and "://" not in value:
            table[key] = str(folder / Path(value).expanduser())


def known_keys(model: type[BaseModel] = AgentSettings, prefix: str = "") -> Iterator[str]:
    """Every key that may be set, as `section.key`."""
    for name, known in model.model_fields.items():
        if isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            yield from known_keys(known.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _check_environment(environment: Mapping[str, str]) -> None:
    """A variable that sets nothing is a mistake as much as a key that does; the library lets it pass."""
    known = {PREFIX + key.replace(".", "__").upper() for key in known_keys()}
    sections = {PREFIX + key.partition(".")[0].upper() for key in known_keys()}
    for name, value in environment.items():
        ours = name.startswith(PREFIX) and not name.startswith(_CLOUD_PREFIX) and "__" in name
        if ours and value and name not in known | sections:
            raise SettingsError(f"unknown variable {name} in the environment{_nearest(name, known)}")


def _first(error: ValidationError, content: Mapping[str, Any], name: str) -> str:
    """The first of the errors, in one line."""
    found = error.errors(include_url=False)
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    key = ".".join(str(part) for part in first["loc"])
    where = f"in {name}" if _contains(content, first["loc"]) else "in the environment"
    if first["type"] == "extra_forbidden":
        key = _first_leaf(key, first["input"])
        return f'unknown key "{key}" {where}{_nearest(key, set(known_keys()))}{more}'
    if first["type"] == "missing":
        return f'"{key}" is missing in {name}{more}'
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f'"{key}" {where}: {said}, not {_shown(first["input"])}{more}'


def _contains(content: Any, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def _first_leaf(key: str, value: object) -> str:
    while isinstance(value, Mapping) and value:
        part, value = next(iter(value.items()))
        key = f"{key}.{part}"
    return key


def _nearest(key: str, known: set[str]) -> str:
    """A hint at the key that was meant: the same name elsewhere, or nearly the same."""
    elsewhere = sorted(other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2])
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75) or elsewhere
    return f'; did you mean "{close[0]}"?' if close else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
