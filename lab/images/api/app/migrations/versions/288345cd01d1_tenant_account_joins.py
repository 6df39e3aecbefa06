"""tenant account joins; the number is that of the last revision in 1.11.4"""

import sqlalchemy as sa
from alembic import op

revision = "288345cd01d1"
down_revision = "c47e5a8830f2"


def upgrade() -> None:
    op.create_table(
        "tenant_account_joins",
        sa.Column("tenant_id", sa.String(36), primary_key=True),
        sa.Column("account_id", sa.String(36), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("tenant_account_joins")
