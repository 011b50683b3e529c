"""Runs migrations on the connection that `migrate.py` holds."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], target_metadata=None, transaction_per_migration=False
)
context.run_migrations()
