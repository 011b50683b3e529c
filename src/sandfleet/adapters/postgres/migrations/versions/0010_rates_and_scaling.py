"""How many creates an organisation may make a second, and how a sandbox's size may change by itself.

Revision ID: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

COLUMNS = (
    ("organisations", "quota_creates_per_s", "BIGINT"),
    ("sandboxes", "scaling_locked", "BOOLEAN NOT NULL DEFAULT false"),
    ("sandboxes", "autoscale_enabled", "BOOLEAN NOT NULL DEFAULT false"),
    ("sandboxes", "autoscale_min_mib", "BIGINT"),
    ("sandboxes", "autoscale_max_mib", "BIGINT"),
)
INDEX = "CREATE INDEX sandboxes_autoscale ON sandboxes (id) WHERE autoscale_enabled AND state = 'running'"


def upgrade() -> None:
    """Add the columns; the defaults are what a server of before means."""
    for table, name, kind in COLUMNS:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    op.execute(INDEX)


def downgrade() -> None:
    """Take them away: no create is too fast, and no size changes by itself."""
    op.execute("DROP INDEX sandboxes_autoscale")
    for table, name, _ in reversed(COLUMNS):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
