"""What a person may set on a device: one TOML file, and EDGECASE_<SECTION>__<KEY> in the environment over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceFailed

from edgecase_agent.bandwidth import Metering, Window
from edgecase_agent.identity import AGAIN, CERTIFICATE, DEVICE, ROOT, Identity, IdentityError
from edgecase_agent.log import Level
from edgecase_models.config import ConfigError, first_fault, make_absolute, nearest, read_toml
from edgecase_models.policy import CampaignPolicies, CommitteePolicy, Policy, Section, SelectionPolicy, known_fields

PREFIX: Final = "EDGECASE_"
_CLOUD_PREFIX: Final = "EDGECASE_CLOUD_"
LEAST_LIMIT_BYTES: Final = 10_000_000
_PATHS: Final = (
    ("data",),
    ("enrolment",),
    ("model", "bundle"),
    ("committee", "bundle"),
    ("source", "uri"),
    ("telemetry", "file"),
    ("privacy", "bundle"),
    ("uplink", "metered_file"),
)

DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
ClassNames = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=1000)]


class SettingsError(ValueError):
    """A setting that cannot be used: one line that names it and what may stand there."""


class SourceSettings(Section):
    """Where pictures come from."""

    uri: str = Field(
        min_length=1, description="File, folder of pictures, rtsp://, http(s)://, v4l2:///dev/video0, sim://street?…"
    )
    camera: str = Field(default="camera", min_length=1, max_length=200, description="The name that its frames carry.")
    live: bool | None = Field(
        default=None, description="Skip frames rather than lag. Left out: by kind, true for cameras."
    )
    max_fps: float | None = Field(default=None, gt=0, le=1000, description="Pass over frames that come faster.")


class ModelSettings(Section):
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


class TelemetrySettings(Section):
    """What the vehicle tells of itself, for the conditions of campaigns."""

    file: Path | None = Field(
        default=None,
        description="A JSON object that the vehicle's software replaces as a whole; none for no telemetry.",
    )
    max_age_s: float = Field(default=2.0, gt=0, le=3600, description="Older than this it says nothing about a frame.")


class PrivacySettings(Section):
    """What nobody is to see of what the camera sees. No policy over the air can change it."""

    mode: Literal["off", "blur", "drop"] | None = Field(
        default=None,
        description="What must not be seen is painted over (blur), or keeps a frame's pixels here (drop). "
        "Left out: blur where bundle or classes are set, else off.",
    )
    bundle: Path | None = Field(
        default=None,
        description="A model that finds it, faces and plates for instance; kept frames alone are searched.",
    )
    bundle_classes: ClassNames = Field(default=(), description="Only these of its classes; left out, all.")
    classes: ClassNames = Field(default=(), description="Classes of the running model that must not be seen.")
    min_score: float = Field(
        default=0.05, gt=0, lt=1, description="From this score on; lower than one detects with, since a miss is a leak."
    )
    margin: float = Field(
        default=0.2, ge=0, le=2, description="Of a box's width and height: painted over on each side, too."
    )
    tile_px: int = Field(
        default=640,
        ge=0,
        le=20_000,
        description="Larger pictures are searched in tiles of this size too, for what is small; 0 for never.",
    )
    position_decimals: int | None = Field(
        default=None,
        ge=0,
        le=6,
        description="Decimals of latitude and longitude that go with a frame, 2 for about a kilometre. Left out: no position does.",
    )

    @model_validator(mode="after")
    def _possible(self) -> PrivacySettings:
        if self.mode in {"blur", "drop"} and self.bundle is None and not self.classes:
            raise ValueError(
                f"mode = {self.mode!r} without anything to look for; set privacy.bundle or privacy.classes"
            )
        if self.bundle_classes and self.bundle is None:
            raise ValueError("bundle_classes without a bundle; set privacy.bundle, or name them in privacy.classes")
        return self

    @property
    def redacts(self) -> Literal["blur", "drop"] | None:
        """What is done about it; None where pictures leave as they are."""
        named = self.bundle is not None or self.classes
        mode = self.mode or ("blur" if named else "off")
        return None if mode == "off" else mode


class JpegSettings(Section):
    """How frames are encoded."""

    quality: int = Field(default=85, ge=30, le=100, description="Of the frames that are kept.")
    sample_every: int = Field(
        default=30, ge=1, le=10_000, description="Each n-th frame is encoded to learn what all would weigh."
    )


class SpoolSettings(Section):
    """Where kept frames wait."""

    quota_bytes: int = Field(default=2_000_000_000, ge=1_000_000, description="Beyond it the least valuable frames go.")
    min_free_bytes: int = Field(default=256_000_000, ge=0, description="With less free disk the spool stops growing.")
    keep_per_trigger: int = Field(
        default=10, ge=0, le=1000, description="So many frames that each trigger picked do not go for those of others."
    )


class UplinkSettings(Section):
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
    bytes_per_s: int | None = Field(default=None, ge=1000, description="Pictures and messages together go no faster.")
    bytes_per_day: int | None = Field(
        default=None, ge=LEAST_LIMIT_BYTES, description="In any 24 hours, messages included; then pictures wait."
    )
    bytes_per_month: int | None = Field(default=None, ge=LEAST_LIMIT_BYTES, description="In any 30 days.")
    windows: tuple[str, ...] = Field(
        default=(), description='Local times at which pictures are sent, as in "22:00-06:00"; none is always.'
    )
    metered: Metering = Field(
        default="auto",
        description="Whether the line costs by the byte: yes, no, or auto, by the file or the interface.",
    )
    metered_file: Path | None = Field(
        default=None,
        description="A file that the vehicle's software keeps, yes or no; without it a modem's name says yes.",
    )
    metered_bytes_per_day: int | None = Field(
        default=None,
        ge=0,
        description="On a metered line in any 24 hours; 0 for messages only, left out for no difference.",
    )

    @model_validator(mode="after")
    def _possible(self) -> UplinkSettings:
        if 0 < (self.metered_bytes_per_day or 0) < LEAST_LIMIT_BYTES:
            raise ValueError(f"metered_bytes_per_day must be 0 or at least {LEAST_LIMIT_BYTES}, as much as one request")
        for window in self.windows:
            Window.read(window)
        return self


class UpdateSettings(Section):
    """How new models and policies arrive."""

    poll_s: float = Field(default=60.0, ge=1, le=86_400, description="How often the hub is asked; a poke asks at once.")
    max_bundle_bytes: int = Field(default=500_000_000, ge=1000, description="A larger model is not fetched.")
    trial_timeout_s: float = Field(
        default=120.0, ge=1, le=3600, description="A model or a policy whose trial takes longer is refused."
    )
    policies: bool = Field(
        default=True,
        description="A policy from the hub takes the place of selection, committee and campaigns here; false keeps these.",
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
    cohorts: tuple[DeviceId, ...] = Field(
        default=(),
        max_length=100,
        description="Names of groups that it belongs to, for campaigns, policies and models that are for some only.",
    )
    data: Path = Field(default=Path("data"), description="The folder that this device writes to.")
    enrolment: Path | None = Field(
        default=None, description="The folder from `edgecase-agent enroll`; without it nothing is sent."
    )
    log_level: Level = Field(default="info", description="How much is logged: debug, info, warning, error.")
    source: SourceSettings
    model: ModelSettings
    selection: SelectionPolicy = SelectionPolicy()
    committee: CommitteePolicy = CommitteePolicy()
    campaigns: CampaignPolicies = ()
    telemetry: TelemetrySettings = TelemetrySettings()
    privacy: PrivacySettings = PrivacySettings()
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

    @property
    def policy(self) -> Policy:
        """What these settings tell the device about choosing frames."""
        return Policy(name="settings", selection=self.selection, committee=self.committee, campaigns=self.campaigns)


@dataclass(frozen=True)
class Enrolment:
    """Who this device is to the cloud, and what it trusts."""

    device: str
    mqtt_host: str
    mqtt_port: int
    hub_url: str
    identity: Identity
    root: bytes = field(repr=False)


class _DeviceFile(msgspec.Struct, frozen=True):
    device: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]
    mqtt_host: str
    mqtt_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    hub_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s]+")]


def load_settings(path: Path) -> AgentSettings:
    """Read a device's settings, or raise `SettingsError` with one line."""
    content = {"data": "data", **_table(path)}
    make_absolute(content, _PATHS, path.absolute().parent)
    _check_environment(os.environ)
    try:
        return AgentSettings(**content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise SettingsError(first_fault(faults, content, path.name, set(known_keys()), "the environment")) from error
    except SourceFailed as error:
        raise SettingsError(f"environment: {error}") from error


def load_enrolment(settings: AgentSettings) -> Enrolment | None:
    """The device's identity; None where none is set, `SettingsError` where it cannot be used."""
    folder = settings.enrolment
    if folder is None:
        return None
    if not folder.is_dir():
        raise SettingsError(f"enrolment {folder}: no such folder; make one with `edgecase-agent enroll`")
    if (folder / "password").exists() and not (folder / CERTIFICATE).exists():
        raise SettingsError(
            f"enrolment {folder}: the cloud takes no passwords any more; remove the folder, and {AGAIN}"
        )
    try:
        device = msgspec.convert(_table(folder / DEVICE), _DeviceFile)
        root = (folder / ROOT).read_bytes()
        identity = Identity(folder)
        identity.context()
    except msgspec.ValidationError as error:
        raise SettingsError(f"{folder / DEVICE}: {error}; {AGAIN}") from error
    except IdentityError as error:
        raise SettingsError(f"enrolment {error}") from error
    except OSError as error:
        raise SettingsError(f"enrolment {error.filename}: cannot be read ({error.strerror}); {AGAIN}") from error
    if settings.device not in {None, device.device}:
        raise SettingsError(f'device is "{settings.device}", but {folder} enrols "{device.device}"; change one of them')
    return Enrolment(device.device, device.mqtt_host, device.mqtt_port, device.hub_url, identity, root)


def device_of(settings: AgentSettings, enrolment: Enrolment | None) -> str:
    """The device's id: that of its enrolment, else what the settings call it, else empty."""
    return enrolment.device if enrolment is not None else settings.device or ""


def names_of(settings: AgentSettings, enrolment: Enrolment) -> tuple[str, ...]:
    """The names under which something may be meant for this device: its id, then its cohorts."""
    return device_of(settings, enrolment), *settings.cohorts


def known_keys() -> Iterator[str]:
    """Every key that may be set, as `section.key`."""
    return (key for key, _ in known_fields(AgentSettings))


def _table(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except ConfigError as error:
        raise SettingsError(str(error)) from error


def _check_environment(environment: Mapping[str, str]) -> None:
    """A variable that sets nothing is a mistake as much as a key that does; the library lets it pass."""
    known = {_variable(key) for key in known_keys()}
    sections = {_variable(".".join(key.split(".")[:depth])) for key in known_keys() for depth in (1, 2)}
    for name, value in environment.items():
        ours = name.startswith(PREFIX) and not name.startswith(_CLOUD_PREFIX) and "__" in name
        if ours and value and name not in known | sections:
            raise SettingsError(f"unknown variable {name} in the environment{nearest(name, known)}")


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", "__").upper()
