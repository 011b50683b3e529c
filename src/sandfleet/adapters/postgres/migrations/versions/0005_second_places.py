"""The place that a sandbox that moves has at its other worker.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    CREATE TABLE second_places (
        sandbox_id TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        move_id TEXT NOT NULL,
        memory_mib BIGINT NOT NULL,
        cpu_count INTEGER NOT NULL,
        disk_mib BIGINT NOT NULL,
        PRIMARY KEY (sandbox_id),
        FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
    """,
    "CREATE INDEX second_places_worker ON second_places (worker_id)",
)


def upgrade() -> None:
    """Create the table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take it away; no sandbox may be moving."""
    op.execute("DROP TABLE second_places")
