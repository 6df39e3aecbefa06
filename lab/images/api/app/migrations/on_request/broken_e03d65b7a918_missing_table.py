"""a revision that every database refuses, for an upgrade that fails"""

import sqlalchemy as sa
from alembic import op

revision = "e03d65b7a918"
down_revision = "288345cd01d1"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("plan", sa.String(255), nullable=False, server_default="basic"))
    op.add_column("a_table_that_is_not_there", sa.Column("plan", sa.String(255)))


def downgrade() -> None:
    op.drop_column("tenants", "plan")
