"""A replay for people: a table for the terminal, and one HTML file with everything in it that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgecase_agent import replay_plots as plots
from edgecase_agent.replayed import RANK, Captured, Figure, Pick, Recorded, Replayed, Still
from edgecase_agent.selection import AUDIT, CONTEXT
from edgecase_models.wire import Reason

if TYPE_CHECKING:
    from rich.table import Table

MOST_PICTURES: Final = 60
"""Of each policy; of more picks, so many are shown, evenly spread."""

_SHEET: Final = Path(__file__).with_name("replay_report.css")
_LOWEST_SHOWN: Final = 0.1
_WORDS: Final = {
    "ede": "expected errors",
    "c_ede": "two looks differ",
    "disagreement": "boxes in dispute",
    "seen_by_one": "seen by one alone",
    "gap": "gap in a track",
    "score_drop": "score drops",
    "class_flip": "class flips",
    "birth": "begins in mid-frame",
}


# ---- figures in rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure, and what stands beside it."""

    text: str
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of every policy, in a group of rows."""

    group: str
    name: str
    cells: tuple[Cell, ...]


def rows(document: Replayed) -> list[Row]:
    """What is compared, policies as columns; what no policy has is left out."""
    found = [*_kept_rows(document), *_cost_rows(document), *_caught_rows(document)]
    return [row for row in found if any(cell.text not in ("", "–") for cell in row.cells)]


def _kept_rows(document: Replayed) -> Iterator[Row]:
    each = document.policies
    budgets = (Cell(policy.budget, f"{_amount(policy.allowed_frames)} here") for policy in each)
    yield Row("Kept", "budget", tuple(budgets))
    yield Row("Kept", "frames", tuple(Cell(f"{p.kept:,}", _share(p.kept, document.frames)) for p in each))
    names = sorted({name for policy in each for name in policy.by_trigger}, key=_order)
    for name in names:
        yield Row("Kept", _trigger(name), tuple(Cell(f"{policy.by_trigger.get(name, 0):,}") for policy in each))
    near = (Cell("–" if p.near_duplicates is None else f"{p.near_duplicates:.2f}") for p in each)
    yield Row("Kept", "near-duplicates", tuple(near))


def _cost_rows(document: Replayed) -> Iterator[Row]:
    each = document.policies
    weight = (Cell(_bytes(p.bytes_kept), _share(p.bytes_kept, document.jpeg_bytes)) for p in each)
    yield Row("Cost", "bytes to send", tuple(weight))
    boxes = (
        Cell(_amount(p.expected_boxes), f"{p.expected_boxes / p.kept:.1f} a frame" if p.kept else "") for p in each
    )
    yield Row("Cost", "expected boxes to label", tuple(boxes))
    first_ms = document.detect_ms * document.frames
    looks = (
        Cell(f"{p.second_looks:,}", f"+{p.second_looks_ms / first_ms:.0%} time" if p.second_looks else "") for p in each
    )
    yield Row("Cost", "second looks", tuple(looks))


def _caught_rows(document: Replayed) -> Iterator[Row]:
    caught = [policy.captured for policy in document.policies]
    for name, field in (
        ("picks that fail", "precision"),
        ("failing frames", "failures"),
        ("severe: two errors or more", "severe"),
        ("errors", "errors"),
        ("missed objects", "missed_objects"),
    ):
        yield Row("Caught", name, tuple(_figure(each, field) for each in caught))


def _figure(captured: Captured | None, field: str) -> Cell:
    if captured is None:
        return Cell("")
    figure: Figure = getattr(captured, field)
    if figure.value is None:
        return Cell("–")
    return Cell(_percent(figure.value), f"{figure.value / figure.by_chance:.2f} × chance" if figure.by_chance else "")


def table(document: Replayed) -> Table:
    """The rows for a terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = Table("")
    for policy in document.policies:
        shown.add_column(Text(policy.name), justify="right")
    group = ""
    for row in rows(document):
        if group and row.group != group:
            shown.add_section()
        group = row.group
        cells = [Text.assemble(cell.text, (f"  {cell.aside}" if cell.aside else "", "dim")) for cell in row.cells]
        shown.add_row(Text(row.name, "bold" if row.name in ("frames", "errors") else ""), *cells)
    return shown


