"""When a frame was really taken, whether it can be decoded, what is to be forgotten, and devices that share an identity."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UNSEEN = sa.text("problem IS NULL")
_NEW = ("taken_at", "recorded", "problem")


def upgrade() -> None:
    epoch = sa.text("'1970-01-01 00:00:00.000000'")
    op.add_column("frames", sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False, server_default=epoch))
    op.execute("UPDATE frames SET taken_at = captured_at")
    op.add_column("frames", sa.Column("recorded", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("frames", sa.Column("problem", sa.String(), nullable=True))
    op.add_column("looks", sa.Column("problem", sa.String(), nullable=False, server_default=sa.text("''")))
    op.add_column("devices", sa.Column("runs", sa.JSON(), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("devices", sa.Column("shared_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("ix_frames_captured_at", "frames")
    op.create_index("ix_frames_taken_at", "frames", ["delivery", "taken_at", "review", "id"])
    op.create_index("ix_frames_boot", "frames", ["device_id", "boot_id", "monotonic_ns"])
    op.create_index("ix_frames_acknowledged_at", "frames", ["delivery", "acknowledged_at"])
    op.create_index("ix_frames_unseen", "frames", ["delivery"], sqlite_where=_UNSEEN, postgresql_where=_UNSEEN)
    op.create_table(
        "forgettings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("taken_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("taken_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("frame_id", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "forgotten",
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("forgetting_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["forgetting_id"], ["forgettings.id"]),
        sa.PrimaryKeyConstraint("frame_id"),
    )
    op.create_index("ix_forgotten_forgetting_id", "forgotten", ["forgetting_id"])


def downgrade() -> None:
    op.drop_table("forgotten")
    op.drop_table("forgettings")
    for name in ("unseen", "acknowledged_at", "boot", "taken_at"):
        op.drop_index(f"ix_frames_{name}", "frames")
    op.create_index("ix_frames_captured_at", "frames", ["delivery", "captured_at", "review", "id"])
    for name in ("shared_at", "runs"):
        op.drop_column("devices", name)
    op.drop_column("looks", "problem")
    for name in reversed(_NEW):
        op.drop_column("frames", name)
