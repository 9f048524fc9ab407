"""Frames that were sent along beside a pick know which, and are not asked for any more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("frames", sa.Column("context_of", sa.String(length=32), nullable=True))
    op.create_index("ix_frames_context_of", "frames", ["context_of"])
    op.execute("UPDATE frames SET review = 'context', place = 0 WHERE review = 'open' AND strategies = 'context'")
    op.execute("DELETE FROM standings WHERE frame_id IN (SELECT id FROM frames WHERE review = 'context')")


def downgrade() -> None:
    op.execute("UPDATE frames SET review = 'open' WHERE review = 'context'")
    op.drop_index("ix_frames_context_of", "frames")
    op.drop_column("frames", "context_of")