def headline(document: Replayed) -> str:
    """The recording and the detector on it, in a line or two."""
    speed = document.recorded_s / document.took_s if document.took_s else 0.0
    said = (
        f"{document.frames:,} frames, {plots.clock(document.recorded_s)} of recording in {document.took_s:.1f} s "
        f"({speed:.2g} × as fast), through {document.model} ({document.model_digest[:12]})"
    )
    truth = document.truth
    if truth is None:
        return said
    errors = truth.false_negatives + truth.false_positives
    missed = "" if truth.missed_objects is None else f", {truth.missed_objects:,} different objects are missed"
    return (
        f"{said}. In {truth.labelled_frames:,} labelled frames with {truth.objects:,} objects it makes {errors:,} errors: "
        f"{truth.failures:,} frames fail, {truth.severe:,} severely{missed}"
    )


def notes(document: Replayed) -> list[tuple[str, str]]:
    """What a reader should know, each with what it is about."""
    found = [(policy.name, note) for policy in document.policies for note in policy.notes]
    if not document.calibrated:
        found.insert(
            0, (document.model, "its scores are not calibrated and taken at their word; see edgecase-model calibrate")
        )
    if document.failed:
        found.insert(0, ("source", f"{document.failed:,} frames could not be looked at, the first: {document.problem}"))
    return found


# ---- the page ----------------------------------------------------------------------------------------------------------


def page(recorded: Recorded) -> str:
    """The report as HTML. Its policy forbids every script and every request; its one sheet is allowed by its digest."""
    document, sheet = recorded.document, _SHEET.read_text()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    name = escape(
        document.source if document.source.startswith("sim:") else document.source.rstrip("/").rpartition("/")[2]
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>Replay of {name} · edgecase</title>\n<style>{sheet}</style>\n</head>\n<body>",
            f"<h1>Replay of {name}</h1>",
            f'<p class="lead">{escape(_lead(document))}</p>',
            *_tiles(document),
            *(f'<p class="note"><b>{escape(about)}</b> {escape(note)}</p>' for about, note in notes(document)),
            *_comparison(document),
            *_against_budget(recorded),
            *_timelines(recorded),
            *_why(document),
            *_galleries(recorded),
            "</body>\n</html>\n",
        ]
    )


def _lead(document: Replayed) -> str:
    said = f"{document.source}, through {document.model} ({document.model_digest[:12]}), in {document.took_s:.1f} s."
    truth = document.truth
    if truth is None:
        return said
    more = f" and {len(truth.classes) - 6} classes more" if len(truth.classes) > 6 else ""
    return (
        f"{said} Judged by {truth.name}: {truth.objects:,} objects in {truth.labelled_frames:,} labelled frames "
        f"({', '.join(truth.classes[:6])}{more}). Of what scores {document.operating_point:g} or more "
        f"{truth.false_positives:,} boxes hit none, and {truth.false_negatives:,} objects are missed."
    )


def _tiles(document: Replayed) -> Iterator[str]:
    found = [
        ("frames", f"{document.frames:,}"),
        ("of recording", plots.clock(document.recorded_s)),
        ("as fast as recorded", f"{document.recorded_s / document.took_s:.2g} ×" if document.took_s else "–"),
        ("all frames as JPEG", _bytes(document.jpeg_bytes)),
    ]
    truth = document.truth
    if truth is not None:
        found += [
            ("frames fail", _share(truth.failures, truth.labelled_frames)),
            ("errors", f"{truth.false_negatives + truth.false_positives:,}"),
        ]
        found += [] if truth.missed_objects is None else [("objects missed", f"{truth.missed_objects:,}")]
    yield '<dl class="tiles">'
    yield from (f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for name, value in found)
    yield "</dl>"


def _comparison(document: Replayed) -> Iterator[str]:
    chance = " Beside each share: how many times what as many random picks would catch." if document.truth else ""
    yield f"<h2>{'Policies' if len(document.policies) > 1 else 'The policy'}<small>{chance.strip()}</small></h2>"
    heads = "".join(
        f'<th scope="col"><span class="dot p{number % 6}">{escape(policy.name)}</span></th>'
        for number, policy in enumerate(document.policies)
    )
    yield f'<div class="sheet"><table><thead><tr><th></th>{heads}</tr></thead>'
    group = ""
    for row in rows(document):
        if row.group != group:
            yield ("</tbody>" if group else "") + "<tbody>"
            group = row.group
        cells = "".join(f"<td>{escape(cell.text)}<span>{escape(cell.aside)}</span></td>" for cell in row.cells)
        yield f'<tr><th scope="row">{escape(row.name)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _against_budget(recorded: Recorded) -> Iterator[str]:
    errors, document = recorded.errors, recorded.document
    if errors is None or not errors.failures.any():
        return
    yield "<h2>Caught against budget<small>up and to the left is better</small></h2>"
    yield f'<div class="pair"><div class="sheet"><h3>Errors</h3>{plots.errors_caught(recorded, errors)}</div>'
    if errors.missed_tracks:
        drawn = plots.objects_caught(recorded, errors)
        yield f'<div class="sheet"><h3>Different objects that are missed</h3>{drawn}</div>'
    yield '</div><p class="legend">'
    for number, policy in enumerate(document.policies):
        yield f'<span class="dot p{number % 6}">{escape(policy.name)}</span>'
    yield f"<span>{_sample('score p0')}the frames of highest score, wherever they lie</span>"
    yield f"<span>{_sample('chance')}random picks</span><span>{_sample('perfect')}perfect knowledge</span></p>"


