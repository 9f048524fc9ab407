"""What a person may set: one TOML file in the data folder, the environment over it, the command line over both."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgecase_cloud.errors import Unusable
from edgecase_models.config import ConfigError, first_fault, nearest, read_toml

if TYPE_CHECKING:
    from edgecase_cloud.batch import BatchRules

FILE_NAME: Final = "cloud.toml"
PREFIX: Final = "EDGECASE_CLOUD_"

Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(Unusable):
    """A setting that cannot be used; the message names it and what may stand there."""


class CloudSettings(BaseModel):
    """The settings of one cloud. A port of 0 means any free one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path
    host: str = Field("127.0.0.1", description="Loopback address that all servers bind to and devices are told.")
    web_port: Port = 8700
    mqtt_port: Port = 8701
    s3_port: Port = 8702
    durability: Literal["normal", "strict"] = Field(
        "normal", description="strict: an acknowledged frame survives a power cut of this machine, too."
    )
    grant_s: int = Field(900, ge=30, le=604_800, description="How long a device may use a grant.")
    token_s: int = Field(86_400, ge=1, le=2_592_000, description="How long a token may be used to enrol a device.")
    certificate_days: float = Field(
        30, gt=0, le=397, description="How long a device's certificate lasts; it is renewed at two thirds of that."
    )
    max_frames_per_device_per_day: int | None = Field(
        None, ge=0, description="Offers of one device beyond this many in one UTC day are declined."
    )
    decline_duplicates: bool = Field(
        default=False,
        description="Offers of frames that show what a lately taken, no less doubtful one shows are declined.",
    )
    batch_frames: int = Field(100, ge=1, le=500, description="How many frames the batch to label holds.")
    batch_explore_share: float = Field(
        0.25, ge=0, le=1, description="Of the batch, how much is random: audits, then lots."
    )
    label_frame_s: float = Field(
        5.0, gt=0, le=3600, description="Seconds a labeller needs to open a frame and look it over."
    )
    label_box_s: float = Field(7.0, ge=0, le=3600, description="Seconds a labeller needs for each box.")
    retention_days: int | None = Field(
        None, ge=1, le=36_500, description="So long after its ack a frame's picture is kept; left out: for good."
    )
    max_classes: int = Field(2000, ge=1, le=65_535, description="How many class names all devices together may bring.")
    broker_store_bytes: int = Field(4 << 30, ge=64 << 20, description="Disk that undelivered messages may take.")
    min_free_bytes: int = Field(256 << 20, ge=0, description="`up` does not start with less free disk than this.")
    log_bytes: int = Field(16 << 20, ge=1 << 16, description="A log longer than this at start begins anew.")

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("host")
    @classmethod
    def _loopback(cls, value: str) -> str:
        address = "127.0.0.1" if value == "localhost" else value
        try:
            loopback = ipaddress.IPv4Address(address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(
                f"{value!r} is not a loopback address like 127.0.0.1: the pages have no login and the store no TLS, "
                "so they serve this machine only"
            )
        return address

    def path(self, *parts: str) -> Path:
        """A path in the data folder."""
        return self.data.joinpath(*parts)

    @property
    def hub_url(self) -> str:
        """Where the pages and the signed releases are."""
        return f"http://{self.host}:{self.web_port}"

    @property
    def store_url(self) -> str:
        """Where the object store listens."""
        return f"http://{self.host}:{self.s3_port}"

    def batch_rules(self) -> BatchRules:
        """How the batch to label is chosen."""
        from edgecase_cloud.batch import BatchRules

        return BatchRules(
            frames=self.batch_frames,
            explore_share=self.batch_explore_share,
            frame_s=self.label_frame_s,
            box_s=self.label_box_s,
        )

    def environment(self) -> dict[str, str]:
        """This process's environment with these very settings in it, for a child process."""
        mine = {
            f"{PREFIX}{name.upper()}": str(value)
            for name, value in self.model_dump(exclude={"data"}).items()
            if value is not None
        }
        return {**os.environ, **mine}


def load(data: Path, **given: Any) -> CloudSettings:
    """The settings of a data folder; `given` (where not None) overrides environment and file. Raises `SettingsError`."""
    try:
        folder = data.expanduser()
        path = folder / FILE_NAME
        written = read_toml(path) if path.exists() else {}
    except ConfigError as error:
        raise SettingsError(str(error)) from error
    except (OSError, ValueError, RuntimeError) as error:  # a path that cannot be one, a home folder that is none
        raise SettingsError(f"{data / FILE_NAME} cannot be read: {error}") from error
    if "data" in written:
        raise SettingsError(f'"data" in {FILE_NAME}: the data folder is the one that the file lies in; leave it out')
    over = _environment(os.environ) | {name: value for name, value in given.items() if value is not None}
    try:
        return CloudSettings(**{**written, **over, "data": folder})
    except ValidationError as error:
        faults, elsewhere = error.errors(include_url=False), "the environment or the command line"
        in_file = {key: value for key, value in written.items() if key not in over}
        raise SettingsError(first_fault(faults, in_file, FILE_NAME, CloudSettings.model_fields, elsewhere)) from error


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What the environment sets; a variable that sets nothing is a mistake as much as a key that does."""
    known = CloudSettings.model_fields
    found = {}
    for name, value in variables.items():
        if name.startswith(PREFIX):
            key = name.removeprefix(PREFIX).lower()
            if key not in known:
                raise SettingsError(f"environment variable {name} sets nothing{nearest(key, known)}")
            found[key] = value
    return found
