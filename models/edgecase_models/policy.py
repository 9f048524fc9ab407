"""What a device is to look for and may spend on it: the one schema of its settings, of a policy file and of a policy over the air."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from edgecase_models.config import ConfigError, first_fault, make_absolute, read_toml
from edgecase_models.keys import check_keys
from edgecase_models.strategy import Strategy, Trigger

__all__ = [
    "MAX_CAMPAIGNS",
    "MAX_CONDITION_CHARS",
    "MAX_POLICY_BYTES",
    "PERIODS_S",
    "CampaignPolicies",
    "CampaignPolicy",
    "CampaignState",
    "CommitteePolicy",
    "Currency",
    "Limit",
    "Limits",
    "Policy",
    "PolicyError",
    "SecondMember",
    "Section",
    "SelectionPolicy",
    "Share",
    "Strategy",
    "Trigger",
    "check_committee",
    "check_travels",
    "known_fields",
    "read_policy",
]

MAX_POLICY_BYTES: Final = 100_000
MAX_CAMPAIGNS: Final = 32
MAX_CONDITION_CHARS: Final = 1000
PERIODS_S: Final[Mapping[str, float]] = MappingProxyType(
    {"minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 30 * 86_400.0}
)
_SMALLEST: Final = MappingProxyType({"frames": 1, "bytes": 10_000, "boxes": 1})
_YEARS: Final = (2000, 2200)

Share = Annotated[float, Field(ge=0, le=1)]


class PolicyError(ValueError):
    """A policy that cannot be used: one line that names the key and what may stand there. The policy in force stays."""


class Section(BaseModel):
    """A table of a configuration, read-only once it is read; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Currency(StrEnum):
    """What a kept frame costs: a place in the queue, bytes on the line, boxes that a person has to draw."""

    FRAMES = "frames"
    BYTES = "bytes"
    BOXES = "boxes"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of `currency` in any stretch of one `period`."""

    currency: Currency
    period: str
    amount: float

    @property
    def period_s(self) -> float:
        """The length of the period; a month has 30 days."""
        return PERIODS_S[self.period]

    @property
    def name(self) -> str:
        """The key that sets it."""
        return f"{self.currency}_per_{self.period}"


def _limit(description: str, most: float) -> Any:
    return Field(default=None, ge=0, le=most, description=description)


class Limits(Section):
    """What may be spent; left out is no limit.

    Where no limit of frames is given it is 60 an hour, where none of bytes is given it is 200 MB a day. A limit that another one makes
    unreachable (1,000 an hour beside 100 a day) is accepted: settings are layered, a file under the environment, and the tighter one
    holds anyway. `unreachable` names those, and `edgecase-model policy check` shows them.
    """

    frames_per_minute: float | None = _limit("At most this many frames are kept in any minute.", 1e6)
    frames_per_hour: float | None = _limit(
        "In any hour; its default counts where no other limit of frames is set.", 1e6
    )
    frames_per_day: float | None = _limit("In any 24 hours.", 1e6)
    frames_per_month: float | None = _limit("In any 30 days.", 1e6)
    bytes_per_minute: float | None = _limit("At most this many bytes of pictures are kept in any minute.", 1e15)
    bytes_per_hour: float | None = _limit("In any hour.", 1e15)
    bytes_per_day: float | None = _limit(
        "In any 24 hours; its default counts where no other limit of bytes is set.", 1e15
    )
    bytes_per_month: float | None = _limit("In any 30 days.", 1e15)
    boxes_per_minute: float | None = _limit("At most this many boxes are expected to be labelled in any minute.", 1e9)
    boxes_per_hour: float | None = _limit("In any hour.", 1e9)
    boxes_per_day: float | None = _limit("In any 24 hours.", 1e9)
    boxes_per_month: float | None = _limit("In any 30 days.", 1e9)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        filled = dict(given)
        for currency, key, amount in (("frames", "frames_per_hour", 60.0), ("bytes", "bytes_per_day", 200e6)):
            if not any(f"{currency}_per_{period}" in filled for period in PERIODS_S):
                filled[key] = amount
        return filled

    @model_validator(mode="after")
    def _possible(self) -> Limits:
        limits = self.each()
        if not any(limit.currency is Currency.FRAMES for limit in limits):
            raise ValueError("no limit of frames is set; set frames_per_minute, _hour, _day or _month")
        for limit in limits:
            if limit.amount == 0:
                raise ValueError(
                    f"{limit.name} = 0 lets no frame through; leave it out for no such limit, "
                    "or set selection.triggers = [] to keep nothing"
                )
            if limit.amount < _SMALLEST[limit.currency]:
                raise ValueError(_too_small(limit))
        return self

    @model_serializer
    def _set(self) -> dict[str, float | None]:
        """The limits that are set; that there is none of bytes has to be said, or the default would come back."""
        limits: dict[str, float | None] = {limit.name: limit.amount for limit in self.each()}
        return limits if any(name.startswith("bytes") for name in limits) else {**limits, "bytes_per_day": None}

    def each(self) -> tuple[Limit, ...]:
        """The limits that are set, by currency, the shortest period first."""
        limits = (
            (currency, period, getattr(self, f"{currency}_per_{period}"))
            for currency in Currency
            for period in PERIODS_S
        )
        return tuple(Limit(currency, period, amount) for currency, period, amount in limits if amount is not None)

    def unreachable(self) -> tuple[Limit, ...]:
        """Those that can never be used up, since another one stands before them.

        A longer period's limit L' < L stands before L; a shorter period's L' does where L' · ⌈T / T'⌉ < L.
        """
        limits = self.each()
        return tuple(
            limit
            for limit in limits
            if any(_stands_before(other, limit) for other in limits if other.currency is limit.currency)
        )


def _stands_before(other: Limit, limit: Limit) -> bool:
    if other.period_s > limit.period_s:
        return other.amount < limit.amount
    periods = -(-limit.period_s // other.period_s)
    return other.period_s < limit.period_s and other.amount * periods < limit.amount


def _too_small(limit: Limit) -> str:
    if limit.currency is Currency.BYTES:
        return f"{limit.name} = {limit.amount:g} is less than a picture weighs; give bytes, as in 200_000_000"
    said = f"{limit.name} = {limit.amount:g} is less than one, so none could ever be kept"
    for period, period_s in PERIODS_S.items():
        amount = limit.amount * period_s / limit.period_s
        if period_s > limit.period_s and amount >= 1:
            return f"{said}; set {limit.currency}_per_{period} = {amount:g} instead"
    return f"{said}; set it to 1 at least"


class SelectionPolicy(Section):
    """Which frames are worth a label."""

    strategy: Strategy = Field(default=Strategy.EDE, description="What makes a frame doubtful.")
    triggers: Annotated[tuple[Trigger, ...], FailFast()] = Field(
        default=(Trigger.UNCERTAINTY, Trigger.AUDIT, Trigger.CAMPAIGN),
        description="What may pick a frame by itself; none keeps nothing.",
    )
    window_s: float = Field(
        default=10.0, ge=0, le=86_400, description="The most doubtful frames of each stretch of time are kept."
    )
    gap_s: float = Field(
        default=1.0, ge=0, le=86_400, description="Frames kept for their score lie at least this far apart."
    )
    audit_share: Share = Field(
        default=0.25, description="Of the frames, how many are drawn at random whatever they score."
    )
    min_box_height: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Boxes lower than this share of the picture's height count for nothing: objects too small to be labelled.",
    )
    min_score: float = Field(
        default=0.0, ge=0, description="A frame that scores no more than this is not kept for its score."
    )
    track_discount: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="What an object counts each time that it was kept before; 1 is undiminished.",
    )
    novelty_weight: float = Field(
        default=0.0, ge=0, le=10, description="How much a frame's novelty counts beside its score; 0 for not at all."
    )
    repeat_bits: int = Field(
        default=4, ge=-1, le=64, description="How alike two pictures may be; -1 keeps repetitions."
    )
    repeat_levels: int = Field(default=6, ge=0, le=255, description="How alike in brightness.")
    leaders: int = Field(default=16, ge=1, le=1000, description="Frames held in memory for one window.")
    memory: int = Field(default=64, ge=0, le=10_000, description="Kept frames that new ones are compared with.")
    context_before_s: float = Field(
        default=0.0, ge=0, le=30, description="Frames from this long before a pick go with it."
    )
    context_after_s: float = Field(default=0.0, ge=0, le=30, description="And from this long after it.")
    context_frames: int = Field(default=0, ge=0, le=100, description="How many of them on each side at most.")
    quotas: dict[Trigger, Annotated[float, Field(ge=1, le=1e6)]] = Field(
        default={}, description="How many frames a trigger may pick in any hour; left out is no quota."
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="Makes the random picks repeatable.")
    budget: Limits = Limits()

    @field_validator("triggers")
    @classmethod
    def _in_order(cls, given: tuple[Trigger, ...]) -> tuple[Trigger, ...]:
        return tuple(trigger for trigger in Trigger if trigger in given)

    @model_validator(mode="after")
    def _context_is_whole(self) -> SelectionPolicy:
        if self.context_frames and not (self.context_before_s or self.context_after_s):
            raise ValueError(
                f"context_frames = {self.context_frames} without a time to take them from; "
                "set context_before_s or context_after_s, or context_frames = 0"
            )
        if not self.context_frames and (self.context_before_s or self.context_after_s):
            raise ValueError("a time for context frames without a number of them; set context_frames")
        return self

    def may_pick(self, trigger: Trigger) -> bool:
        """Whether a frame can be kept for this reason alone."""
        return trigger in self.triggers and not (trigger is Trigger.AUDIT and self.audit_share == 0)


class SecondMember(StrEnum):
    """Who gives the second opinion."""

    SHIFTED = "shifted"
    """The same model on the picture moved by half a stride."""

    FLIPPED = "flipped"
    """The same model on the picture's mirror image."""

    BUNDLE = "bundle"
    """Another model, that of `committee.bundle`."""

    CANDIDATE = "candidate"
    """The newest model that was fetched and does not run yet."""


