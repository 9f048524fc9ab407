"""The steps that bring a catalogue of any earlier version to this one. A step, once released, never changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from edgecase_cloud import durable
from edgecase_cloud.catalogue import Catalogue
from edgecase_cloud.errors import Unusable

if TYPE_CHECKING:
    from alembic.config import Config

HEAD: Final = "0007"  # the newest step in versions/
KNOWN: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")  # every step, in order


class NewerCatalogue(Unusable):
    """The catalogue was written by a newer version of this program; upgrade the program."""


def upgrade(catalogue: Catalogue) -> bool:
    """Bring the catalogue to `HEAD`, all or nothing; whether anything had to be done.

    Safe to call from several processes at once. Raises `NewerCatalogue`.
    """
    if _is_current(catalogue):
        return False
    path = catalogue.engine.url.database
    if catalogue.engine.dialect.name != "sqlite" or path is None:
        return _upgrade(catalogue)
    with durable.exclusive(Path(f"{path}.migrate.lock")):
        return not _is_current(catalogue) and _upgrade(catalogue)


def version(catalogue: Catalogue) -> str | None:
    """The step that the catalogue is at; None for an empty database."""
    with catalogue.engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return found


def configuration() -> Config:
    """How Alembic finds these steps; needs no file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config


def _is_current(catalogue: Catalogue) -> bool:
    found = version(catalogue)
    if found is not None and found not in KNOWN:
        raise NewerCatalogue(
            f"the catalogue {catalogue.engine.url.database} is at version {found}, this program knows {HEAD}; "
            "upgrade edgecase"
        )
    return found == HEAD


def _upgrade(catalogue: Catalogue) -> bool:
    from alembic import command

    config = configuration()
    # A transaction of our own: SQLite can roll back a half-made schema only where the transaction is begun explicitly.
    with catalogue.engine.execution_options(edgecase_writing=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return True