def _timelines(recorded: Recorded) -> Iterator[str]:
    document = recorded.document
    yield "<h2>Over time<small>how doubtful each frame was (roots are drawn, so that low ones show), and which were kept</small></h2>"
    for number, policy in enumerate(document.policies):
        head = f'<h3 class="dot p{number % 6}">{escape(policy.name)}</h3>' if len(document.policies) > 1 else ""
        yield f'<div class="sheet p{number % 6}">{head}{plots.timeline(recorded, number)}</div>'
    triggers = {name for policy in document.policies for name in policy.by_trigger}
    yield '<p class="legend p0">'
    if RANK in triggers:
        yield f"<span>{_dot('rank')}by rank</span>"
    if AUDIT in triggers:
        yield f"<span>{_dot('audit')}by lot</span>"
    if triggers - {RANK, AUDIT, CONTEXT}:
        yield '<span><svg aria-hidden="true"><path class="called" d="M13 1l6 6-6 6-6-6z"/></svg>called for</span>'
    if CONTEXT in triggers:
        yield '<span><svg aria-hidden="true"><path class="context" d="M13 12v-9"/></svg>context</span>'
    if document.truth is not None:
        yield '<span><svg aria-hidden="true"><rect class="err" y="3" width="26" height="8"/></svg>the detector errs</span>'
    yield "</p>"


def _why(document: Replayed) -> Iterator[str]:
    yield '<h2>Why kept, why not</h2><div class="why">'
    for number, policy in enumerate(document.policies):
        name = f' <span class="dot p{number % 6}">{escape(policy.name)}</span>' if len(document.policies) > 1 else ""
        for title, counts in (("Kept for", policy.by_reason), ("Let go because", policy.skipped)):
            lines = "".join(
                f"<li><span>{escape(_words(reason))}</span><b>{count:,}</b></li>" for reason, count in counts.items()
            )
            yield f'<div class="sheet"><h3>{title}{name}</h3><ul>{lines or "<li>nothing</li>"}</ul></div>'
    yield "</div>"


# ---- pictures ----------------------------------------------------------------------------------------------------------


def _galleries(recorded: Recorded) -> Iterator[str]:
    document = recorded.document
    key = f"{_box('seen')}reported {_box('low')}a candidate, from {_LOWEST_SHOWN:g} on"
    if document.truth is not None:
        key += f" {_box('there')}there, and seen {_box('missed')}there, and missed"
    for number, policy in enumerate(document.policies):
        shown = _spread(policy.picks)
        said = f"{len(shown)} of {len(policy.picks):,}, evenly spread" if len(shown) < len(policy.picks) else ""
        title = (
            f'<span class="dot p{number % 6}">{escape(policy.name)}</span>' if len(document.policies) > 1 else "Picks"
        )
        opened = " open" if number == 0 else ""
        yield f"<details{opened}><summary><h2>{title}<small>{said or f'{len(shown)} picks'}</small></h2></summary>"
        yield f'<p class="legend">{key}</p><div class="cards">'
        others = [
            (other.name, {pick.frame_index for pick in other.picks})
            for other in document.policies
            if other is not policy
        ]
        for pick in shown:
            also = [name for name, picks in others if pick.frame_index in picks]
            yield _card(pick, recorded.stills[pick.frame_index], recorded, also)
        yield "</div></details>"


def _spread(picks: Sequence[Pick]) -> list[Pick]:
    if len(picks) <= MOST_PICTURES:
        return list(picks)
    places = np.linspace(0, len(picks) - 1, MOST_PICTURES).round().astype(int)
    return [picks[place] for place in places.tolist()]


