"""upload files"""

import sqlalchemy as sa
from alembic import op

revision = "c47e5a8830f2"
down_revision = "2b6f1d0c9a31"


def upgrade() -> None:
    op.create_table(
        "upload_files",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False, server_default=sa.func.now()),
    )


def downgrade() -> None:
    op.drop_table("upload_files")
