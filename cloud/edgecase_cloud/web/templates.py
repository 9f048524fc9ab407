"""The templates with their filters; everything that goes into a page is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.templating import Jinja2Templates

from edgecase_cloud.web import outcome, words

TEMPLATES: Final = Jinja2Templates(directory=Path(__file__).parent / "templates")
TEMPLATES.env.filters.update(
    ago=words.ago,
    bytes=words.bytes_,
    chip=words.chip,
    decimal=words.decimal,
    explain=words.explain,
    iso=words.iso,
    moment=words.moment,
    number=words.number,
    percent=words.percent,
    quota=words.quota,
    short=words.short,
)
TEMPLATES.env.globals.update(
    conclusion=outcome.conclusion, curve=outcome.curve, duration=words.duration, happened=words.happened
)
TEMPLATES.env.trim_blocks = True
TEMPLATES.env.lstrip_blocks = True