def _card(pick: Pick, still: Still, recorded: Recorded, also: Sequence[str]) -> str:
    telling = [reason for number, reason in enumerate(pick.reasons) if reason.score or not number]
    chips = "".join(_chip(reason) for reason in telling[:3])
    more = f'<span class="soft">+{len(telling) - 3}</span>' if len(telling) > 3 else ""
    elsewhere = "".join(f'<span class="chip">also {escape(name)}</span>' for name in also)
    said = f"frame {pick.frame_index} with what was seen in it"
    height, width = still.hw_px
    return (
        f'<figure><svg class="picture" viewBox="0 0 {width} {height}" role="img" aria-label="{said}">'
        f"{_image(still)}{_boxes(still, recorded)}</svg>"
        f"<figcaption><div><b>{plots.clock(pick.at_s, 0.1)}</b>"
        f'<span class="soft">frame {pick.frame_index:,}, {escape(_trigger(pick.trigger))}</span>'
        f'<span class="end">{pick.score:.2f}</span></div><div>{chips}{more}{elsewhere}</div>{_verdict(pick)}</figcaption></figure>'
    )


def _image(still: Still) -> str:
    height, width = still.hw_px
    if not still.thumbnail_jpeg:
        return f'<text x="{width / 2}" y="{height / 2}" font-size="{height / 16}" text-anchor="middle">kept without its pixels</text>'
    picture = base64.b64encode(still.thumbnail_jpeg).decode()
    return f'<image width="{width}" height="{height}" href="data:image/jpeg;base64,{picture}"/>'


def _chip(reason: Reason) -> str:
    said = f"score {reason.score:.3f}, from {reason.threshold:.3f} on"
    if isinstance(reason.rank, float) and reason.rank:
        said += f", above {reason.rank:.0%} of recent frames"
    if reason.propensity < 1:
        said += f", drawn with a chance of {reason.propensity:.2%}"
    return (
        f'<span class="chip" title="{escape(said)}">{escape(_words(reason.strategy))} <i>{reason.score:.2f}</i></span>'
    )


def _verdict(pick: Pick) -> str:
    if pick.false_negatives is None or pick.false_positives is None:
        return ""
    if not pick.false_negatives + pick.false_positives:
        return '<div class="right">no error</div>'
    parts = [f"{pick.false_negatives} missed"] * bool(pick.false_negatives)
    parts += [f"{pick.false_positives} false"] * bool(pick.false_positives)
    return f'<div class="wrong">{", ".join(parts)}</div>'


def _boxes(still: Still, recorded: Recorded) -> str:
    """The candidates, the best on top; over them what is there."""
    parts = []
    for box in reversed(still.boxes):
        if box.score >= min(_LOWEST_SHOWN, recorded.document.operating_point):
            kind = "seen" if box.score >= recorded.document.operating_point else "low"
            said = f"{recorded.names[box.cls]} {box.score:.2f}"
            parts.append(_rect((box.x1, box.y1, box.x2, box.y2), kind, said))
    if still.objects is not None and still.errors is not None:
        there = zip(still.objects.boxes_xyxy_px.tolist(), still.objects.classes, still.errors.missed, strict=True)
        for corners, cls, missed in there:
            name = recorded.names[int(cls)]
            parts.append(_rect(corners, "missed", f"{name}, missed") if missed else _rect(corners, "there", name))
    return "".join(parts)


def _rect(corners: Sequence[float], kind: str, said: str) -> str:
    left, top, right, bottom = corners
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}">'
        f"<title>{escape(said)}</title></rect>"
    )


# ---- words -------------------------------------------------------------------------------------------------------------


def _sample(kind: str) -> str:
    return f'<svg aria-hidden="true"><polyline class="{kind}" points="0,7 26,7"/></svg>'


def _dot(kind: str) -> str:
    return f'<svg aria-hidden="true"><circle class="{kind}" cx="13" cy="7" r="4.5"/></svg>'


def _box(kind: str) -> str:
    return f'<svg aria-hidden="true"><rect class="{kind}" fill="none" x="3" y="2" width="20" height="10"/></svg>'


def _words(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " "))


def _trigger(name: str) -> str:
    return {RANK: "by rank", AUDIT: "by lot"}.get(name, name.replace(":", " "))


def _order(name: str) -> tuple[int, str]:
    known = (RANK, AUDIT)
    return (known.index(name) if name in known else 9 if name == CONTEXT else 5, name)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}"


def _share(part: float, whole: float) -> str:
    return _percent(part / whole) if whole else ""


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"
