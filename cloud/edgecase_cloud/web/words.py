"""Numbers, times and reasons as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from edgecase_cloud.reviewable import Reason


class Wording(NamedTuple):
    """A strategy in a word or two, and in a sentence about what it measured."""

    chip: str
    sentence: str


DIGEST: Final = re.compile(r"[0-9a-f]{32,64}")
UNSURE: Final = "The model is unsure of what it sees: the entropy of its boxes is {score}."
STRATEGIES: Final = {
    "ede": Wording(
        "expected errors", "The model itself expects {score} wrong or missing boxes in what it reports of this picture."
    ),
    "committee": Wording(
        "two looks differ", "Two looks at this picture disagree; together they expect {score} wrong or missing boxes."
    ),
    "disagreement": Wording("boxes in dispute", "{disputed}"),
    "margin": Wording(
        "on the edge", "A box lies so near the operating point that it could fall either way: {score} of 1.00."
    ),
    "least_confidence": Wording(
        "low confidence", "The boxes that the model reports here carry little confidence: {score} short of certain."
    ),
    "entropy_max": Wording("unsure", UNSURE),
    "entropy_mean": Wording("unsure", UNSURE),
    "entropy_sum": Wording("unsure", UNSURE),
    "novelty": Wording("new to it", "The scene looks unlike what this camera showed lately: {score} away."),
    "audit": Wording(
        "audit",
        "Drawn by lot, to see how the model does where it feels sure. Each frame of its window had a chance of {propensity}.",
    ),
    "adopted": Wording(
        "from the store",
        "It is known by its object alone: what the model saw, its device has not said since the catalogue was restored.",
    ),
    "context": Wording("context", "Sent along with another frame, {score} s from it, for whoever labels that one."),
}
SYNONYMS: Final = {
    "uncertainty": "entropy_sum",
    "random": "audit",
    "c_ede": "committee",
    "committee_ede": "committee",
    "second_look": "committee",
    "hard_disagreement": "disagreement",
}
QUOTAS: Final = {
    "best": "best value",
    "class": "rare class",
    "camera": "camera's turn",
    "condition": "light's turn",
    "audit": "audit",
    "lot": "by lot",
}


def quota(name: str) -> str:
    """What served a frame of the batch, in a word or two."""
    return QUOTAS.get(name, name)


def chip(strategy: str) -> str:
    """The reason in a word or two."""
    known = _wording(strategy)
    return known.chip if known else strategy.replace("_", " ")


def explain(reason: Reason) -> str:
    """The reason in a sentence or two."""
    known = _wording(reason.strategy)
    if known is None:  # a name that a device gave is no template
        told = f"The strategy “{reason.strategy}” measured {decimal(reason.score)}."
    else:
        told = known.sentence.format(
            score=decimal(reason.score), propensity=percent(reason.propensity), disputed=_disputed(reason.score)
        )
    return told if reason.threshold <= 0 else f"{told} From {decimal(reason.threshold)} on it was worth sending."


def happened(kind: str, subject: str, detail: dict[str, Any]) -> str:
    """An entry of the event log in a line."""
    who = short(subject) if DIGEST.fullmatch(subject) else subject
    match kind:
        case "release":
            return f"number {detail.get('release', '?')}: {detail.get('name', 'model')} {detail.get('version', '')}"
        case "job":
            return f"{who} {detail.get('state', 'ended')}{_reason(detail)}"
        case "device added":
            return f"{who} added"
        case "dead letter":
            return f"{who or 'someone'}: a message was set aside{_reason(detail)}"
        case "forged topic" if "topic" in detail:
            return f"{who or 'someone'} may not {detail.get('reason', 'use')} {detail['topic']}"
        case "forged topic":
            return f"{who} spoke as {detail.get('claims', 'another')}; dropped"
        case "forgotten":
            return f"{detail.get('frames', 0)} frames of {who}"
    return f"{who or 'someone'}{_reason(detail)}"


def decimal(value: float) -> str:
    """Two digits behind the point, three below a tenth."""
    return f"{value:.3f}" if abs(value) < 0.1 and value else f"{value:.2f}"


def percent(share: float) -> str:
    """A share as a percentage; small ones keep a digit."""
    value = share * 100
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def number(value: float) -> str:
    """Thousands set apart by a thin space."""
    return f"{value:,.0f}".replace(",", "\u202f")


def bytes_(value: float) -> str:
    """Bytes in the largest unit that leaves a whole number in front."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def short(digest: str | None) -> str:
    """The first twelve characters of a digest."""
    return (digest or "")[:12]


def ago(at: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in one unit."""
    if at is None:
        return "never"
    seconds = max(0.0, ((now or datetime.now(UTC)) - at).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def duration(started: datetime | None, finished: datetime | None, now: datetime | None = None) -> str:
    """How long something took, or has taken so far."""
    if started is None:
        return "—"
    seconds = max(0.0, ((finished or now or datetime.now(UTC)) - started).total_seconds())
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def moment(at: datetime | None) -> str:
    """A point in time, in UTC, to the second."""
    return "—" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(at: datetime) -> str:
    """A point in time for programs."""
    return at.astimezone(UTC).isoformat()


def _reason(detail: dict[str, Any]) -> str:
    why = detail.get("error") or detail.get("reason")
    return f": {str(why)[:160]}" if why else ""


def _disputed(count: float) -> str:
    if not count:
        return "Both looks report the same boxes."
    return f"Two looks at this picture disagree about {count:.0f} box{'es' if count != 1 else ''}."


def _wording(strategy: str) -> Wording | None:
    return STRATEGIES.get(SYNONYMS.get(strategy, strategy))
