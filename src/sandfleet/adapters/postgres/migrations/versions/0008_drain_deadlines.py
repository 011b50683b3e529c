"""Drains have a deadline, may put sandboxes to sleep, and may be stuck; workers say what their hosts have.

Revision ID: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

UPGRADE = (
    "ALTER TABLE drains ADD COLUMN deadline_at TIMESTAMP WITH TIME ZONE",
    "UPDATE drains SET deadline_at = now() + interval '1 hour'",
    "ALTER TABLE drains ALTER COLUMN deadline_at SET NOT NULL",
    # Nobody was asked when these began: they only move.
    "ALTER TABLE drains ADD COLUMN hibernates BOOLEAN DEFAULT false NOT NULL",
    "ALTER TABLE drains ALTER COLUMN hibernates DROP DEFAULT",
    "ALTER TABLE drains ADD COLUMN slept INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE drains ALTER COLUMN slept DROP DEFAULT",
    "ALTER TABLE drains ADD COLUMN stuck_at TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE workers ADD COLUMN host_memory_mib BIGINT DEFAULT 0 NOT NULL",
    "ALTER TABLE workers ADD COLUMN host_cpus INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE workers ADD COLUMN host_disk_mib BIGINT DEFAULT 0 NOT NULL",
    "ALTER TABLE workers ADD COLUMN ends_at TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE workers ADD COLUMN ends_because TEXT DEFAULT '' NOT NULL",
)
DOWNGRADE = (
    "UPDATE drains SET state = 'draining' WHERE state = 'stuck'",
    "DELETE FROM drains WHERE owner NOT IN ('operator', 'capacity', 'rollout')",
    "UPDATE workers SET draining = false WHERE id NOT IN (SELECT worker_id FROM drains)",
    *(
        f"ALTER TABLE drains DROP COLUMN {name}"
        for name in ("stuck_at", "slept", "hibernates", "deadline_at")
    ),
    *(
        f"ALTER TABLE workers DROP COLUMN {name}"
        for name in ("ends_because", "ends_at", "host_disk_mib", "host_cpus", "host_memory_mib")
    ),
)


def upgrade() -> None:
    """Add it; drains that stand have an hour from now."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Take it away; a drain that an older server does not know ends."""
    for statement in DOWNGRADE:
        op.execute(statement)
