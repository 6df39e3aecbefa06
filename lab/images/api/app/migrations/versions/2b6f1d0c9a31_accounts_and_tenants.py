"""accounts and tenants"""

import sqlalchemy as sa
from alembic import op

revision = "2b6f1d0c9a31"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "dify_setups",
        sa.Column("version", sa.String(255), primary_key=True),
        sa.Column("setup_at", sa.DateTime(), nullable=False, server_default=sa.func.now()),
    )
    for table in ("accounts", "tenants"):
        op.create_table(
            table,
            sa.Column("id", sa.String(36), primary_key=True),
            sa.Column("name", sa.String(255), nullable=False),
            sa.Column("created_at", sa.DateTime(), nullable=False, server_default=sa.func.now()),
        )
    op.add_column("accounts", sa.Column("email", sa.String(255), nullable=False, unique=True))
    op.add_column("accounts", sa.Column("password", sa.String(255), nullable=False))
    op.add_column("tenants", sa.Column("encrypt_public_key", sa.Text(), nullable=False))


def downgrade() -> None:
    for table in ("tenants", "accounts", "dify_setups"):
        op.drop_table(table)
