"""The command that reads a policy before a device does: `edgecase-model policy check`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from edgecase_models.policy import CampaignPolicy, Limits, Policy

app = typer.Typer(no_args_is_help=True, help="Policies: what devices look for, and what they may spend.")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A policy in TOML.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the policy as it travels, for a script.")] = False,
) -> None:
    """Read a policy as a device would, and show its budget and campaigns; exit 2 where it cannot be used."""
    from rich.console import Console

    from edgecase_models import wire
    from edgecase_models.policy import PolicyError, read_policy

    try:
        policy = read_policy(file)
    except PolicyError as error:
        Console(stderr=True).print(f"[red]error:[/red] {_plain(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps({"digest": policy.digest, "policy": json.loads(policy.to_json())}))
        return
    console = Console(highlight=False)
    console.print(f"✓ {policy.name}, {policy.digest[:12]}: {_in_words(policy)}", soft_wrap=True)
    console.print(_budget(policy.selection.budget))
    if policy.campaigns:
        console.print(_campaigns(policy.campaigns, wire.now()))


def _in_words(policy: Policy) -> str:
    chosen = policy.selection
    triggers = ", ".join(chosen.triggers) or "nothing: no frame is kept"
    return f"frames are ordered by {chosen.strategy}; picked by {triggers}"


def _budget(limits: Limits) -> Table:
    from rich.table import Table

    from edgecase_models.policy import PERIODS_S, Currency

    amounts = {(limit.currency, limit.period): f"{limit.amount:,.15g}" for limit in limits.each()}
    for limit in limits.unreachable():
        amounts[limit.currency, limit.period] += " (never reached)"
    table = Table("", *(f"per {period}" for period in PERIODS_S), title="budget", title_justify="left")
    for currency in Currency:
        table.add_row(currency, *(amounts.get((currency, period), "no limit") for period in PERIODS_S))
    return table


def _campaigns(campaigns: tuple[CampaignPolicy, ...], now: datetime) -> Table:
    from rich.table import Table

    columns = ("campaign", "", "when", "a day", "for", "from", "until", "priority")
    table = Table(*columns, title="campaigns", title_justify="left")
    for campaign in sorted(campaigns, key=lambda each: -each.priority):
        table.add_row(
            campaign.name,
            campaign.state_at(now),
            _plain(campaign.when),
            f"{campaign.quota_per_day:,}",
            _plain(", ".join(campaign.cohort)) or "all",
            _day(campaign.starts_at),
            _day(campaign.expires_at),
            str(campaign.priority),
        )
    return table


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
