"""The few tables of Dify's schema that setting up, logging in and uploading a file need."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from stand_in.settings import Settings


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
migrate = Migrate()


def new_id() -> str:
    return str(uuid4())


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class DifySetup(Base):
    __tablename__ = "dify_setups"
    version: Mapped[str] = mapped_column(primary_key=True)
    setup_at: Mapped[datetime] = mapped_column(default=now)


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    email: Mapped[str]
    password: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    encrypt_public_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class TenantAccountJoin(Base):
    __tablename__ = "tenant_account_joins"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]


class UploadFile(Base):
    __tablename__ = "upload_files"
    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[str]
    name: Mapped[str]
    key: Mapped[str]
    size: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)


def database_url(settings: Settings) -> URL:
    connection = settings.database
    return URL.create(
        "postgresql+psycopg2" if settings.is_postgres else "mysql+pymysql",
        username=connection["user"],
        password=connection["password"],
        host=connection["host"],
        port=connection["port"],
        database=connection["dbname" if settings.is_postgres else "database"],
    )


def extra_connect_arguments(settings: Settings) -> dict[str, object]:
    in_url = {"user", "password", "host", "port", "dbname", "database"}
    return {name: value for name, value in settings.database.items() if name not in in_url}
