"""What a device made unseen in a frame, and where the frame was taken as far as the device tells."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("frames", sa.Column("redaction", sa.JSON(), nullable=True))
    op.add_column("frames", sa.Column("position", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("frames", "position")
    op.drop_column("frames", "redaction")
