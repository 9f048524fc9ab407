"""Run by Alembic: the steps, on the connection that `upgrade` opened."""

from alembic import context

from edgecase_cloud.catalogue import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
