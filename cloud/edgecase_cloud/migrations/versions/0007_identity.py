"""Devices come with certificates instead of passwords. Those that were added before have to be enrolled once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAMES = {"enrolment": 32, "token_sha256": 64, "key_sha256": 64}
TIMES = ("token_expires_at", "certificate_expires_at", "revoked_at")
LOOKED_UP = ("token_sha256", "key_sha256")


def upgrade() -> None:
    op.drop_column("devices", "password_sha256")
    for name, length in NAMES.items():
        op.add_column("devices", sa.Column(name, sa.String(length), nullable=False, server_default=sa.text("''")))
    for name in TIMES:
        op.add_column("devices", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    for name in LOOKED_UP:
        op.create_index(f"ix_devices_{name}", "devices", [name])


def downgrade() -> None:
    for name in LOOKED_UP:
        op.drop_index(f"ix_devices_{name}", "devices")
    for name in (*NAMES, *TIMES):
        op.drop_column("devices", name)
    op.add_column(
        "devices", sa.Column("password_sha256", sa.String(length=64), nullable=False, server_default=sa.text("''"))
    )
