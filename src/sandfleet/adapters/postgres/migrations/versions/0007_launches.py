"""Machines that were asked for, what the planners of the fleet remember, and who began a drain.

Revision ID: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

UPGRADE = (
    """
    CREATE TABLE launches (
        id TEXT NOT NULL,
        size TEXT NOT NULL,
        version TEXT NOT NULL,
        reason TEXT NOT NULL,
        state TEXT NOT NULL,
        requested_at TIMESTAMP WITH TIME ZONE NOT NULL,
        ended_at TIMESTAMP WITH TIME ZONE,
        failure TEXT,
        said TEXT NOT NULL,
        machine_id TEXT,
        worker_id TEXT,
        ending_since TIMESTAMP WITH TIME ZONE,
        gone_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (id),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
    """,
    "CREATE INDEX launches_open ON launches (id) WHERE gone_at IS NULL",
    "CREATE INDEX launches_machine ON launches (machine_id)",
    "CREATE INDEX launches_worker ON launches (worker_id) WHERE worker_id IS NOT NULL",
    """
    CREATE TABLE planner_states (
        name TEXT NOT NULL,
        value JSONB NOT NULL,
        changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    "ALTER TABLE drains ADD COLUMN owner TEXT DEFAULT 'operator' NOT NULL",
    "ALTER TABLE drains ADD COLUMN reason TEXT DEFAULT '' NOT NULL",
)
DOWNGRADE = (
    "ALTER TABLE drains DROP COLUMN reason",
    "ALTER TABLE drains DROP COLUMN owner",
    "DROP TABLE planner_states",
    "DROP TABLE launches",
)


def upgrade() -> None:
    """Create the tables; drains that stand are somebody's word."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Take them away; drains stay, and nobody knows any more who owns them."""
    for statement in DOWNGRADE:
        op.execute(statement)