class CommitteePolicy(Section):
    """A second opinion on the doubtful frames."""

    share: Share = Field(default=0.2, description="Of the frames, how many get it by rank; 0 for no committee.")
    random_share: Share = Field(default=0.01, description="Of the others, how many get it by chance.")
    member: SecondMember = Field(
        default=SecondMember.FLIPPED,
        description="Who gives it: shifted, flipped, candidate, or bundle, where one is named.",
    )
    bundle: Path | None = Field(default=None, description="Another model as the second member.")
    compute_share: float = Field(
        default=0.2, gt=0, le=1, description="Of the time that frames take, how much it may take at most."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_bundle_is_the_member(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("bundle") and "member" not in given:
            return {**given, "member": SecondMember.BUNDLE}
        return given

    @model_validator(mode="after")
    def _the_member_is_there(self) -> CommitteePolicy:
        if self.member is SecondMember.BUNDLE and self.bundle is None:
            raise ValueError('member = "bundle" without a bundle; name its file in committee.bundle')
        if self.member is not SecondMember.BUNDLE and self.bundle is not None:
            raise ValueError(f'a bundle is set but the member is "{self.member}"; leave one of them out')
        return self


def _in_utc(moment: datetime) -> datetime:
    if not _YEARS[0] <= moment.year < _YEARS[1]:
        raise ValueError(f"the year {moment.year} is not between {_YEARS[0]} and {_YEARS[1]}")
    return moment.astimezone(UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class CampaignState(StrEnum):
    """Where a campaign is in its life."""

    WAITS = "not yet"
    RUNS = "runs"
    EXPIRED = "expired"


class CampaignPolicy(Section):
    """Frames that are looked for on purpose, while it lasts."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,40}$", description="Its name, which the frames that it keeps carry.")
    when: str = Field(
        min_length=1, max_length=MAX_CONDITION_CHARS, description="The condition on a frame's facts, in CEL."
    )
    quota_per_day: int = Field(
        ge=1, le=1_000_000, description="How many frames it may keep in any 24 hours on one device."
    )
    cohort: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z0-9_*?\[\]!-]{1,64}$")], ...], FailFast()] = Field(
        default=(), max_length=100, description="Devices or cohorts that it is for, * and ? allowed; none are all."
    )
    starts_at: Moment | None = Field(default=None, description="It rests before, a time with a zone.")
    expires_at: Moment | None = Field(default=None, description="It rests from then on.")
    priority: int = Field(
        default=0, ge=-100, le=100, description="A frame of several campaigns goes to the highest first."
    )

    @field_validator("when")
    @classmethod
    def _compiles(cls, text: str) -> str:
        from edgecase_models.campaign import compile_condition

        compile_condition(text)
        return text

    @model_validator(mode="after")
    def _lasts(self) -> CampaignPolicy:
        if self.starts_at is not None and self.expires_at is not None and self.starts_at >= self.expires_at:
            raise ValueError("it expires before it starts; set expires_at to a time after starts_at")
        return self

    def state_at(self, now: datetime) -> CampaignState:
        """Whether it runs; one that expired is kept, for people to see."""
        if self.expires_at is not None and now >= self.expires_at:
            return CampaignState.EXPIRED
        if self.starts_at is not None and now < self.starts_at:
            return CampaignState.WAITS
        return CampaignState.RUNS


def _unique(campaigns: tuple[CampaignPolicy, ...]) -> tuple[CampaignPolicy, ...]:
    names = [campaign.name for campaign in campaigns]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'two campaigns are called "{name}"; rename one')
    return campaigns


CampaignPolicies = Annotated[tuple[CampaignPolicy, ...], Field(max_length=MAX_CAMPAIGNS), AfterValidator(_unique)]


class Policy(Section):
    """Everything that a device is told about choosing frames. Its identity is its `digest`."""

    format: Literal["edgecase-policy/1"] = Field(default="edgecase-policy/1", description="The version of this form.")
    name: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="What people call it.")
    selection: SelectionPolicy = SelectionPolicy()
    committee: CommitteePolicy = CommitteePolicy()
    campaigns: CampaignPolicies = ()

    @model_validator(mode="after")
    def _travels(self) -> Policy:
        size_bytes = len(self.to_json())
        if size_bytes > MAX_POLICY_BYTES:
            raise ValueError(f"{size_bytes:,} bytes as JSON, more than {MAX_POLICY_BYTES:,}; shorten its campaigns")
        return self

    def to_json(self) -> bytes:
        """Canonical: keys sorted, no spaces, UTF-8, times in UTC. Equal policies give equal bytes.

        What is at its default is left out, so that a device that does not know a newer key yet reads every policy that does not use it.
        """
        content = self.model_dump(mode="json", exclude_defaults=True) | {"format": self.format, "name": self.name}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, payload: bytes) -> Policy:
        """The inverse of `to_json`, every bound checked, or `PolicyError`."""
        if len(payload) > MAX_POLICY_BYTES:
            raise PolicyError(f"policy: {len(payload):,} bytes, more than {MAX_POLICY_BYTES:,}")
        try:
            content = msgspec.json.decode(payload)
            check_keys(payload)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise PolicyError(f"policy: not valid JSON: {error}") from error
        return _validated(content, "policy")

    @property
    def digest(self) -> str:
        """The sha256 of `to_json`, in hexadecimal digits."""
        return hashlib.sha256(self.to_json()).hexdigest()


def read_policy(path: Path) -> Policy:
    """The policy of a TOML file, or `PolicyError` with one line. Paths in it are relative to the file."""
    try:
        content = read_toml(path)
    except ConfigError as error:
        raise PolicyError(str(error)) from error
    make_absolute(content, [("committee", "bundle")], path.absolute().parent)
    return _validated(content, path.name)


def check_committee(policy: Policy) -> None:
    """Raises `PolicyError` for a committee beside a strategy that it does not refine; one that is only there by default gives way."""
    strategy, chosen = policy.selection.strategy, policy.committee
    if strategy is not Strategy.EDE and "share" in chosen.model_fields_set and chosen.share:
        raise PolicyError(
            f'a committee refines "ede": set committee.share = 0, or selection.strategy to it, not "{strategy}"'
        )


def check_travels(policy: Policy) -> None:
    """Raises `PolicyError` for what means something only where the policy was written, or nothing anywhere."""
    check_committee(policy)
    if policy.committee.bundle is not None:
        raise PolicyError(
            f"committee.bundle names {policy.committee.bundle}, a file that no device has; "
            f'set committee.member = "{SecondMember.CANDIDATE}", or name the bundle in each device\'s own settings'
        )


def known_fields(model: type[BaseModel] = Policy, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that may be set, as `section.key`, with what is known of it; the tables of a list count as one."""
    for name, field in model.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is None:
            yield prefix + name, field
        else:
            yield from known_fields(inner, f"{prefix}{name}.")


def _section_of(annotation: object) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _validated(content: Any, name: str) -> Policy:
    if not isinstance(content, dict):
        raise PolicyError(f"{name}: not a table of keys")
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        raise PolicyError(first_fault(error.errors(include_url=False), content, name, dict(known_fields()))) from error
