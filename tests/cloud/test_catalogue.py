"""What the catalogue promises: one schema however it was made, times with zones, and states that are states."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import StatementError

from edgecase_cloud import migrations
from edgecase_cloud.catalogue import (
    DELIVERY_MOVES,
    LATER,
    Base,
    Catalogue,
    Delivery,
    Device,
    Event,
    Job,
    JobState,
    ObjectClass,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    made = Catalogue.in_folder(tmp_path)
    migrations.upgrade(made)
    return made


def test_the_migrations_make_exactly_the_tables_of_the_models(catalogue: Catalogue) -> None:
    with catalogue.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_head_that_is_checked_without_alembic_is_the_head_of_the_steps() -> None:
    script = ScriptDirectory.from_config(migrations.configuration())
    assert script.get_current_head() == migrations.HEAD
    assert tuple(step.revision for step in script.walk_revisions())[::-1] == migrations.KNOWN


def test_an_upgrade_of_a_current_catalogue_changes_nothing(catalogue: Catalogue) -> None:
    assert migrations.version(catalogue) == migrations.HEAD
    assert not migrations.upgrade(catalogue)


def test_two_upgrades_at_once_give_one_schema(tmp_path: Path) -> None:
    done: list[bool] = []

    def upgrade() -> None:
        done.append(migrations.upgrade(Catalogue.in_folder(tmp_path)))

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False, False, False, True]


def test_a_catalogue_of_the_first_version_keeps_its_frames_and_can_go_back(tmp_path: Path) -> None:
    catalogue = Catalogue.in_folder(tmp_path)

    def step(to: str, move: Callable[[Any, str], None]) -> None:
        config = migrations.configuration()
        with catalogue.engine.execution_options(edgecase_writing=True).begin() as connection:
            config.attributes["connection"] = connection
            move(config, to)

    def frames() -> list[dict[str, Any]]:
        with catalogue.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(sa.text("SELECT * FROM frames"))]

    step("0001", command.upgrade)
    first = sa.inspect(catalogue.engine).get_indexes("frames")
    with catalogue.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO devices VALUES ('a', '2026-01-01', '', 0, '', NULL, '', '{}')"))
        columns = sa.inspect(connection).get_columns("frames")
        given = {each["name"]: "open" if each["name"] == "review" else 0 for each in columns} | {"device_id": "a"}
        given["reasons"] = '[{"strategy": "margin"}, {"strategy": "ede"}, {"strategy": "margin"}]'
        beside = given | {"id": "1", "reasons": '[{"strategy": "context", "score": -1.5}]'}
        connection.execute(sa.insert(sa.table("frames", *(sa.column(name) for name in given))), [given, beside])
    before = frames()
    step("head", command.upgrade)
    new = {"place": LATER, "context_of": None, "redaction": None, "position": None}
    new |= {"taken_at": 0, "recorded": 0, "problem": None}
    assert frames() == [
        before[0] | new | {"strategies": "ede\nmargin"},
        before[1] | new | {"strategies": "context", "review": "context"},
    ]
    with catalogue.session() as session:
        device = session.get_one(Device, "a")
    assert (device.enrolment, device.token_sha256, device.key_sha256, device.revoked_at) == ("", "", "", None)
    step("0001", command.downgrade)
    assert frames() == before
    assert sa.inspect(catalogue.engine).get_indexes("frames") == first
    assert {"looks", "standings", "forgettings", "forgotten"}.isdisjoint(sa.inspect(catalogue.engine).get_table_names())
    step("head", command.upgrade)
    with catalogue.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_step_that_fails_leaves_the_catalogue_as_it_was(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalogue.db") as connection:
        connection.execute("CREATE TABLE frames (mine INTEGER)")  # the step will trip over this one
    catalogue = Catalogue.in_folder(tmp_path)
    with pytest.raises(sa.exc.OperationalError, match="frames already exists"):
        migrations.upgrade(catalogue)
    assert sa.inspect(catalogue.engine).get_table_names() == ["frames"]


def test_a_catalogue_of_a_newer_program_is_refused_with_a_cure(catalogue: Catalogue) -> None:
    with catalogue.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrations.NewerCatalogue, match="upgrade edgecase"):
        migrations.upgrade(catalogue)


def test_what_is_committed_survives_a_power_cut_because_sqlite_syncs_it(catalogue: Catalogue) -> None:
    with catalogue.engine.connect() as connection:
        assert connection.scalar(sa.text("PRAGMA synchronous")) == 2
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(sa.text("PRAGMA foreign_keys")) == 1


def test_times_come_back_aware_and_in_utc(catalogue: Catalogue) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    with catalogue.session.begin() as session:
        session.add(Device(id="a", added_at=elsewhere))
    with catalogue.session() as session:
        found = session.get_one(Device, "a").added_at
    assert found == NOW
    assert found.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(StatementError, match="without a zone"), catalogue.session.begin() as session:
        session.add(Device(id="a", added_at=NOW.replace(tzinfo=None)))


def test_a_state_comes_back_as_a_state_and_nothing_else_goes_in(catalogue: Catalogue) -> None:
    with catalogue.session.begin() as session:
        session.add(Job(kind="retrain", created_at=NOW, request={}))
    with catalogue.session() as session:
        assert session.scalars(sa.select(Job)).one().state is JobState.QUEUED
    with pytest.raises(StatementError, match="'odd' is not a valid JobState"), catalogue.session.begin() as session:
        session.add(Job(kind="retrain", created_at=NOW, request={}, state="odd"))


def test_every_state_of_delivery_has_its_moves_and_the_ends_have_none() -> None:
    assert set(DELIVERY_MOVES) == set(Delivery)
    ends = {state for state, moves in DELIVERY_MOVES.items() if not moves}
    assert ends == {Delivery.DECLINED, Delivery.REJECTED, Delivery.EXPIRED}


def test_two_writers_that_read_first_never_work_from_the_same_reading(catalogue: Catalogue) -> None:
    """The class table is appended to by ingest and by imports; each index must be given once."""

    def append(names: range) -> None:
        for name in names:
            with catalogue.writing.begin() as session:
                used = session.scalar(sa.select(sa.func.count()).select_from(ObjectClass)) or 0
                session.add(ObjectClass(index=used, name=str(name)))

    threads = [threading.Thread(target=append, args=(range(start, start + 25),)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with catalogue.session() as session:
        assert list(session.scalars(sa.select(ObjectClass.index).order_by(ObjectClass.index))) == list(range(75))


def test_an_error_inside_a_transaction_leaves_nothing_behind(catalogue: Catalogue) -> None:
    def fail() -> None:
        with catalogue.writing.begin() as session:
            session.add(Event(at=NOW, kind="test", subject="", detail={}))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with catalogue.session() as session:
        assert session.scalars(sa.select(Event)).all() == []
