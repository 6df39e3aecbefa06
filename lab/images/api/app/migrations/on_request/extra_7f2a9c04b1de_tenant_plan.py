"""tenant plan: a revision more than 1.11.4 has, for an upgrade that works"""

import sqlalchemy as sa
from alembic import op

revision = "7f2a9c04b1de"
down_revision = "288345cd01d1"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("plan", sa.String(255), nullable=False, server_default="basic"))


def downgrade() -> None:
    op.drop_column("tenants", "plan")
