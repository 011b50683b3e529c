"""Brings the schema up to date; safe to run from many replicas at once."""

from __future__ import annotations

import importlib.resources

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from sandfleet.adapters.postgres.database import Database

_MIGRATION_LOCK = 7_305_601_001
"""Key of the PostgreSQL advisory lock that lets one replica migrate at a time."""


async def migrate(database: Database) -> None:
    """Apply the missing migrations in one transaction, under the lock.

    The lock belongs to the transaction: a replica that dies half-way leaves neither
    a lock nor half a schema behind.
    """
    async with database.transaction(patient=True) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    location = importlib.resources.files("sandfleet.adapters.postgres") / "migrations"
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
