"""The label queue: places and their reasons, what a batch is chosen by, and the indices that the queue's orders need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LATER = 0


def upgrade() -> None:
    op.add_column("frames", sa.Column("place", sa.Integer(), nullable=False, server_default=sa.text(str(LATER))))
    for name in ("captured_at", "delivery", "review", "score"):
        op.drop_index(f"ix_frames_{name}", "frames")
    op.create_index("ix_frames_place", "frames", ["delivery", "review", "place", "score", "id"])
    op.create_index("ix_frames_score", "frames", ["delivery", "score", "review", "id"])
    op.create_index("ix_frames_captured_at", "frames", ["delivery", "captured_at", "review", "id"])
    op.create_index("ix_frames_origin", "frames", ["delivery", "device_id", "camera", "model_digest"])
    op.create_table(
        "looks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.Column("features_scale", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["frame_id"], ["frames.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("frame_id"),
    )
    op.create_table(
        "standings",
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("distance", sa.Double(), nullable=True),
        sa.Column("typicality", sa.Double(), nullable=False),
        sa.Column("cost_s", sa.Double(), nullable=False),
        sa.Column("quota", sa.String(length=16), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("repeats", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["frame_id"], ["frames.id"]),
        sa.PrimaryKeyConstraint("frame_id"),
    )


def downgrade() -> None:
    op.drop_table("standings")
    op.drop_table("looks")
    for name in ("origin", "captured_at", "score", "place"):
        op.drop_index(f"ix_frames_{name}", "frames")
    op.drop_column("frames", "place")
    for name in ("captured_at", "delivery", "review", "score"):
        op.create_index(f"ix_frames_{name}", "frames", [name])
