"""The strategies of a frame's reasons in a column of their own, so that frames are counted by them from an index."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FRAMES: Final = sa.table(
    "frames", sa.column("id", sa.String), sa.column("reasons", sa.JSON), sa.column("strategies", sa.String)
)
ORIGIN: Final = ["delivery", "device_id", "camera", "model_digest"]
ROWS_AT_ONCE: Final = 1000


def upgrade() -> None:
    op.add_column("frames", sa.Column("strategies", sa.String(), nullable=False, server_default=sa.text("''")))
    _fill(op.get_bind())
    op.drop_index("ix_frames_origin", "frames")
    op.create_index("ix_frames_origin", "frames", [*ORIGIN, "strategies"])


def downgrade() -> None:
    op.drop_index("ix_frames_origin", "frames")
    op.create_index("ix_frames_origin", "frames", ORIGIN)
    op.drop_column("frames", "strategies")


def _fill(connection: sa.Connection) -> None:
    named = sa.update(FRAMES).where(FRAMES.c.id == sa.bindparam("frame")).values(strategies=sa.bindparam("names"))
    page = sa.select(FRAMES.c.id, FRAMES.c.reasons).order_by(FRAMES.c.id).limit(ROWS_AT_ONCE)
    after = ""
    while rows := connection.execute(page.where(FRAMES.c.id > after)).all():
        after = rows[-1].id
        connection.execute(named, [{"frame": row.id, "names": _names(row.reasons)} for row in rows])


def _names(reasons: list[dict[str, object]]) -> str:
    return "\n".join(sorted({str(reason["strategy"]) for reason in reasons}))
